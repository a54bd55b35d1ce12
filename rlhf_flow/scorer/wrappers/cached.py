"""A judge that is asked about nothing twice: what it said before, in this run or another, is what it says."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

import numpy as np

from rlhf_flow.protocols import Scorer
from rlhf_flow.scorer.matches import Match
from rlhf_flow.scorer.pair_schedule import PairSchedule, PairVerdict
from rlhf_flow.scorer.pairwise import bradley_terry, by_answer, by_comparison
from rlhf_flow.scorer.wrappers.judgement_cache import JudgementCache, path_of
from rlhf_flow.specs import Place
from rlhf_flow.tokenization.chat_template import ChatTemplate
from rlhf_flow.types import Prompt, Response, Rollouts, Scored

VIEWS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"log_odds": bradley_terry, "ranks": by_comparison}
PAIRS = "pairs"
MARKS = ("inconsistent",)  # of a pair, that a judge may give who says the same again
WRITTEN = {"base": "of", "request_size": "piece"}  # fields that judgements are kept under by an older name
NEW = ("label", "batched")  # fields that version 0.1 did not have
OLD_NAMES = {  # the modules of version 0.1, wherever its classes are now
    "Rule": "rlhf_flow.scorer.rule.Rule",
    "Rules": "rlhf_flow.scorer.rules.Rules",
    "RewardModel": "rlhf_flow.scorer.reward_model.RewardModel",
    "Ensemble": "rlhf_flow.scorer.ensemble.Ensemble",
    "Pooled": "rlhf_flow.scorer.pooled.Pooled",
    "Comparison": "rlhf_flow.scorer.comparison.Comparison",
    "PreferenceModel": "rlhf_flow.scorer.preference_model.PreferenceModel",
    "GPM": "rlhf_flow.scorer.gpm.GPM",
}
REGISTERED: dict[type, str] = {}  # name of each part of `rlhf_flow.scorer`, which fills it
WHERE = ("path", "urls", "token_env", "timeout_seconds", "retries", "concurrency", "date")  # and when, and how reached


@dataclass(frozen=True)
class Cached:
    """Keeps what the judge `base` says: of each answer, or of each two where it compares.

    A judgement belongs to the judge (its fields, and the hash of its weights or source), to the prompt's messages, gold
    answer and meta, and to the texts; whoever asks it again, in any run with the same file, has it without a query. A
    function's judge is known by the file that the function is in: after a change in what that file imports, name
    another `cache`. Scores that depend on their batch, by rounding, stay as they were first.
    """

    base: Any = None  # any scorer that says the same again: scorer@scorer.base=<name>
    cache: str | None = None  # SQLite file, not on a network's drive; None: ${RLHF_FLOW_HOME}/judgements.sqlite

    @property
    def intransitive(self) -> bool:
        return bool(self.base.intransitive)

    @property
    def loads_model(self) -> bool:
        return bool(self.base.loads_model)

    @property
    def cache_format(self) -> None:
        return None  # it is kept already

    def fingerprint(self) -> str:
        """The judge's own: the fields say the rest."""
        return str(self.base.fingerprint())

    def check(self) -> None:
        """Raise ValueError where the judge may say something else the next time, and as the judge does."""
        self._check_judge()
        self.base.check()
        self._judgements().close()

    def open(self, place: Place) -> CachedJudge:
        """Open the judge there. Raises ValueError where the cache cannot be opened, and as `check`."""
        self._check_judge()
        return CachedJudge(
            self, self.base.open(place), self._judgements(), identity(self.base), old_identity(self.base)
        )

    def _judgements(self) -> JudgementCache:
        return JudgementCache(path_of(self.cache), key="scorer.cache")

    def _check_judge(self) -> None:
        if self.base.cache_format is None:
            raise ValueError(
                "scorer.base must be a judge that says the same again of the same prompt and texts, and does not keep "
                f"it itself; {type(self.base).__name__} as configured is none. Use it without scorer=cached."
            )


@dataclass
class Asked:
    """What the judge was asked about in one call."""

    counts: dict[str, int] = field(default_factory=lambda: {"judge/queries": 0})
    cached: int = 0  # judgements that were known

    def add(self, scored: Scored) -> None:
        for name, count in scored.counts.items():
            self.counts[name] = self.counts.get(name, 0) + count


