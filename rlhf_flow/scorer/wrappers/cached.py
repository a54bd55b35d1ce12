"""Cache the judgements of another scorer, for this run and later ones."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, ClassVar

import numpy as np

from rlhf_flow.protocols import Scorer
from rlhf_flow.scorer.pair_schedule import PairSchedule, PairVerdict
from rlhf_flow.scorer.pairwise import Match, bradley_terry, by_answer, by_comparison, prompts_and_responses
from rlhf_flow.scorer.wrappers.around import Around
from rlhf_flow.scorer.wrappers.judgement_cache import JudgementCache, path_of
from rlhf_flow.specs import Place
from rlhf_flow.tokenization.chat_template import ChatTemplate
from rlhf_flow.types import Prompt, Response, Rollouts, Scored

VIEWS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"log_odds": bradley_terry, "ranks": by_comparison}
PAIRS = "pairs"
MARKS = ("inconsistent",)  # pair flags that are cached with a verdict
WRITTEN = {"base": "of", "request_size": "piece"}  # field -> its name in cache keys
NEW = ("label", "batched")  # fields that version 0.1 did not have
OLD_NAMES = {  # module paths of version 0.1, in its cache keys
    "Rule": "rlhf_flow.scorer.rule.Rule",
    "Rules": "rlhf_flow.scorer.rules.Rules",
    "RewardModel": "rlhf_flow.scorer.reward_model.RewardModel",
    "Ensemble": "rlhf_flow.scorer.ensemble.Ensemble",
    "Pooled": "rlhf_flow.scorer.pooled.Pooled",
    "Comparison": "rlhf_flow.scorer.comparison.Comparison",
    "PreferenceModel": "rlhf_flow.scorer.preference_model.PreferenceModel",
    "GPM": "rlhf_flow.scorer.gpm.GPM",
}
REGISTERED: dict[type, str] = {}  # class -> registered name; `rlhf_flow.scorer` fills it
# change no judgement
WHERE = ("path", "urls", "token_env", "timeout_seconds", "retries", "concurrency", "date", "threads")


@dataclass(frozen=True)
class Cached(Around):
    """Caches the judgements of the scorer `base`: of each response, or of each pair if it compares.

    The cache key holds the scorer (its fields, and the hash of its weights or source), the prompt's messages, gold
    answer and meta, and the texts. All runs with the same file share it. A function is identified by the hash of its
    own file: after a change in a module that it imports, use another `cache`. Scores that depend on their batch, by
    rounding, keep their first value.
    """

    base: Any = None  # any deterministic scorer: scorer@scorer.base=<name>
    cache: str | None = None  # SQLite file, not on a network drive; null: ${RLHF_FLOW_HOME}/judgements.sqlite

    cache_format: ClassVar[None] = None  # the judgements are cached already

    @property
    def intransitive(self) -> bool:
        return bool(self.base.intransitive)

    def check(self) -> None:
        """Raise ValueError if the base cannot be cached, or its own check does."""
        self._check_base()
        self.base.check()
        self._judgements().close()

    def open(self, place: Place) -> CachedJudge:
        """Open the base and the cache. Raises ValueError if the cache cannot be opened, and as `check`."""
        self._check_base()
        return self.wrap(self.base.open(place))

    def wrap(self, scorer: Scorer) -> CachedJudge:
        """The cached scorer, given the opened `base`. Raises as `open`."""
        self._check_base()
        return CachedJudge(self, scorer, self._judgements(), identity(self.base), old_identity(self.base))

    def _judgements(self) -> JudgementCache:
        return JudgementCache(path_of(self.cache), key="scorer.cache")

    def _check_base(self) -> None:
        if self.base.cache_format is None:
            raise ValueError(
                "scorer.base must be a scorer that says the same again for the same prompt and texts, and has no cache "
                f"of its own; {type(self.base).__name__} as configured is none. Fix: use it without scorer=cached."
            )


@dataclass
class Asked:
    """The counts of one call of `score`."""

    counts: dict[str, int] = field(default_factory=lambda: {"judge/queries": 0})  # of the base
    cached: int = 0  # judgements found in the cache

    def add(self, scored: Scored) -> None:
        for name, count in scored.counts.items():
            self.counts[name] = self.counts.get(name, 0) + count


@dataclass(frozen=True)
class CachedJudge:
    """The opened base with its cache."""

    spec: Cached
    base: Scorer
    judgements: JudgementCache
    identity: str  # of the base
    old_identity: str  # in the cache keys of version 0.1

    def score(self, rollouts: Rollouts) -> Scored:
        """Let the base score what is not cached, all at once; its judgements are on disk once this returns.

        `judge/cached` counts the distinct answers, or pairs, found in the cache. `judge/abstained` is of all, the
        base's other counts are of what it scored. A base that compares some pairs keeps its schedule.
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
        """Close the base and the cache."""
        self.base.close()
        self.judgements.close()

    def _each(self, rollouts: Rollouts, asked: Asked, view: Callable[[np.ndarray], np.ndarray]) -> Scored:
        responses = [(prompt, (response,)) for prompt, response in prompts_and_responses(rollouts)]
        found = self._judged(responses, asked, rollouts.round, _of_answer)
        names = dict.fromkeys(name for one in found for name in one["aspects"])
        utility = by_answer(rollouts, [_number(one["utility"]) for one in found])  # [B, N]
        return Scored(
            rollouts,
            utility=utility,
            wins=view(utility),
            aspects={name: by_answer(rollouts, [_number(one["aspects"].get(name)) for one in found]) for name in names},
            counts={"judge/abstained": int(np.isnan(utility).sum())},
        )

    def _compared(self, rollouts: Rollouts, asked: Asked) -> Scored:
        def ask(matches: Sequence[Match]) -> list[PairVerdict]:
            pairs = [(match.prompt, (match.first, match.second)) for match in matches]
            found = self._judged(pairs, asked, rollouts.round, _of_pair)
            return [PairVerdict(_number(one["p"]), one["mark"]) for one in found]

        schedule = self.spec.base if isinstance(self.spec.base, PairSchedule) else PairSchedule()
        return schedule.compare(rollouts, ask, marks=MARKS)

    def _judged(
        self,
        asked: Sequence[tuple[Prompt, tuple[Response, ...]]],
        counted: Asked,
        round: int,
        judgement: Callable[[Scored, int], dict[str, Any]],
    ) -> list[dict[str, Any]]:
        """The judgement on each group of responses, cached or new; `judgement` extracts that of group b from scores."""
        keys = [_key(self.identity, prompt, responses) for prompt, responses in asked]
        groups = dict(zip(keys, asked, strict=True))
        self.judgements.adopt({key: _key(self.old_identity, *group) for key, group in groups.items()})
        found = self.judgements.look_up(list(groups))
        counted.cached += len(found)
        if missing := {key: group for key, group in groups.items() if key not in found}:
            prompts, responses = zip(*missing.values(), strict=True)
            scored = self.base.score(Rollouts(round, prompts, responses))
            counted.add(scored)
            new = {key: json.dumps(judgement(scored, b)) for b, key in enumerate(missing)}
            self.judgements.keep(new, source=_name(self.spec.base))
            found |= self.judgements.look_up(list(missing))  # another process may have stored its judgement first
        return [json.loads(found[key]) for key in keys]


