"""The nouns, in the order a round makes them.

Letters used in every docstring: B prompts in a round, N responses per prompt, P pairs, T tokens.
Log-probabilities are natural logs in float32. Every type is frozen. This module imports neither torch nor any
other part of the package, so that a configuration can be composed without them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rlhf_flow.draw import SamplingParams as SamplingParams

if TYPE_CHECKING:
    from torch import Tensor

    from rlhf_flow.weights.source import Weights


@dataclass(frozen=True)
class Probe:
    """Evidence that an engine holds a policy: the learner's own log-probs of one sequence of tokens.

    `tokens[:prompt]` is the context, `logps` are the float32 log-probs of `tokens[prompt:]` under the policy.
    """

    tokens: tuple[int, ...]
    prompt: int
    logps: tuple[float, ...]


@dataclass(frozen=True)
class Policy:
    """A policy is a value: whoever asks for samples names the policy it wants them from."""

    name: str  # policy, half, ema, ...
    round: int  # the round that published it; 0 is the start
    sha256: str  # of the weights (rlhf_flow.weights.source.fingerprint): the identity of the policy
    weights: Weights
    probe: Probe | None = None  # None: nothing proves that an engine holds it
    state: Path | None = None  # folder of the optimizer state that was published with these weights
    stateless: bool = False  # learning goes on from the weights alone: no optimizer state belongs to them


@dataclass(frozen=True)
class Mixture:
    """The geometric mixture of two policies, token by token: pi_mix(.|prefix) ~ pi^(1 - weight) * pi_ref^weight.

    Munos et al. 2023, arXiv:2312.00886. It is normalised at every token, so it is not the mixture of whole answers.
    """

    policy: Policy
    reference: Policy
    weight: float  # of the reference, in [0, 1]

    @property
    def sha256(self) -> str:
        """Its identity: what it mixes, and how."""
        parts = f"{self.policy.sha256}\x1f{self.reference.sha256}\x1f{self.weight!r}"
        return hashlib.sha256(parts.encode()).hexdigest()


@dataclass(frozen=True)
class Message:
    role: str  # system, user or assistant
    content: str


@dataclass(frozen=True)
class Candidate:
    """An answer that came with the prompt: of a data set, or of a teacher. Tokenised once, EOS included.

    Where the prompt is a question which of two answers is better, the tokens are the letter that names this one.
    """

    text: str
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Prompt:
    """One x ~ rho. Tokenised once (one BOS) by the policy's own tokenizer; judges re-render the messages themselves."""

    id: str
    messages: tuple[Message, ...]
    tokens: tuple[int, ...]
    answer: str | None = None  # a gold answer, for rules
    candidates: Mapping[str, Candidate] = field(default_factory=dict)  # name -> answer that samplers may draw
    meta: Mapping[str, object] = field(default_factory=dict)  # every other column of the row


@dataclass(frozen=True)
class Response:
    """One y, token for token as it was sampled; nothing is ever re-tokenised."""

    id: str  # "<round>/<draw>/<k>/<prompt id>"
    tokens: np.ndarray  # int32 [T], including EOS where the policy ended itself
    text: str
    logps: np.ndarray | None  # float32 [T], raw log-probs at T=1 under the policy that drew it
    truncated: bool  # cut by max_tokens: no EOS
    draw: SamplingParams
    seed: int
    policy: str  # sha256 of the policy that drew it
    source: str = "policy"  # policy, reference, mixture or dataset
    staleness: int | None = None  # rounds learned since the policy that drew it; None: drawn by another, or by nobody
    mass: float = 1.0  # how often it counts: pi(y|x) where an engine enumerates all answers


@dataclass(frozen=True)
class Rollouts:
    round: int
    prompts: tuple[Prompt, ...]  # [B]
    responses: tuple[tuple[Response, ...], ...]  # [B][N]


@dataclass(frozen=True)
class Verdict:
    """What a rule may answer instead of a bare float: the worth, and the aspects that make it up."""

    utility: float
    aspects: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Scored:
    """Judged responses, in both views, so that nothing downstream asks which judge ran."""

    rollouts: Rollouts
    utility: np.ndarray  # [B, N]; of a pairwise judge the mean over j of wins, 1/2 at j = i
    wins: np.ndarray  # [B, N, N]: P(i beats j); wins + wins.T = 1; NaN where the judge abstained
    aspects: Mapping[str, np.ndarray] = field(default_factory=dict)  # name -> float32 [B, N]
    pair_flags: Mapping[str, np.ndarray] = field(
        default_factory=dict
    )  # why two answers have no verdict, or no final one (inconsistent, capped, overdue) -> bool [B, N, N], symmetric
    counts: Mapping[str, int] = field(default_factory=dict)  # judge/queries, judge/truncated, ...
    batch_metrics: Mapping[str, float] = field(default_factory=dict)  # what the judge says of all answers together
    excluded: Mapping[str, str] = field(default_factory=dict)  # answers that may be in no pair: id -> their bucket


