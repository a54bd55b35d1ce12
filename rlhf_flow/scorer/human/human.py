"""Human annotators: every two distinct answers are a question, which `rlhf-flow label` shows in a browser."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np

from rlhf_flow.metrics.annotator_agreement import agreement
from rlhf_flow.protocols import Scorer
from rlhf_flow.scorer.fields import check_fields
from rlhf_flow.scorer.human.annotations import Annotations, Question, Standing
from rlhf_flow.scorer.pairwise import Match, both_views, matches
from rlhf_flow.specs import Place
from rlhf_flow.system.cancellation import check_cancelled
from rlhf_flow.system.output import tell
from rlhf_flow.types import Rollouts, Scored

Pair: TypeAlias = tuple[str, str]  # the ids of two responses

STATUS_SECONDS = 60.0  # between two status lines of a waiting run


@dataclass(frozen=True)
class Human:
    """Asks annotators which of two answers is better, and waits for their labels: `rlhf-flow label RUN`.

    P(the first beats the second) is the mean of the verdicts: 1, 0, or 1/2 for a tie and for two bad answers. A pair
    that an annotator skips stays open for the others; if `annotators` of them skip it (at least two, if others are
    active), it is an abstention. Equal texts tie without a question. A question that was labelled in an earlier round
    keeps its labels and is not asked again.
    """

    folder: str = "${run_dir}/labels"  # of the labels; not on a network drive
    annotators: int = 1  # verdicts per pair, of different annotators
    deadline: float | None = None  # seconds to wait for a pair since it was first asked; null: no limit
    base: Any = field(default=None, metadata={"optional": True})  # scores overdue pairs; null: they are abstentions
    poll: float = 2.0  # seconds between two reads of the labels
    guidelines: str | None = None  # for annotators: a Markdown file, or the text itself

    intransitive: ClassVar[bool] = True
    cache_format: ClassVar[None] = None  # the labels are stored in `folder`

    def __post_init__(self) -> None:
        deadline = self.deadline is None or 0 <= self.deadline < math.inf
        check_fields(
            self,
            ("folder", "a folder", bool(self.folder.strip())),
            ("annotators", ">= 1", self.annotators >= 1),
            ("deadline", ">= 0 and finite, in seconds, or null to wait for ever", deadline),
            ("poll", "> 0 and finite, in seconds", 0 < self.poll < math.inf),
        )
        if self.base is not None and self.deadline is None:
            raise ValueError(
                "scorer.deadline must be a number of seconds if scorer.base scores overdue pairs, "
                "got None. Fix: set it, or leave scorer.base out to wait without a deadline."
            )

    @property
    def loads_model(self) -> bool:
        return self.base is not None and bool(self.base.loads_model)

    def fingerprint(self) -> str:
        """That of the base; annotators have none."""
        return "people" if self.base is None else f"people, then {self.base.fingerprint()}"

    def check(self) -> None:
        """Raise ValueError if the guidelines cannot be read, or the base's check does."""
        self._guidelines()
        if self.base is not None:
            self.base.check()

    def open(self, place: Place) -> Panel:
        """Open the labels, and the base if there is one. Raises ValueError if the folder cannot be written."""
        return self.wrap(None if self.base is None else self.base.open(place))

    def wrap(self, scorer: Scorer | None) -> Panel:
        """The panel, given the opened `base`. Raises ValueError if the folder cannot be written."""
        annotations = Annotations(Path(self.folder))
        annotations.tell(self._guidelines())
        return Panel(self, annotations, scorer)

    def _guidelines(self) -> str:
        if self.guidelines is None:
            return ""
        if not self.guidelines.endswith((".md", ".txt")) or "\n" in self.guidelines:
            return self.guidelines
        try:
            return Path(self.guidelines).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ValueError(
                f"scorer.guidelines={self.guidelines} cannot be read: {error}. Fix: name a Markdown file in UTF-8."
            ) from error


