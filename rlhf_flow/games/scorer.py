"""The scorer of a game: P(one answer beats another) from its matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rlhf_flow.games.game import Board
from rlhf_flow.types import Rollouts, Scored


@dataclass(frozen=True)
class MatrixScorer:
    """Implements `protocols.Scorer` for the games of a board."""

    board: Board

    def score(self, rollouts: Rollouts) -> Scored:
        wins = []
        for prompt, group in zip(rollouts.prompts, rollouts.responses, strict=True):
            game = prompt.tokens[0]
            first = self.board.of_game[game].start
            answers = [self.board.index[game, tuple(one.tokens.tolist())] - first for one in group]
            wins.append(self.board.games[game].wins[np.ix_(answers, answers)])
        table = np.stack(wins)  # [B, N, N]
        queries = table.shape[0] * table.shape[1] * (table.shape[1] - 1) // 2
        return Scored(rollouts, utility=table.mean(-1), wins=table, counts={"judge/queries": queries})

    def close(self) -> None: ...


@dataclass(frozen=True)
class RewardScorer:
    """As `MatrixScorer`, with given rewards as utilities: of each game [K], the answers' rewards in nats."""

    board: Board
    rewards: Sequence[np.ndarray]

    def score(self, rollouts: Rollouts) -> Scored:
        scored = MatrixScorer(self.board).score(rollouts)
        utility = []
        for prompt, group in zip(rollouts.prompts, rollouts.responses, strict=True):
            game = prompt.tokens[0]
            first = self.board.of_game[game].start
            utility.append(
                [self.rewards[game][self.board.index[game, tuple(one.tokens.tolist())] - first] for one in group]
            )
        return replace(scored, utility=np.array(utility, dtype=np.float64))

    def close(self) -> None: ...
