"""Where the answers of one draw come from: the part that all samplers are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from rlhf_flow.protocols import Engine
from rlhf_flow.seeds import derive
from rlhf_flow.types import Mixture, Policy, Prompt, Response, Rollouts, SamplingParams

DATASET = "dataset"
REFERENCE = "reference"
MIXTURE = "mixture"


@dataclass(frozen=True)
class Source(SamplingParams):
    """A draw, and who answers it: a policy, its mixture with the reference, or the data that the prompts came with.

    It is a draw with more keys, and holds none: OmegaConf does not merge frozen classes inside the items of a list.
    """

    policy: str = "policy"  # whom the schedule has a version for (policy, reference, ...), or dataset
    weight: float | None = None  # of the reference in a mixture with it, in [0, 1]; null: `policy` alone
    candidate: str | None = None  # of a data set: the name of the answer among the prompt's candidates

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
            ("weight", self.weight, "in [0, 1], or null for no mixture", self.weight is None or 0 <= self.weight <= 1),
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
            ("n", self.n, "1 for a candidate, of which there is one", not given or self.n == 1),
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
        """How it is decoded, alone: what an engine is asked for, and what its answers say of themselves."""
        return SamplingParams(**{field.name: vars(self)[field.name] for field in fields(SamplingParams)})

    @property
    def source(self) -> str:
        """`Response.source` of its answers: mixture, or who answered."""
        return self.policy if self.weight is None else MIXTURE

    @property
    def roles(self) -> frozenset[str]:
        """The policies that it takes."""
        if self.candidate is not None:
            return frozenset()
        return frozenset({self.policy} if self.weight is None else {self.policy, REFERENCE})

    def answers(
        self, engine: Engine, prompts: Sequence[Prompt], policies: Mapping[str, Policy], *, round: int, seed: int
    ) -> tuple[tuple[Response, ...], ...]:
        """[B][n], each with its source."""
        if self.candidate is not None:
            return tuple((self._given(prompt, self.candidate, round=round, seed=seed),) for prompt in prompts)
        asked: Policy | Mixture = policies[self.policy]
        if self.weight is not None:
            asked = Mixture(policies[self.policy], policies[REFERENCE], self.weight)
        drawn = engine.generate(prompts, asked, self.draw, round=round, seed=seed)
        source = self.source
        return tuple(
            tuple(one if one.source == source else replace(one, source=source) for one in group)
            for group in drawn.responses
        )

    def _given(self, prompt: Prompt, name: str, *, round: int, seed: int) -> Response:
        if name not in prompt.candidates:
            raise ValueError(
                f"prompt {prompt.id!r} has no candidate {name!r} for draw {self.name!r}: it has "
                f"{', '.join(prompt.candidates) or 'none'}. Name one that every prompt has, or leave out the prompts "
                "without it."
            )
        given = prompt.candidates[name]
        if len(given.tokens) > self.max_tokens:  # what the model has room for was checked by this number
            raise ValueError(
                f"prompt {prompt.id!r}: its candidate {name!r} has {len(given.tokens)} tokens, and draw "
                f"{self.name!r} has max_tokens={self.max_tokens}. Raise it, or leave out the prompt."
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
        )


def sourced(draw: SamplingParams, policy: str = "policy", *, weight: float | None = None) -> Source:
    """A draw that is answered by `who`, or by its mixture with the reference."""
    return Source(**vars(draw), policy=policy, weight=weight)


def check_names(key: str, draws: Sequence[SamplingParams]) -> None:
    """Raise ValueError for draws that cannot be told apart by their names. `key`: where they are configured."""
    names = [draw.name for draw in draws]
    if not names:
        raise ValueError(f"{key} must hold at least one draw, got none")
    slashed = [name for name in names if "/" in name]
    if slashed:
        raise ValueError(f"{key}: a name must not hold '/', which parts response ids, got {slashed[0]!r}")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(
            f"{key} must have different names, got {', '.join(repeated)} more than once: draws of one name "
            f"would give the same answers. Name each draw."
        )


def side_by_side(
    sources: Sequence[Source],
    engine: Engine,
    prompts: Sequence[Prompt],
    policies: Mapping[str, Policy],
    *,
    round: int,
    seed: int,
) -> Rollouts:
    """Responses [B, N], draw after draw in the order of `sources`: N is the sum of their n."""
    parts = [source.answers(engine, prompts, policies, round=round, seed=seed) for source in sources]
    groups = zip(*parts, strict=True)
    return Rollouts(round, tuple(prompts), tuple(sum(group, ()) for group in groups))
