"""Which prompts a round gets: one seeded shuffle an epoch, dealt out in order."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256

import numpy as np

from rlhf_flow.seeds import derive
from rlhf_flow.types import Prompt


@dataclass(frozen=True)
class Dealt:
    """Prompts in memory. Pure in the round number; rounds are counted from 1."""

    training: tuple[Prompt, ...]
    kept: tuple[Prompt, ...] = field(repr=False)  # for evaluation
    size: int  # prompts a round
    seed: int
    counts: Mapping[str, int]  # rows = training + held_out + those that were dropped, by reason
    summary: str = ""  # one line for the console: how the data set was read, and the counts
    origin: Mapping[str, object] = field(default_factory=dict, repr=False)  # the files, to tell later what changed

    def __post_init__(self) -> None:
        assert 1 <= self.size <= len(self.training)

    def batch(self, round: int, page: int = 0) -> tuple[Prompt, ...]:
        """The prompts of a round, all different. A round may begin in one epoch and end in the next.

        Further pages are drawn from the prompts that the round has not had; they change no other round. The last ones
        have fewer, and then none.
        """
        if round < 1:
            raise ValueError(f"rounds are counted from 1, got {round}")
        return tuple(self.training[index] for index in (self._further(round, page) if page else self._dealt(round)))

    def held_out(self) -> tuple[Prompt, ...]:
        """The prompts that evaluation uses and training never sees."""
        return self.kept

    @property
    def longest(self) -> int:
        """The number of tokens of the longest prompt, on either side."""
        return max(len(prompt.tokens) for prompt in (*self.training, *self.kept))

    @property
    def candidates(self) -> Mapping[str, int]:
        """The answers that came with every training prompt: name -> tokens of the longest, on either side."""
        names = set.intersection(*(set(prompt.candidates) for prompt in self.training))
        lengths: dict[str, int] = dict.fromkeys(sorted(names), 0)
        for prompt in (*self.training, *self.kept):
            for name in names & prompt.candidates.keys():
                lengths[name] = max(lengths[name], len(prompt.candidates[name].tokens))
        return lengths

    @property
    def sha256(self) -> str:
        """The identity of the data: of every prompt as it was read and tokenised, and of the side that it is on."""
        digest = sha256()
        for side in (self.training, self.kept):
            for prompt in side:
                digest.update(json.dumps(asdict(prompt), sort_keys=True).encode() + b"\n")
            digest.update(b"\n")
        return digest.hexdigest()

    def _dealt(self, round: int) -> np.ndarray:
        """The indices of a round's prompts."""
        epoch, start = divmod((round - 1) * self.size, len(self.training))
        dealt = self._order(epoch)[start : start + self.size]
        if len(dealt) < self.size:
            dealt = np.concatenate([dealt, self._order(epoch + 1)[: self.size - len(dealt)]])
        return dealt

    def _further(self, round: int, page: int) -> np.ndarray:
        """The indices of a page behind the first: of a shuffle of this round's own."""
        shuffled = np.random.default_rng(derive("pages", self.seed, round)).permutation(len(self.training))
        left = shuffled[~np.isin(shuffled, self._dealt(round))]
        return left[(page - 1) * self.size : page * self.size]

    def _order(self, epoch: int) -> np.ndarray:
        """The shuffle of an epoch, [len(training)].

        Where the first batch still holds prompts from the end of the epoch before, these wait for the next batch. That
        makes an epoch depend on the one before it, back to the last that began with a batch of its own.
        """
        count = len(self.training)
        alone = epoch - epoch % (self.size // math.gcd(count, self.size))
        order = np.empty(0, dtype=np.int64)
        for each in range(alone, epoch + 1):
            shuffled = np.random.default_rng(derive("prompts", self.seed, each)).permutation(count)
            taken = each * count % self.size  # places of the first batch that the epoch before has filled
            if taken:
                free = shuffled[~np.isin(shuffled, order[count - taken :])]
                first = np.isin(shuffled, free[: self.size - taken])
                shuffled = np.concatenate([shuffled[first], shuffled[~first]])
            order = shuffled
        return order
