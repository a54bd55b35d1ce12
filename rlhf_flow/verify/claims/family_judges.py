"""Claims of scorers that ask a policy of the run: what follows from an answer, or which of two answers is better."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rlhf_flow.games.equilibrium import tilted
from rlhf_flow.games.game import bradley_terry
from rlhf_flow.metrics.stats import sigmoid
from rlhf_flow.objective.dpo import DPO
from rlhf_flow.objective.rebel import REBEL
from rlhf_flow.protocols import Scorer
from rlhf_flow.scorer.asks_policy import AsksPolicy
from rlhf_flow.scorer.functions.rule import Rule
from rlhf_flow.scorer.llm.self_judge import SelfJudge
from rlhf_flow.scorer.wrappers.hindsight import Hindsight
from rlhf_flow.selector.all_pairs import AllPairs
from rlhf_flow.specs import Place
from rlhf_flow.types import Message, Rollouts, SamplingParams, Scored
from rlhf_flow.verify.claim import Claim, Finding, above, below
from rlhf_flow.verify.play import play

PROMISES = (0.2, 0.5, 1.0)  # what a customer expects of the answers "0", "1" and "2"
OUTCOMES = (1.0, 0.6, 0.0)  # what the customer gets
BY_REWARD = AllPairs(label="soft", worth="utility")
VOTES = 400  # of a self-judge: their mean is a probability to 1 / 800

Reply = Callable[[Sequence[Message], Rollouts, str], list[str]]  # chat, the answers that are scored, role


@dataclass(frozen=True)
class Asking:
    """A scorer that asks a policy, with a policy that replies by a rule."""

    of: AsksPolicy
    reply: Reply

    def score(self, rollouts: Rollouts) -> Scored:
        def answers(chats: Sequence[Sequence[Message]], role: str, draw: SamplingParams) -> list[list[str]]:
            return [self.reply(chat, rollouts, role)[: draw.n] for chat in chats]

        return self.of.score_with(rollouts, answers)

    def close(self) -> None: ...


def asking(spec: Hindsight | SelfJudge, reply: Reply) -> Asking:
    opened = spec.open(Place())
    assert isinstance(opened, AsksPolicy)
    return Asking(opened, reply)


def satisfaction(prompt: Sequence[Message], answer: str, meta: object) -> float:
    """A customer's: by what happened if the text says so, else by what the answer promises."""
    said, _, happened = answer.partition("What happened next: ")
    return float(happened.rstrip(")")) if happened else PROMISES[int(said.split()[0])]


def hindsight(seed: int) -> Iterator[Finding]:
    """The answer that promises most gives least. A world model that tells half of the truth is enough."""
    eta, reference, outcomes = 3.0, np.array([0.3, 0.4, 0.3]), np.array(OUTCOMES)
    game = bradley_terry(outcomes, reference)
    rule = Rule(function=f"{__name__}.satisfaction")

    def learned(judge: Scorer) -> np.ndarray:
        policy: np.ndarray = play(game, objective=REBEL(eta), rounds=1, selector=BY_REWARD, judge=judge).of()[-1]
        return policy

    def world(blur: float) -> Reply:
        """What happens, drawn towards the mean of all outcomes by a share."""

        def reply(chat: Sequence[Message], rollouts: Rollouts, role: str) -> list[str]:
            outcome = OUTCOMES[int(chat[-2].content.split()[0])]
            return [repr((1 - blur) * outcome + blur * float(outcomes.mean()))]

        return reply

    told = learned(asking(Hindsight(rule), world(0.0)))
    blurred = learned(asking(Hindsight(rule), world(0.5)))
    immediate = learned(rule.open(Place()))
    what = "distance to the optimum for what the customer gets"
    yield below(f"{what}, in hindsight", np.abs(told - tilted(reference, eta * outcomes)).max(), 1e-6)
    yield above("what the customer gets over the start's, in hindsight", (told - reference) @ outcomes, 0.2)
    yield above("the same if what is told is half of the truth", (blurred - reference) @ outcomes, 0.1)
    yield below("the same by what the answers promise", (immediate - reference) @ outcomes, -0.2)
    yield above(
        f"{what}, by what the answers promise", np.abs(immediate - tilted(reference, eta * outcomes)).max(), 0.3
    )


def judged_by(judgement: Callable[[int, int, Rollouts, str], float]) -> Reply:
    """Replies of which a share `judgement(answer shown first, shown second, ..., role)` says A, the others B."""

    def reply(chat: Sequence[Message], rollouts: Rollouts, role: str) -> list[str]:
        first, second = re.findall(r"\[Answer [AB][^\]]*\]\n(\d+)\n", chat[-1].content)
        said = round(VOTES * judgement(int(first), int(second), rollouts, role))
        return ["A"] * said + ["B"] * (VOTES - said)

    return reply


def self_judge(seed: int) -> Iterator[Finding]:
    """A policy that says A too often, and one that prefers what it would write itself."""
    worth, reference, beta = np.array([0.0, 0.4, 1.0]), np.array([0.5, 0.3, 0.2]), 2.0
    game = bradley_terry(worth, reference)

    def biased(bias: float) -> Reply:
        return judged_by(lambda first, second, rollouts, role: float(sigmoid(worth[first] - worth[second] + bias)))

    def learned(reply: Reply, rounds: int, by: str = "policy") -> np.ndarray:
        judge = asking(SelfJudge(by=by, votes=VOTES, temperature=1.0), reply)
        policies: np.ndarray = play(game, objective=DPO(beta), rounds=rounds, judge=judge).of()
        return policies[-1]

    fair, twice = learned(biased(0.0), 1), learned(biased(1.5), 1)
    yield below(
        "distance to the optimum of a judge without a favourite place",
        np.abs(fair - tilted(reference, worth / beta)).max(),
        0.01,
    )
    order = np.argsort(np.log(twice / reference))
    yield below(
        "answers out of order if it favours the first place by 1.5 nats", float((order != np.arange(3)).sum()), 0.5
    )
    yield below("change of the policy if it always says A", np.abs(learned(biased(50.0), 1) - reference).max(), 1e-8)

    def own(first: int, second: int, rollouts: Rollouts, role: str) -> float:
        (group,) = rollouts.responses
        p = reference if role == "start" else np.array([one.mass for one in group])
        return float(p[first] / (p[first] + p[second]))

    for by, power, what in (
        ("start", 1 + 1 / beta, "1 + 1 / beta"),
        ("policy", beta / (beta - 1), "beta / (beta - 1)"),
    ):
        limit = reference**power / (reference**power).sum()
        far = np.abs(learned(judged_by(own), 8, by) - limit).max()
        yield below(f"distance to the start to the power of {what}, if {by} judges by its own likelihood", far, 0.01)


CLAIMS = (
    Claim(
        "F32",
        "RLHS",
        "feedback on what follows aligns where that on promises misleads",
        "Liang et al. 2025, arXiv:2501.08617",
        hindsight,
    ),
    Claim(
        "F33",
        "self-judge",
        "places of answers cancel, and the policy of the round judges",
        "Yuan et al. 2024, arXiv:2401.10020",
        self_judge,
        seconds=3,
    ),
)
