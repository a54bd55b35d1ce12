"""The data types of a round, in the order in which a round creates them.

B: prompts in a round, N: responses per prompt, P: pairs, T: tokens. Log-probabilities are natural logs in float32. All
types are frozen. This module does not import torch, which composing a configuration does not need.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
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
    """The learner's log-probs of one sequence, which an engine recomputes to verify that it loaded the policy.

    `logps` are the float32 log-probs of `tokens[prompt:]` under the policy.
    """

    tokens: tuple[int, ...]
    prompt: int  # the tokens of the context
    logps: tuple[float, ...]


@dataclass(frozen=True)
class Policy:
    """A policy is a value: every request for samples names the policy to draw from."""

    name: str  # policy, half, ema, ...
    round: int  # the round that published it; 0 is the start
    sha256: str  # of the weights (rlhf_flow.weights.fingerprint): the identity of the policy
    weights: Weights
    probe: Probe | None = None  # None: engines cannot verify that they loaded it
    state: Path | None = None  # folder of the optimizer state at these weights
    stateless: bool = False  # the learner keeps no optimizer state


@dataclass(frozen=True)
class Mixture:
    """The geometric mixture of two policies, token by token: pi_mix(.|prefix) ~ pi^(1 - weight) * pi_ref^weight.

    Munos et al. 2023, arXiv:2312.00886. Normalised at every token, so it is not the mixture over whole responses.
    """

    policy: Policy
    reference: Policy
    weight: float  # of the reference: in [0, 1], or in [-1, 0) for a policy beyond pi, away from the reference

    @property
    def sha256(self) -> str:
        text = f"{self.policy.sha256}\x1f{self.reference.sha256}\x1f{self.weight!r}"
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Message:
    role: str  # system, user or assistant
    content: str


@dataclass(frozen=True)
class Candidate:
    """A response that came with the prompt, tokenised with EOS; for pairwise prompts the letter that names it."""

    text: str
    tokens: tuple[int, ...]
    context: tuple[int, ...] | None = None  # as `Response.context`


@dataclass(frozen=True)
class Prompt:
    """One x ~ rho. Tokenised once (one BOS) by the policy's tokenizer; scorers render `messages` themselves."""

    id: str
    messages: tuple[Message, ...]
    tokens: tuple[int, ...]
    answer: str | None = None  # a gold answer, for rules
    candidates: Mapping[str, Candidate] = field(default_factory=dict)  # by name; samplers may draw them
    meta: Mapping[str, object] = field(default_factory=dict)  # every other column of the row
    begun: tuple[int, ...] | None = None  # the begin of an answer, in tokens, which the policy continues

    @property
    def context(self) -> tuple[int, ...]:
        """What the policy continues, in tokens."""
        return self.tokens if self.begun is None else (*self.tokens, *self.begun)


@dataclass(frozen=True)
class Response:
    """One y, with the tokens that were sampled. It is never tokenised again."""

    id: str  # "<round>/<draw>/<k>/<prompt id>"
    tokens: np.ndarray  # int32 [T], including EOS if the policy ended the response
    text: str
    logps: np.ndarray | None  # float32 [T], raw log-probs at T=1 under the policy that sampled it
    truncated: bool  # cut by max_tokens: no EOS
    draw: SamplingParams
    seed: int
    policy: str  # sha256 of the policy that sampled it
    source: str = "policy"  # policy, reference, mixture or dataset
    staleness: int | None = None  # rounds trained since the policy that sampled it; None: not from the policy
    mass: float = 1.0  # its weight: pi(y|x) if the engine enumerates all responses
    context: np.ndarray | None = None  # int32: the tokens that it continues; None: the prompt's


@dataclass(frozen=True)
class Rollouts:
    round: int
    prompts: tuple[Prompt, ...]  # [B]
    responses: tuple[tuple[Response, ...], ...]  # [B][N]

    @classmethod
    def gathered(cls, prompts: Sequence[Prompt], pieces: Iterable[Rollouts], round: int) -> Rollouts:
        """One of all pieces, in the order of `prompts`."""
        found = (pair for piece in pieces for pair in zip(piece.prompts, piece.responses, strict=True))
        groups = {prompt.id: group for prompt, group in found}
        return cls(round, tuple(prompts), tuple(groups[prompt.id] for prompt in prompts))


@dataclass(frozen=True)
class Verdict:
    """A rule may return this instead of a float: the utility and the aspects that it is made of."""

    utility: float
    aspects: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Scored:
    """Scored responses, as utilities and as win probabilities, so that later stages need not know the scorer."""

    rollouts: Rollouts
    utility: np.ndarray  # [B, N]; of a pairwise scorer the mean over j of wins, with 1/2 at j = i
    wins: np.ndarray  # [B, N, N]: P(i beats j); wins + wins.T = 1; NaN: abstention
    aspects: Mapping[str, np.ndarray] = field(default_factory=dict)  # name -> float32 [B, N]
    pair_flags: Mapping[str, np.ndarray] = field(default_factory=dict)  # why no final verdict -> symmetric [B, N, N]
    counts: Mapping[str, int] = field(default_factory=dict)  # judge/queries, judge/truncated, ...
    batch_metrics: Mapping[str, float] = field(default_factory=dict)  # the scorer's metrics over all responses
    excluded: Mapping[str, str] = field(default_factory=dict)  # responses that no pair may use: id -> bucket


