"""Games small enough to solve exactly: K answers to a prompt, a preference between any two, and a tabular policy.

An answer is a short sequence of tokens, so a policy is like a language model: it has log-probs per token, answers of
unequal length, and mixtures that are normalised at every token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from rlhf_flow.types import Message, Prompt

if TYPE_CHECKING:
    from torch import Tensor

LOGITS = "logits"  # the one tensor of a tabular policy's state dict


@dataclass(frozen=True)
class Game:
    """P(i beats j) among K answers, and the reference policy over them.

    Raises ValueError if `wins` is no preference, `reference` no distribution, or one answer is a prefix of another.
    """

    wins: np.ndarray = field(repr=False)  # [K, K]: wins + wins.T = 1
    reference: np.ndarray = field(repr=False)  # [K]
    answers: tuple[tuple[int, ...], ...] = ()  # [K] of tokens; empty: answer k is the one token k

    def __post_init__(self) -> None:
        object.__setattr__(self, "wins", np.asarray(self.wins, dtype=np.float64))
        object.__setattr__(self, "reference", np.asarray(self.reference, dtype=np.float64))
        if not self.answers:
            object.__setattr__(self, "answers", tuple((k,) for k in range(self.size)))
        begun = {answer[:length] for answer in self.answers for length in range(len(answer))}
        for rule, ok in (
            ("wins must be [K, K] with wins + wins.T = 1", np.allclose(self.wins + self.wins.T, 1)),
            ("reference must be [K], positive, of sum 1", _distribution(self.reference, self.size)),
            ("answers must be K different ones", len(set(self.answers)) == self.size == len(self.answers)),
            ("answers must not begin one another, nor be empty", not begun & set(self.answers)),
        ):
            if not ok:
                raise ValueError(f"a game's {rule}; got {self.size} x {self.wins.shape[-1]} wins, {self!r}")

    @property
    def size(self) -> int:
        """K."""
        return len(self.wins)


def bradley_terry(worth: npt.ArrayLike, reference: npt.ArrayLike) -> Game:
    """The transitive game P(i beats j) = sigma(worth_i - worth_j)."""
    values = np.asarray(worth, dtype=np.float64)
    return Game(1 / (1 + np.exp(values[None, :] - values[:, None])), np.asarray(reference))


@dataclass(frozen=True)
class Board:
    """Several games. Prompt "<g>/<copy>", with tokens (g,), plays game g.

    A policy is a table of logits, float64 [rows, V], with a row for every proper prefix of an answer of every game, and
    -inf for tokens that continue no answer.
    """

    games: tuple[Game, ...]

    def prompts(self, copies: int = 1) -> tuple[Prompt, ...]:
        """Every game, `copies` times."""
        return tuple(
            Prompt(id=f"{g}/{copy}", messages=(Message("user", f"game {g}"),), tokens=(g,))
            for g in range(len(self.games))
            for copy in range(copies)
        )

    @cached_property
    def index(self) -> dict[tuple[int, tuple[int, ...]], int]:
        """(game, answer) -> index among all games' answers."""
        flat = [(g, answer) for g, game in enumerate(self.games) for answer in game.answers]
        return {key: place for place, key in enumerate(flat)}

    @cached_property
    def of_game(self) -> list[slice]:
        """The slice of game g among all games' answers."""
        ends = np.cumsum([game.size for game in self.games])
        return [slice(int(end) - game.size, int(end)) for end, game in zip(ends, self.games, strict=True)]

    @cached_property
    def paths(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of all games' answers: rows [A, T], tokens [A, T], mask [A, T]."""
        longest = max(len(answer) for _, answer in self.index)
        rows, tokens = np.zeros((2, len(self.index), longest), dtype=np.int64)
        mask = np.zeros((len(self.index), longest), dtype=bool)
        for place, (g, answer) in enumerate(self.index):
            for t, token in enumerate(answer):
                rows[place, t], tokens[place, t], mask[place, t] = self.rows[g, answer[:t]], token, True
        return rows, tokens, mask

    @cached_property
    def rows(self) -> dict[tuple[int, tuple[int, ...]], int]:
        """(game, prefix of an answer) -> row of the table."""
        begun = dict.fromkeys((g, answer[:t]) for g, answer in self.index for t in range(len(answer)))
        return {key: row for row, key in enumerate(begun)}

    @cached_property
    def games_of_rows(self) -> np.ndarray:
        """The game of each row of the table."""
        return np.asarray([g for g, _ in self.rows])

    def token_logps(self, logits: Tensor) -> Tensor:
        """Log-probs [A, T] of all games' answers; 0 after an answer's end."""
        import torch

        rows, tokens, mask = (torch.from_numpy(part) for part in self.paths)
        return torch.where(mask, logits.log_softmax(-1)[rows, tokens], 0.0)

    def probabilities(self, logits: Tensor) -> list[np.ndarray]:
        """The probabilities [K] of each game's answers."""
        flat = self.token_logps(logits).sum(-1).exp().numpy()
        return [flat[part] for part in self.of_game]

    def logits(self, policies: Sequence[np.ndarray]) -> Tensor:
        """The table of the given probabilities [K] of each game's answers."""
        import torch

        table = torch.full((len(self.rows), 1 + int(self.paths[1].max())), -torch.inf, dtype=torch.float64)
        mass = np.concatenate(policies)
        rows, tokens, mask = self.paths
        table[rows[mask], tokens[mask]] = 0.0
        total = torch.zeros_like(table)
        for place, t in zip(*mask.nonzero(), strict=True):
            total[rows[place, t], tokens[place, t]] += mass[place]
        return torch.where(table.isfinite(), total.log() - total.sum(-1, keepdim=True).log(), -torch.inf)

    @cached_property
    def reference(self) -> Tensor:
        """The table of the games' reference policies."""
        return self.logits([game.reference for game in self.games])


def mixed(policy: Tensor, reference: Tensor, weight: float) -> Tensor:
    """Log-probs of the geometric mixture at every row: policy^(1 - weight) * reference^weight, normalised."""
    import torch

    blended = torch.lerp(policy.log_softmax(-1), reference.log_softmax(-1), weight)
    return torch.where(policy.isfinite(), blended, -torch.inf).log_softmax(-1)


def _distribution(values: np.ndarray, size: int) -> bool:
    return values.shape == (size,) and bool((values > 0).all()) and bool(np.isclose(values.sum(), 1))
