"""Scorers that ask a policy of the run, with a policy that answers by a rule."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from rlhf_flow.scorer.asks_policy import AsksPolicy
from rlhf_flow.scorer.functions.rule import Rule
from rlhf_flow.scorer.llm.self_judge import SelfJudge
from rlhf_flow.scorer.wrappers.hindsight import Hindsight
from rlhf_flow.specs import Place
from rlhf_flow.types import Message, SamplingParams, Scored
from tests.scorer.conftest import rollouts

HERE = Place()
ANSWERS = rollouts(["short", "a longer answer", "an answer, the longest of all"])


class Policy:
    """Replies by `rule` of the last message, and notes what it was asked."""

    def __init__(self, rule: object) -> None:
        self.rule, self.asked = rule, list[tuple[str, str, SamplingParams]]()

    def __call__(self, chats: Sequence[Sequence[Message]], role: str, draw: SamplingParams) -> list[list[str]]:
        self.asked += [(chat[-1].content, role, draw) for chat in chats]
        return [[self.rule(chat)] * draw.n for chat in chats]  # type: ignore[operator]


def scored(spec: SelfJudge | Hindsight, policy: Policy) -> Scored:
    opened = spec.open(HERE)
    assert isinstance(opened, AsksPolicy)
    with pytest.raises(ValueError, match="asks a policy of the run, which this command has not"):
        opened.score(ANSWERS)
    return opened.score_with(ANSWERS, policy)


def longer(chat: Sequence[Message]) -> str:
    """The verdict of a policy that likes the longer of two answers, whichever is shown first."""
    text = chat[-1].content
    places = {
        answer.text: text.index(f"\n{answer.text}\n") for answer in ANSWERS.responses[0] if f"\n{answer.text}\n" in text
    }
    first, second = sorted(places, key=places.__getitem__)
    return "A" if len(first) > len(second) else "B"


def test_a_policy_compares_its_own_answers_in_both_orders() -> None:
    policy = Policy(longer)
    result = scored(SelfJudge(votes=2, temperature=0.7), policy)
    assert np.sign(result.utility[0].argsort()).tolist() == [0, 1, 1]
    assert result.wins[0, 2, 0] > 0.5 > result.wins[0, 0, 1]
    assert result.counts["judge/queries"] == 3 and result.counts["judge/unclear"] == 0
    assert len(policy.asked) == 6 and {(role, draw.n) for _, role, draw in policy.asked} == {("policy", 2)}


def test_replies_without_a_verdict_are_counted_and_give_no_label() -> None:
    result = scored(SelfJudge(by="start"), Policy(lambda chat: "Both are fine."))
    assert result.counts["judge/unclear"] == 6
    assert np.isnan(result.wins[0][~np.eye(3, dtype=bool)]).all()


def test_a_policy_that_says_a_in_both_orders_is_inconsistent() -> None:
    result = scored(SelfJudge(), Policy(lambda chat: "A"))
    assert result.pair_flags["inconsistent"][0][~np.eye(3, dtype=bool)].all()


def last_word(prompt: object, answer: str, meta: object) -> float:
    return float(answer.rstrip(")").split()[-1])


def test_the_base_reads_what_happened_next_and_the_answers_stay_as_they_were() -> None:
    policy = Policy(lambda chat: f"It ended with {len(chat[-2].content)}")
    spec = Hindsight(Rule(function="tests.scorer.test_asks_policy.last_word"), request="What now?")
    result = scored(spec, policy)
    assert result.utility[0].tolist() == [len(one.text) for one in ANSWERS.responses[0]]
    assert result.rollouts is ANSWERS
    assert {asked for asked, _, _ in policy.asked} == {"What now?"}
    assert {role for _, role, _ in policy.asked} == {"start"}


def test_a_base_that_asks_a_policy_too_is_refused() -> None:
    with pytest.raises(ValueError, match=r"scorer\.base must be a scorer that asks no policy"):
        Hindsight(SelfJudge()).open(HERE)