@dataclass(frozen=True)
class Panel:
    """The opened labels, with the base."""

    spec: Human
    annotations: Annotations
    base: Scorer | None

    def score(self, rollouts: Rollouts) -> Scored:
        """Ask about every match, and wait until each is settled or overdue.

        The flag `overdue` marks pairs without enough verdicts at their deadline; they get the base's verdict, or none.
        Scoring them again does not wait, and reads the labels that have arrived since. `judge/queries` counts pairs
        settled during the call, `judge/cached` those settled before.
        """
        asked = matches(rollouts)
        questions = [Question(match.prompt.messages, match.first.text, match.second.text) for match in asked]
        self.annotations.ask(questions, needed=self.spec.annotators, deadline=self.spec.deadline)
        before = sum(one.settled for one in self.annotations.standings(questions))
        standings = self._wait(questions)
        late = [match for match, one in zip(asked, standings, strict=True) if not one.settled]
        substitutes, counts = self._base_verdicts(rollouts, late)
        beats = [
            _mean(one) if one.settled else substitutes.get(_ids(match), math.nan)
            for match, one in zip(asked, standings, strict=True)
        ]
        utility, wins = both_views(rollouts, beats)  # [B, N], [B, N, N]
        return Scored(
            rollouts,
            utility=utility,
            wins=wins,
            pair_flags={"overdue": _flags(rollouts, late)} if late else {},
            counts={
                **counts,
                "judge/queries": sum(one.settled for one in standings) - before,
                "judge/cached": before,
                "judge/abstained": int(np.isnan(beats).sum()),
                "judge/overdue": len(late),
            },
            batch_metrics=_agreement(standings),
        )

    def close(self) -> None:
        """Close the labels, and the base."""
        self.annotations.close()
        if self.base is not None:
            self.base.close()

    def _wait(self, questions: Sequence[Question]) -> list[Standing]:
        """The standings once each question is settled or overdue."""
        printed = -math.inf
        while True:
            standings, now = self.annotations.standings(questions), time.time()
            waiting = sum(not one.settled and not one.overdue(now) for one in standings)
            if not waiting:
                return standings
            if time.monotonic() >= printed + STATUS_SECONDS:
                printed = time.monotonic()
                folder = Path(self.spec.folder)
                run = folder.parent if folder.name == "labels" else folder
                command = f"rlhf-flow label {shlex.quote(str(run))}"
                tell(f"waiting for people: {waiting} of {len(standings)} pairs are open. To label: {command}")
            check_cancelled()
            time.sleep(self.spec.poll)

    def _base_verdicts(self, rollouts: Rollouts, late: Sequence[Match]) -> tuple[dict[Pair, float], Mapping[str, int]]:
        """P(first beats second) of overdue pairs by the base, and its counts."""
        if self.base is None or not late:
            return {}, {}
        rows = {b: row for row, b in enumerate(sorted({match.b for match in late}))}
        some = replace(
            rollouts,
            prompts=tuple(rollouts.prompts[b] for b in rows),
            responses=tuple(rollouts.responses[b] for b in rows),
        )
        scored = self.base.score(some)
        column = {one.id: k for responses in some.responses for k, one in enumerate(responses)}
        wins = {
            _ids(match): float(scored.wins[rows[match.b], column[match.first.id], column[match.second.id]])
            for match in late
        }
        return wins, scored.counts


def _ids(match: Match) -> Pair:
    return match.first.id, match.second.id


def _mean(one: Standing) -> float:
    """NaN if the question was withdrawn."""
    return math.nan if one.skipped else sum(one.verdicts) / len(one.verdicts)


def _flags(rollouts: Rollouts, late: Sequence[Match]) -> np.ndarray:
    """bool [B, N, N]: the responses with the texts of these pairs, both ways."""
    n = len(rollouts.responses[0])
    flags = np.zeros((len(rollouts.prompts), n, n), dtype=bool)
    for match in late:
        texts = np.array([response.text for response in rollouts.responses[match.b]], dtype=object)
        first, second = texts == match.first.text, texts == match.second.text  # [N]
        flags[match.b] |= np.outer(first, second) | np.outer(second, first)
    return flags


def _agreement(standings: Sequence[Standing]) -> dict[str, float]:
    found = agreement([one.verdicts for one in standings])
    if found is None:
        return {}
    metrics = {"annotator_agreement": found.share}
    return metrics if found.alpha is None else {**metrics, "annotator_alpha": found.alpha}