@dataclass(frozen=True)
class CachedJudge:
    """A judge at work, and what it has said."""

    spec: Cached
    judge: Scorer
    judgements: JudgementCache
    identity: str  # of the judge
    old_identity: str  # by which version 0.1 kept what it said

    def score(self, rollouts: Rollouts) -> Scored:
        """Let the judge score what is not known, all of it at once, and keep that before anything is returned.

        Counts `judge/cached`: different answers, or pairs of them, that were known. `judge/abstained` is of all, and
        the judge's other counts are of what it was asked. A judge that compares a few chooses who meets whom.
        """
        asked = Asked()
        cache_format = self.spec.base.cache_format
        scored = (
            self._compared(rollouts, asked)
            if cache_format == PAIRS
            else self._each(rollouts, asked, VIEWS[cache_format])
        )
        return replace(scored, counts={**asked.counts, "judge/cached": asked.cached, **scored.counts})

    def close(self) -> None:
        """Close the judge and the cache."""
        self.judge.close()
        self.judgements.close()

    def _each(self, rollouts: Rollouts, asked: Asked, view: Callable[[np.ndarray], np.ndarray]) -> Scored:
        responses = [
            (prompt, (response,))
            for prompt, group in zip(rollouts.prompts, rollouts.responses, strict=True)
            for response in group
        ]
        said = self._said(responses, asked, rollouts.round, _of_answer)
        names = dict.fromkeys(name for one in said for name in one["aspects"])
        utility = by_answer(rollouts, [_number(one["utility"]) for one in said])  # [B, N]
        return Scored(
            rollouts,
            utility=utility,
            wins=view(utility),
            aspects={name: by_answer(rollouts, [_number(one["aspects"].get(name)) for one in said]) for name in names},
            counts={"judge/abstained": int(np.isnan(utility).sum())},
        )

    def _compared(self, rollouts: Rollouts, asked: Asked) -> Scored:
        def ask(matches: Sequence[Match]) -> list[PairVerdict]:
            pairs = [(match.prompt, (match.first, match.second)) for match in matches]
            return [
                PairVerdict(_number(one["p"]), one["mark"])
                for one in self._said(pairs, asked, rollouts.round, _of_pair)
            ]

        economy = self.spec.base if isinstance(self.spec.base, PairSchedule) else PairSchedule()
        return economy.compare(rollouts, ask, marks=MARKS)

    def _said(
        self,
        asked: Sequence[tuple[Prompt, tuple[Response, ...]]],
        counted: Asked,
        round: int,
        told: Callable[[Scored, int], dict[str, Any]],
    ) -> list[dict[str, Any]]:
        """What the judge says of each: from the cache, or by asking it; `told` reads that off a group of answers."""
        keys = [_key(self.identity, prompt, responses) for prompt, responses in asked]
        groups = dict(zip(keys, asked, strict=True))
        self.judgements.adopt({key: _key(self.old_identity, *group) for key, group in groups.items()})
        found = self.judgements.look_up(list(groups))
        counted.cached += len(found)
        if missing := {key: group for key, group in groups.items() if key not in found}:
            prompts, responses = zip(*missing.values(), strict=True)
            scored = self.judge.score(Rollouts(round, prompts, responses))
            counted.add(scored)
            self.judgements.keep(
                {key: json.dumps(told(scored, b)) for b, key in enumerate(missing)}, source=_name(self.spec.base)
            )
            found |= self.judgements.look_up(list(missing))  # who else was asked at the same time may have been first
        return [json.loads(found[key]) for key in keys]


def _key(identity: str, prompt: Prompt, responses: Sequence[Response]) -> str:
    messages = [(message.role, message.content) for message in prompt.messages]
    texts = [response.text for response in responses]
    return _digest([identity, messages, prompt.answer, dict(prompt.meta), texts])


def identity(spec: Any) -> str:  # noqa: ANN401  # any scorer's
    """Of a judge: the name that it is registered by, its fields but for those that change nothing it says, and what
    these only name. A field that is null is as if it were not there: a later version may add some.
    """
    return _digest([_name(spec), _bound(spec, null=False), spec.fingerprint()])


def old_identity(spec: Any) -> str:  # noqa: ANN401  # any scorer's
    """That of version 0.1, by the module that the class was in."""
    name = OLD_NAMES.get(type(spec).__qualname__, "") if type(spec) in REGISTERED else _qualified(spec)
    return _digest([name, _bound(spec, null=True), spec.fingerprint()])


def _name(spec: object) -> str:
    return REGISTERED.get(type(spec), _qualified(spec))


def _qualified(spec: object) -> str:
    return f"{type(spec).__module__}.{type(spec).__qualname__}"


def _bound(value: object, *, null: bool) -> object:
    """Fields, those of parts within included; a mapping is the user's own, and all of it counts."""
    if isinstance(value, list | tuple):
        return [_bound(inner, null=null) for inner in value]
    if not is_dataclass(value):
        return value
    free = {
        *WHERE,
        *(one.name for one in fields(PairSchedule) if isinstance(value, PairSchedule)),
    }  # who meets whom: likewise
    held = {WRITTEN.get(one.name, one.name): getattr(value, one.name) for one in fields(value) if one.name not in free}
    if held.get("chat_template") == ChatTemplate():  # judgements from before there was a choice stay valid
        del held["chat_template"]
    kept = {name: inner for name, inner in held.items() if inner is not None or (null and name not in NEW)}
    return {name: _bound(inner, null=null) for name, inner in kept.items()}


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=repr).encode()).hexdigest()


def _of_answer(scored: Scored, b: int) -> dict[str, Any]:
    """Of the one answer in group `b`; what is NaN is null."""
    aspects = {name: _written(values[b, 0]) for name, values in scored.aspects.items()}
    return {"utility": _written(scored.utility[b, 0]), "aspects": aspects}


def _of_pair(scored: Scored, b: int) -> dict[str, Any]:
    """Of the two answers in group `b`: P(first beats second), null without a verdict."""
    marks = [name for name in MARKS if name in scored.pair_flags and scored.pair_flags[name][b, 0, 1]]
    return {"p": _written(scored.wins[b, 0, 1]), "mark": marks[0] if marks else None}


def _written(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _number(written: float | None) -> float:
    return math.nan if written is None else written
