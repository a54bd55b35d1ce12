"""The source of a draw's responses, and the base class of all samplers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from rlhf_flow.protocols import Engine, StreamingEngine
from rlhf_flow.seeds import derive
from rlhf_flow.types import Candidate, Mixture, Policy, Prompt, Response, Rollouts, SamplingParams

DATASET = "dataset"
REFERENCE = "reference"
MIXTURE = "mixture"


@dataclass(frozen=True)
class Source(SamplingParams):
    """A draw with its source: a policy, its mixture with the reference, or the candidates of the prompts.

    It extends SamplingParams because OmegaConf does not merge frozen dataclasses nested in list items.
    """

    policy: str = "policy"  # a role of the schedule (policy, reference, ...), or dataset
    weight: float | None = None  # of the reference in a mixture; negative: beyond the policy, away from the reference
    candidate: str | None = None  # with policy=dataset: the name of the prompt's candidate
    continues: str | None = None  # the name of a candidate: answers continue it from a random place; null: none

    def __post_init__(self) -> None:
        super().__post_init__()
        given = self.candidate is not None
        for key, value, rule, ok in (
            (
                "policy",
                self.policy,
                "a role (policy, reference, ...) or dataset; a mixture is policy=policy with a weight",
                self.policy not in ("", MIXTURE),
            ),
            (
                "weight",
                self.weight,
                "in [-1, 1], or null for no mixture",
                self.weight is None or -1 <= self.weight <= 1,
            ),
            (
                "weight",
                self.weight,
                f"null for policy={self.policy}, which is not mixed with the reference",
                self.weight is None or self.policy not in (DATASET, REFERENCE),
            ),
            (
                "candidate",
                self.candidate,
                f"{'the name of one' if self.policy == DATASET else 'null'} for policy={self.policy}, "
                f"as policy={DATASET} draws it",
                given == (self.policy == DATASET),
            ),
            ("n", self.n, "1 for a candidate", not given or self.n == 1),
            ("continues", self.continues, "null for a candidate, which is whole", not given or self.continues is None),
            (
                "decoding",
                self.overrides,
                "left out for a candidate, which is not decoded",
                not given or not self.overrides,
            ),
        ):
            if not ok:
                raise ValueError(f"draw {self.name!r}: {key} must be {rule}, got {value!r}")

    @property
    def draw(self) -> SamplingParams:
        """The sampling parameters only, for the engine and `Response.draw`."""
        return SamplingParams(**{field.name: vars(self)[field.name] for field in fields(SamplingParams)})

    @property
    def source(self) -> str:
        """`Response.source`: mixture, or the policy."""
        return self.policy if self.weight is None else MIXTURE

    @property
    def roles(self) -> frozenset[str]:
        """The policies that it samples from."""
        if self.candidate is not None:
            return frozenset()
        return frozenset({self.policy} if self.weight is None else {self.policy, REFERENCE})

    def stream(
        self, engine: Engine, prompts: Sequence[Prompt], policies: Mapping[str, Policy], *, round: int, seed: int
    ) -> Iterator[Rollouts]:
        """Responses [B][n] in pieces, in the order in which prompts are finished."""
        if self.candidate is not None:
            given = ((self._given(prompt, self.candidate, round=round, seed=seed),) for prompt in prompts)
            yield Rollouts(round, tuple(prompts), tuple(given))
            return
        policy: Policy | Mixture = policies[self.policy]
        if self.weight is not None:
            policy = Mixture(policies[self.policy], policies[REFERENCE], self.weight)
        asked = [self._begun(prompt, round=round, seed=seed) for prompt in prompts]
        for piece in streamed(engine, asked, policy, self.draw, round=round, seed=seed):
            whole = tuple(replace(prompt, begun=None) for prompt in piece.prompts)
            yield replace(piece, prompts=whole, responses=tuple(map(self._named, piece.responses)))

    def _begun(self, prompt: Prompt, *, round: int, seed: int) -> Prompt:
        """The prompt with the first tokens of the candidate that answers continue, from none to all but the last."""
        if self.continues is None:
            return prompt
        tokens = self._candidate(prompt, self.continues).tokens
        cut = np.random.default_rng(derive(seed, round, prompt.id, self.name, "cut")).integers(len(tokens))
        return replace(prompt, begun=tokens[:cut])

    def _candidate(self, prompt: Prompt, name: str) -> Candidate:
        if name not in prompt.candidates:
            raise ValueError(
                f"prompt {prompt.id!r} has no candidate {name!r} for draw {self.name!r}: it has "
                f"{', '.join(prompt.candidates) or 'none'}. Name one that every prompt has, or remove the prompts "
                "without it."
            )
        return prompt.candidates[name]

    def _named(self, group: tuple[Response, ...]) -> tuple[Response, ...]:
        """The responses with their source."""
        return tuple(one if one.source == self.source else replace(one, source=self.source) for one in group)

    def _given(self, prompt: Prompt, name: str, *, round: int, seed: int) -> Response:
        given = self._candidate(prompt, name)
        if len(given.tokens) > self.max_tokens:  # the model's maximum length was checked against max_tokens
            raise ValueError(
                f"prompt {prompt.id!r}: its candidate {name!r} has {len(given.tokens)} tokens, and draw "
                f"{self.name!r} has max_tokens={self.max_tokens}. Raise it, or remove the prompt."
            )
        return Response(
            id=f"{round}/{self.name}/0/{prompt.id}",
            tokens=np.asarray(given.tokens, dtype=np.int32),
            text=given.text,
            logps=None,
            truncated=False,
            draw=self.draw,
            seed=derive(seed, round, prompt.id, self.name),
            policy="",
            source=DATASET,
            context=None if given.context is None else np.asarray(given.context, np.int32),
        )


def streamed(
    engine: Engine, prompts: Sequence[Prompt], policy: Policy | Mixture, draw: SamplingParams, *, round: int, seed: int
) -> Iterator[Rollouts]:
    """The answers of any engine in pieces: a single one if it does not stream."""
    if isinstance(engine, StreamingEngine):
        yield from engine.stream(prompts, policy, draw, round=round, seed=seed)
    else:
        yield engine.generate(prompts, policy, draw, round=round, seed=seed)


def sourced(draw: SamplingParams, policy: str = "policy", *, weight: float | None = None) -> Source:
    """A draw from `policy`, or from its mixture with the reference."""
    return Source(**vars(draw), policy=policy, weight=weight)


class SourcesSampler(ABC):
    """What all samplers share: N responses per prompt, draw after draw. Raises ValueError if two draws share a name."""

    @property
    @abstractmethod
    def drawn(self) -> Mapping[str, SamplingParams]:
        """The draws, by their configuration keys."""

    @abstractmethod
    def at(self, round: int) -> Sequence[Source]:
        """The draws of a round, with their sources."""

    def __post_init__(self) -> None:
        key = " and ".join(dict.fromkeys(key.rstrip(".0123456789") for key in self.drawn)) or "sampler.draws"
        names = [draw.name for draw in self.drawn.values()]
        if not names:
            raise ValueError(f"{key} must hold at least one draw, got none")
        if slashed := [name for name in names if "/" in name]:
            raise ValueError(f"{key}: a name must not hold '/', which separates response ids, got {slashed[0]!r}")
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(
                f"{key} must have different names, got {', '.join(repeated)} more than once: draws with the same name "
                "would give the same responses. Fix: give each draw its own name."
            )

    @property
    def sources(self) -> Mapping[str, str]:
        return {source.name: source.source for source in self.at(1)}

    @property
    def roles(self) -> frozenset[str]:
        return frozenset().union(*(source.roles for source in self.at(1)))

    @property
    def needs_mixture(self) -> bool:
        return any(source.weight is not None for source in self.at(1))

    def sample(
        self, engine: Engine, prompts: Sequence[Prompt], policies: Mapping[str, Policy], *, round: int, seed: int
    ) -> Rollouts:
        """Responses [B, N], draw after draw."""
        return Rollouts.gathered(prompts, self.stream(engine, prompts, policies, round=round, seed=seed), round)

    def stream(
        self, engine: Engine, prompts: Sequence[Prompt], policies: Mapping[str, Policy], *, round: int, seed: int
    ) -> Iterator[Rollouts]:
        """As `sample`, in pieces.

        A draw is for all prompts, so an engine changes its weights once per draw. The last draw streams.
        """
        *others, last = self.at(round)
        drawn = [
            Rollouts.gathered(prompts, source.stream(engine, prompts, policies, round=round, seed=seed), round)
            for source in others
        ]
        before = {prompt.id: sum((each.responses[row] for each in drawn), ()) for row, prompt in enumerate(prompts)}
        for piece in last.stream(engine, prompts, policies, round=round, seed=seed):
            asked = zip(piece.prompts, piece.responses, strict=True)
            yield replace(piece, responses=tuple(before[prompt.id] + group for prompt, group in asked))
