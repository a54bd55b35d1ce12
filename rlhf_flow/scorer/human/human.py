"""People as the judge: every two answers are a question, which `rlhf-flow label` puts before them in a browser."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from rlhf_flow.metrics.annotator_agreement import agreement
from rlhf_flow.protocols import Scorer
from rlhf_flow.scorer.human.annotations import Annotations, Question, Standing
from rlhf_flow.scorer.matches import Match, both_views, matches
from rlhf_flow.specs import Place
from rlhf_flow.system.cancellation import heed
from rlhf_flow.types import Rollouts, Scored

Pair: TypeAlias = tuple[str, str]  # the ids of two responses

TELL_SECONDS = 60.0  # between two lines that say how many questions are open


@dataclass(frozen=True)
class Human:
    """Asks people which of two answers is better, and waits for them: `rlhf-flow label RUN` is where they say it.

    P(the first beats the second) is the mean of what the annotators say: 1, 0, or 1/2 for a tie and for two bad
    answers. A pair that an annotator skips is left to the others who are labelling. One that as many have skipped as
    verdicts were needed, and two at least if there are others, is abstained from. Equal texts are 1/2, and are not
    asked about. What was asked before, in any round, keeps what was said, and is not asked again.
    """

    folder: str = "${run_dir}/labels"  # of the labels; not on a network's drive
    annotators: int = 1  # verdicts that a pair needs, of as many people
    deadline: float | None = None  # seconds that a pair is waited for, since it was first asked; null: for ever
    base: Any = field(
        default=None, metadata={"optional": True}
    )  # the scorer that says the rest then; null: nobody does
    poll: float = 2.0  # seconds between two looks at the labels
    guidelines: str | None = None  # what annotators are told: a Markdown file, or the text itself

    def __post_init__(self) -> None:
        for key, rule, ok in (
            ("folder", "a folder", bool(self.folder.strip())),
            ("annotators", ">= 1", self.annotators >= 1),
            ("deadline", ">= 0 and finite, in seconds, or null to wait for ever",
             self.deadline is None or 0 <= self.deadline < math.inf),
            ("poll", "> 0 and finite, in seconds", 0 < self.poll < math.inf),
        ):  # fmt: skip
            if not ok:
                raise ValueError(f"scorer.{key} must be {rule}, got {vars(self)[key]!r}")
        if self.base is not None and self.deadline is None:
            raise ValueError(
                "scorer.deadline must be a number of seconds where scorer.base says what people have not said by then, "
                "got None. Set it, or leave scorer.base out to wait for ever."
            )

    @property
    def intransitive(self) -> bool:
        return True

    @property
    def loads_model(self) -> bool:
        return self.base is not None and bool(self.base.loads_model)

    @property
    def cache_format(self) -> None:
        return None  # it keeps them itself

    def fingerprint(self) -> str:
        """That of the scorer for the rest. Nobody can say what people are."""
        return "people" if self.base is None else f"people, then {self.base.fingerprint()}"

    def check(self) -> None:
        """As of the scorer for the rest. Raises ValueError if the file with the guidelines is not there."""
        self._guidelines()
        if self.base is not None:
            self.base.check()

    def open(self, place: Place) -> Panel:
        """Open the labels, and the scorer for the rest there. Raises ValueError where the folder cannot be written."""
        rest = None if self.base is None else self.base.open(place)
        annotations = Annotations(Path(self.folder))
        annotations.tell(self._guidelines())
        return Panel(self, annotations, rest)

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
    """Annotators at work."""

    spec: Human
    annotations: Annotations
    rest: Scorer | None

    def score(self, rollouts: Rollouts) -> Scored:
        """Ask about every two different answers to a prompt, and wait until each pair is settled or overdue.

        `overdue` marks the pairs without enough verdicts at their deadline: their verdict is that of the scorer for the
        rest, or none. To score them again waits no more, and finds what was said since. A query is a pair that people
        settled while they were waited for; one that they had settled before is cached.
        """
        asked = matches(rollouts)
        questions = [Question(match.prompt.messages, match.first.text, match.second.text) for match in asked]
        self.annotations.ask(questions, needed=self.spec.annotators, deadline=self.spec.deadline)
        before = sum(one.settled for one in self.annotations.standings(questions))
        said = self._waited(questions)
        late = [match for match, one in zip(asked, said, strict=True) if not one.settled]
        instead, counts = self._instead(rollouts, late)
        beats = [
            _mean(one) if one.settled else instead.get(_ids(match), math.nan)
            for match, one in zip(asked, said, strict=True)
        ]
        utility, wins = both_views(rollouts, beats)  # [B, N], [B, N, N]
        return Scored(
            rollouts,
            utility=utility,
            wins=wins,
            pair_flags={"overdue": _marked(rollouts, late)} if late else {},
            counts={
                **counts,
                "judge/queries": sum(one.settled for one in said) - before,
                "judge/cached": before,
                "judge/abstained": int(np.isnan(beats).sum()),
                "judge/overdue": len(late),
            },
            batch_metrics=_agreement(said),
        )

    def close(self) -> None:
        """Close the labels, and the scorer for the rest."""
        self.annotations.close()
        if self.rest is not None:
            self.rest.close()

    def _waited(self, questions: Sequence[Question]) -> list[Standing]:
        """What is said of each once nothing is waited for."""
        told = -math.inf
        while True:
            said, now = self.annotations.standings(questions), time.time()
            waiting = sum(not one.settled and not one.overdue(now) for one in said)
            if not waiting:
                return said
            if time.monotonic() >= told + TELL_SECONDS:
                told = time.monotonic()
                folder = Path(self.spec.folder)
                run = folder.parent if folder.name == "labels" else folder
                command = f"rlhf-flow label {shlex.quote(str(run))}"
                print(f"waiting for people: {waiting} of {len(said)} pairs are open. To label: {command}", flush=True)
            heed()
            time.sleep(self.spec.poll)

    def _instead(self, rollouts: Rollouts, late: Sequence[Match]) -> tuple[dict[Pair, float], Mapping[str, int]]:
        """P(first beats second) of overdue pairs, as the scorer for the rest says it; and its counts."""
        if self.rest is None or not late:
            return {}, {}
        prompts = sorted({match.b for match in late})
        some = replace(
            rollouts,
            prompts=tuple(rollouts.prompts[b] for b in prompts),
            responses=tuple(rollouts.responses[b] for b in prompts),
        )
        thought = self.rest.score(some)
        place = {one.id: k for responses in some.responses for k, one in enumerate(responses)}
        at = {b: row for row, b in enumerate(prompts)}
        said = {
            _ids(match): float(thought.wins[at[match.b], place[match.first.id], place[match.second.id]])
            for match in late
        }
        return said, thought.counts


def _ids(match: Match) -> Pair:
    return match.first.id, match.second.id


def _mean(one: Standing) -> float:
    """NaN where people would not say."""
    return math.nan if one.skipped else sum(one.verdicts) / len(one.verdicts)


def _marked(rollouts: Rollouts, late: Sequence[Match]) -> np.ndarray:
    """bool [B, N, N]: the answers with the texts of these pairs, both ways."""
    n = len(rollouts.responses[0])
    marks = np.zeros((len(rollouts.prompts), n, n), dtype=bool)
    for match in late:
        texts = np.array([response.text for response in rollouts.responses[match.b]], dtype=object)
        first, second = texts == match.first.text, texts == match.second.text  # [N]
        marks[match.b] |= np.outer(first, second) | np.outer(second, first)
    return marks


def _agreement(said: Sequence[Standing]) -> dict[str, float]:
    found = agreement([one.verdicts for one in said])
    if found is None:
        return {}
    measures = {"annotator_agreement": found.share}
    return measures if found.alpha is None else {**measures, "annotator_alpha": found.alpha}