def _key(identity: str, prompt: Prompt, responses: Sequence[Response]) -> str:
    messages = [(message.role, message.content) for message in prompt.messages]
    texts = [response.text for response in responses]
    return _digest([identity, messages, prompt.answer, dict(prompt.meta), texts])


def identity(spec: Any) -> str:  # noqa: ANN401  # any scorer's
    """Hash of a scorer's registered name, fields and fingerprint, without the fields that change no judgement.

    A null field is left out, so that a later version may add fields.
    """
    return _digest([_name(spec), _bound(spec, null=False), spec.fingerprint()])


def old_identity(spec: Any) -> str:  # noqa: ANN401  # any scorer's
    """That of version 0.1, which has the class's module path and null fields."""
    name = OLD_NAMES.get(type(spec).__qualname__, "") if type(spec) in REGISTERED else _qualified(spec)
    return _digest([name, _bound(spec, null=True), spec.fingerprint()])


def _name(spec: object) -> str:
    return REGISTERED.get(type(spec), _qualified(spec))


def _qualified(spec: object) -> str:
    return f"{type(spec).__module__}.{type(spec).__qualname__}"


def _bound(value: object, *, null: bool) -> object:
    """The fields that identify a part, nested parts included; a mapping is hashed whole."""
    if isinstance(value, list | tuple):
        return [_bound(inner, null=null) for inner in value]
    if not is_dataclass(value):
        return value
    free = {*WHERE, *(one.name for one in fields(PairSchedule) if isinstance(value, PairSchedule))}
    held = {WRITTEN.get(one.name, one.name): getattr(value, one.name) for one in fields(value) if one.name not in free}
    if held.get("chat_template") == ChatTemplate():  # the default: keys from before the field existed stay valid
        del held["chat_template"]
    kept = {name: inner for name, inner in held.items() if inner is not None or (null and name not in NEW)}
    return {name: _bound(inner, null=null) for name, inner in kept.items()}


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=repr).encode()).hexdigest()


def _of_answer(scored: Scored, b: int) -> dict[str, Any]:
    """Of the one answer in group `b`; NaN is null."""
    aspects = {name: _written(values[b, 0]) for name, values in scored.aspects.items()}
    return {"utility": _written(scored.utility[b, 0]), "aspects": aspects}


def _of_pair(scored: Scored, b: int) -> dict[str, Any]:
    """Of the two answers in group `b`: P(first beats second), null for an abstention."""
    marks = [name for name in MARKS if name in scored.pair_flags and scored.pair_flags[name][b, 0, 1]]
    return {"p": _written(scored.wins[b, 0, 1]), "mark": marks[0] if marks else None}


def _written(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _number(written: float | None) -> float:
    return math.nan if written is None else written
