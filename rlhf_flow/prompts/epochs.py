"""The prompts of each round: one seeded shuffle an epoch, taken in order."""

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
class PromptSet:
    """Prompts in memory. Pure in the round number; rounds are counted from 1."""

    training: tuple[Prompt, ...]
    kept: tuple[Prompt, ...] = field(repr=False)  # for evaluation
    size: int  # prompts a round
    seed: int
    counts: Mapping[str, int]  # rows = training + held_out + dropped rows, by reason
    summary: str = ""  # one line for the console: how the data set was read, and the counts
    origin: Mapping[str, object] = field(default_factory=dict, repr=False)  # the files, to detect later changes

    def __post_init__(self) -> None:
        assert 1 <= self.size <= len(self.training)

    def batch(self, round: int, page: int = 0) -> tuple[Prompt, ...]:
        """The prompts of a round, all different. A round may begin in one epoch and end in the next.

        Pages after the first are drawn from the round's unused prompts and change no other round. Once these run out, a
        page has fewer prompts or none.
        """
        if round < 1:
            raise ValueError(f"rounds are counted from 1, got {round}")
        return tuple(self.training[index] for index in (self._page(round, page) if page else self._first(round)))

    def held_out(self) -> tuple[Prompt, ...]:
        """The prompts that evaluation uses and training never sees."""
        return self.kept

    @property
    def longest(self) -> int:
        """The number of tokens of the longest prompt, or context of a candidate, held-out prompts included."""
        return max(
            max(len(prompt.tokens), *(len(each.context or ()) for each in prompt.candidates.values()), 0)
            for prompt in (*self.training, *self.kept)
        )

    @property
    def candidates(self) -> Mapping[str, int]:
        """The answers that every training prompt has: name -> tokens of the longest, held-out prompts included."""
        names = set.intersection(*(set(prompt.candidates) for prompt in self.training))
        lengths: dict[str, int] = dict.fromkeys(sorted(names), 0)
        for prompt in (*self.training, *self.kept):
            for name in names & prompt.candidates.keys():
                lengths[name] = max(lengths[name], len(prompt.candidates[name].tokens))
        return lengths

    @property
    def sha256(self) -> str:
        """The identity of the data: every prompt as tokenised, and whether it is held out."""
        digest = sha256()
        for side in (self.training, self.kept):
            for prompt in side:
                digest.update(json.dumps(_identity(prompt), sort_keys=True).encode() + b"\n")
            digest.update(b"\n")
        return digest.hexdigest()

    def _first(self, round: int) -> np.ndarray:
        """The indices of a round's prompts."""
        epoch, start = divmod((round - 1) * self.size, len(self.training))
        batch = self._order(epoch)[start : start + self.size]
        if len(batch) < self.size:
            batch = np.concatenate([batch, self._order(epoch + 1)[: self.size - len(batch)]])
        return batch

    def _page(self, round: int, page: int) -> np.ndarray:
        """The indices of a later page, from a shuffle that belongs to this round."""
        shuffled = np.random.default_rng(derive("pages", self.seed, round)).permutation(len(self.training))
        left = shuffled[~np.isin(shuffled, self._first(round))]
        return left[(page - 1) * self.size : page * self.size]

    def _order(self, epoch: int) -> np.ndarray:
        """The shuffle of an epoch, [len(training)].

        If the first batch already holds prompts from the end of the previous epoch, these are moved behind it. So an
        epoch depends on the one before it, back to the last epoch that began with a new batch.
        """
        count = len(self.training)
        start = epoch - epoch % (self.size // math.gcd(count, self.size))
        order = np.empty(0, dtype=np.int64)
        for each in range(start, epoch + 1):
            shuffled = np.random.default_rng(derive("prompts", self.seed, each)).permutation(count)
            taken = each * count % self.size  # prompts of the previous epoch in the first batch
            if taken:
                free = shuffled[~np.isin(shuffled, order[count - taken :])]
                first = np.isin(shuffled, free[: self.size - taken])
                shuffled = np.concatenate([shuffled[first], shuffled[~first]])
            order = shuffled
        return order


def _identity(prompt: Prompt) -> dict[str, object]:
    """The prompt's fields, without those that version 0.1 had not, if they are null."""
    held = asdict(prompt)
    del held["begun"]  # of a draw
    for candidate in held["candidates"].values():
        if candidate["context"] is None:
            del candidate["context"]
    return held
