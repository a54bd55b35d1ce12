"""The policy judges its own answers. Self-Rewarding Language Models, Yuan et al. 2024, arXiv:2401.10020.

It compares two answers as an LLM judge does, in both orders, with the engine of the run instead of an endpoint.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rlhf_flow.scorer.asks_policy import ROLES, Answers
from rlhf_flow.scorer.fields import check_fields
from rlhf_flow.scorer.llm.parse_reply import Reply, preference
from rlhf_flow.scorer.llm.request import MARK, digest, question, talk, template
from rlhf_flow.scorer.pair_schedule import BothOrders, PairVerdict, settled
from rlhf_flow.scorer.pairwise import Match
from rlhf_flow.specs import Place
from rlhf_flow.types import Message, Rollouts, SamplingParams, Scored


@dataclass(frozen=True)
class SelfJudge(BothOrders):
    """Two distinct answers to a prompt are compared once, in both orders, by a policy of the run."""

    by: str = "policy"  # policy (the one whose answers are compared) | start (of the run)
    template: str = "pairwise"  # or pairwise_reasons, or a file, as of scorer=judge
    votes: int = 1  # replies to each question, whose verdicts are averaged
    temperature: float = 0.0  # of the replies; above 0 with several votes
    max_tokens: int = 16  # of a reply

    intransitive: ClassVar[bool] = True
    loads_model: ClassVar[bool] = False  # the engine does
    cache_format: ClassVar[None] = None  # the judge changes with the policy

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fields(self, ("by", f"one of {', '.join(ROLES)}", self.by in ROLES))
        self._draw()

    @property
    def gives_probabilities(self) -> bool:
        return self.votes > 1

    def fingerprint(self) -> str:
        """Hash of the template."""
        return digest(self._template().replace(MARK, ""))

    def check(self) -> None:
        """Raise ValueError if the template cannot be read."""
        self._template()

    def open(self, place: Place) -> SelfJudging:
        """Raises ValueError if the template cannot be read."""
        return SelfJudging(self, self._template(), self._draw())

    def _draw(self) -> SamplingParams:
        return SamplingParams("judge", n=self.votes, temperature=self.temperature, max_tokens=self.max_tokens)

    def _template(self) -> str:
        return template(self.template, needs=("conversation", "first", "second"), takes=("mark",))


@dataclass(frozen=True)
class SelfJudging:
    """An opened self-judge."""

    spec: SelfJudge
    template: str
    draw: SamplingParams

    def score(self, rollouts: Rollouts) -> Scored:
        """Raises ValueError: it needs the policies of a run."""
        raise ValueError("scorer=self_judge asks a policy of the run, which this command has not. Fix: scorer=judge.")

    def score_with(self, rollouts: Rollouts, answers: Answers) -> Scored:
        """A match without a clear verdict in both orders is an abstention. Flag: `inconsistent`, as of scorer=judge."""
        counts = {"judge/queries": 0, "judge/unclear": 0}

        def ask(matches: Sequence[Match]) -> list[PairVerdict]:
            asked = [self._question(match, swapped) for match in matches for swapped in (False, True)]
            replies = answers([(Message("user", text),) for text in asked], self.spec.by, self.draw)
            shown_first = [_mean(texts) for texts in replies]
            counts["judge/queries"] += len(matches)
            counts["judge/unclear"] += sum(map(math.isnan, shown_first))
            return [
                settled(forth, back, inconsistent=self.spec.inconsistent)
                for forth, back in zip(shown_first[::2], shown_first[1::2], strict=True)
            ]

        return self.spec.compare(rollouts, ask, marks=["inconsistent"], counts=counts)

    def close(self) -> None: ...

    def _question(self, match: Match, swapped: bool) -> str:
        first, second = (match.second, match.first) if swapped else (match.first, match.second)
        text, _ = question(
            self.template, conversation=talk(match.prompt.messages), first=first.text, second=second.text
        )
        return text


def _mean(replies: Sequence[str]) -> float:
    """P(the answer shown first is better), the mean of the clear verdicts; NaN if there is none."""
    read = [p for reply in replies if (p := preference(Reply(reply))) is not None]
    return sum(read) / len(read) if read else math.nan