@dataclass(frozen=True)
class Pair:
    """Two responses to one prompt, a group of more, or a single one. `preference` = P(first beats second)."""

    prompt: str
    first: str  # response id
    second: str | None  # None: `first` alone is the training example
    preference: float
    weight: float = 1.0
    worth: tuple[float, ...] | None = None  # of first, second and others: win rate, utility, ...
    extra: str | None = None  # a third response that the objective reads; it may be one of the two
    others: tuple[str, ...] = ()  # the further responses of a group
    mass: tuple[float, ...] | None = None  # of a group, of each response; None: all are samples


@dataclass(frozen=True)
class Selection:
    """The pairs to train on. Each response is in exactly one bucket, and so is each considered pair."""

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
    """Log-probs under one policy of both sides of P pairs, and of the third response if pairs have one."""

    first: TokenLogps
    second: TokenLogps
    extra: TokenLogps | None = None


@dataclass(frozen=True)
class Needs:
    """What an objective requires of the other parts. It is checked before any worker starts."""

    anchors: frozenset[str] = frozenset()  # names of the policies whose log-probs `loss` reads
    # source of responses -> the anchor that must have sampled them, also replayed ones; "policy": the initial weights
    sampled: Mapping[str, str] = field(default_factory=dict)
    extra: str | None = None  # the source of the third response of each pair
    examples: str = "pairs"  # what a training example is: "pairs", or "groups" of one or more responses to a prompt
    order: str | None = None  # of the responses of a group: "worth", the best first, or "drawn"; None: any
    side_value: str | None = None  # of each response: "win_rate", "utility", "log_odds", or "any" number
    readout: str = "logps"  # per response: "logps" of a policy; "number", "embedding" or "mixture" of a reward head
    on_policy: bool = False  # requires samples of this round's policy: T=1, top_p=1, no top_k, no replay
    returns: str = "last"  # the iterate that its theory returns: last, best or average
    swings: bool = False  # rounds that reach the minimum of its loss swing between best responses
    first_is_policy: bool = False  # the first of each pair must be the policy's own, win or lose
    general_preferences: bool = False  # plays a game of preferences, which needs an intransitive scorer


@dataclass(frozen=True)
class PairLogps:
    """The input of an objective. `current` carries gradients, the anchors do not."""

    current: Sides
    anchors: Mapping[str, Sides]  # reference, previous, ...
    preference: Tensor  # [P]
    weight: Tensor  # [P]
    worth: Tensor | None = None  # [P, 2]: of first and second, if known
    chosen_tokens: float = 1.0  # the mean number of tokens of the preferred responses of the global batch


@dataclass(frozen=True)
class GroupLogps:
    """The input of an objective of groups: the A responses to G prompts, group after group."""

    current: TokenLogps  # [A, T]; carries gradients, the anchors do not
    anchors: Mapping[str, TokenLogps]  # reference, previous, ...
    group: Tensor  # int64 [A]: the group of each response, ascending
    worth: Tensor  # [A]
    weight: Tensor  # [G]
    mass: Tensor  # [A]: the response's share of its group; 1 / k of k samples
    enumerated: bool = False  # whether groups hold all responses with their probabilities, instead of samples
    extra: TokenLogps | None = None  # [G, T]: the third response of each group, which is not one of the A
    tokens: float = 1.0  # the mean number of response tokens of a group of the global batch

    def sum(self, values: Tensor) -> Tensor:
        """The sum over each group [G] of values [A]."""
        return values.new_zeros(len(self.weight)).index_add(0, self.group, values)

    def mean(self, values: Tensor) -> Tensor:
        """The mean over each group [G] of values [A], weighted by mass."""
        return self.sum(self.mass * values)


@dataclass(frozen=True)
class Loss:
    """Per pair or group; the learner takes the weighted mean over the *global* batch."""

    values: Tensor  # float32 [P], or [G]
    metrics: Mapping[str, Tensor]  # name -> float32 [P] or [G], detached


@dataclass(frozen=True)
class RoundPlan:
    """Which version of which policy a round starts from (pi_t), samples from and anchors to (pi_ref).

    A sampler role named like an average uses that average, as of its version.
    """

    round: int
    init: int  # train from the policy published by this round
    samplers: Mapping[str, int]  # role (policy, reference, ...) -> round that published it
    anchors: Mapping[str, int]  # anchor name -> round that published it
    publish_as: str = "policy"
    averages: Mapping[str, float] = field(default_factory=dict)  # also published: name of an average -> its decay
    extrapolation: float = 0.0  # publish trained + this * (trained - the round before's trained), of weights
    evaluated: bool = True  # False for intermediate policies, such as half steps

    def only(self, *, samplers: Collection[str], anchors: Collection[str]) -> RoundPlan:
        """The plan restricted to these roles and anchors. Raises KeyError if it has no version of one."""
        return replace(
            self,
            samplers={role: self.samplers[role] for role in sorted(samplers)},
            anchors={name: self.anchors[name] for name in sorted(anchors)},
        )


@dataclass(frozen=True)
class RoundRecord:
    """The result of a round, as plain JSON: what later rounds and reports read."""

    round: int
    policy: str  # sha256 of the published policy
    plan: Mapping[str, object]  # the RoundPlan, with the sha256 of each policy
    metrics: Mapping[str, float]
    seconds: Mapping[str, float]  # stage -> seconds of work
    files: Mapping[str, str]  # path under the round's folder -> sha256