@dataclass(frozen=True)
class Pair:
    """Two responses to one prompt. `preference` = P(first beats second)."""

    prompt: str
    first: str  # response id
    second: str
    preference: float
    weight: float = 1.0
    worth: tuple[float, float] | None = None  # of each side: its win rate against those it competed with, or utility
    extra: str | None = None  # a third response, whose log-prob the objective reads; it may be one of the two


@dataclass(frozen=True)
class Selection:
    """Each response has exactly one bucket and each considered pair has one; the two totals are kept apart."""

    pairs: tuple[Pair, ...]
    response_buckets: Mapping[str, str]  # response id -> bucket
    pair_counts: Mapping[str, int]  # bucket -> number of considered pairs


@dataclass(frozen=True)
class TokenLogps:
    """Log-probs of responses, token by token."""

    values: Tensor  # float32 [P, T]; 0 where mask is False
    mask: Tensor  # bool [P, T]

    @property
    def sum(self) -> Tensor:
        return (self.values * self.mask).sum(-1)  # [P]

    @property
    def mean(self) -> Tensor:
        return self.sum / self.mask.sum(-1).clamp(min=1)  # [P]


@dataclass(frozen=True)
class Sides:
    """The log-probs of both sides of P pairs under one policy, and of the third response where pairs have one."""

    first: TokenLogps
    second: TokenLogps
    extra: TokenLogps | None = None


@dataclass(frozen=True)
class Needs:
    """What an objective asks of the parts around it. A run that cannot give it is refused before any worker starts."""

    anchors: frozenset[str] = frozenset()  # names of the policies whose log-probs `loss` reads
    draws: frozenset[str] = frozenset()  # sources (`Response.source`) that answers must come from, besides the policy
    extra: str | None = None  # the source of the third response of each pair
    side_value: str | None = None  # of both sides of a pair: "win_rate", or "utility", the scorer's number
    readout: str = "logps"  # of each response: logps, a policy's; or of a judge's head a number, or an embedding
    on_policy: bool = (
        False  # its fixed point is that of samples from the policy itself: `SamplingParams.is_policy_itself`
    )
    first_is_policy: bool = (
        False  # the first of each pair is the policy's own, whoever won: its log-prob alone is moved
    )
    general_preferences: bool = False  # a game: by a judge of single answers it could never have a cycle


@dataclass(frozen=True)
class PairLogps:
    """Everything an objective may look at. `current` carries gradients, the anchors never do."""

    current: Sides
    anchors: Mapping[str, Sides]  # reference, previous, ...
    preference: Tensor  # [P]
    weight: Tensor  # [P]
    worth: Tensor | None = None  # [P, 2]: win rates, or utilities, of first and second, where the pairs have them


@dataclass(frozen=True)
class Loss:
    """Un-reduced: the learner takes the weighted mean over the *global* batch."""

    values: Tensor  # float32 [P]
    metrics: Mapping[str, Tensor]  # name -> float32 [P], detached; padding never counted


@dataclass(frozen=True)
class RoundPlan:
    """Which version of which policy a round uses: three different questions (pi_t, pi_0, pi_ref), never one.

    A role with the name of an average is played by that average, as of its version.
    """

    round: int
    init: int  # learn from the policy published by this round
    samplers: Mapping[str, int]  # who answers (policy, reference, ...) -> round that published it
    anchors: Mapping[str, int]  # anchor name -> round that published it
    publish_as: str = "policy"
    averages: Mapping[str, float] = field(default_factory=dict)  # published beside it: name -> decay of the average
    evaluated: bool = True  # whether what the round publishes is a policy that anyone would use

    def only(self, *, samplers: Collection[str], anchors: Collection[str]) -> RoundPlan:
        """The plan without the roles that nobody plays. Raises KeyError for one that it has no version for."""
        return replace(
            self,
            samplers={role: self.samplers[role] for role in sorted(samplers)},
            anchors={name: self.anchors[name] for name in sorted(anchors)},
        )


@dataclass(frozen=True)
class RoundRecord:
    """Closes a round: plain JSON, and all that later rounds and readers need of it."""

    round: int
    policy: str  # sha256 of what the round published
    plan: Mapping[str, object]  # the Plan, each policy in it with its sha256
    metrics: Mapping[str, float]
    seconds: Mapping[str, float]  # stage -> seconds of work, of the start of the run that committed it
    files: Mapping[str, str]  # path under the round's folder -> sha256
