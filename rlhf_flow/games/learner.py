"""Trains a table of logits in float64.

All games of a board are trained independently: the loss of a game is the weighted mean over its own pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlhf_flow.games.game import LOGITS, Board
from rlhf_flow.games.solvers import Method
from rlhf_flow.learner.batching import named, read_anchors, read_pairs
from rlhf_flow.learner.logits import spread
from rlhf_flow.protocols import TrainingRound
from rlhf_flow.storage.tables import Table
from rlhf_flow.types import PairLogps, Policy, Sides, TokenLogps
from rlhf_flow.weights.fingerprint import fingerprint
from rlhf_flow.weights.source import InMemoryWeights

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass
class TabularLearner:
    """Implements `protocols.Learner`. `published`: round -> the probabilities [K] of each game's answers."""

    board: Board
    method: Method
    logits: Tensor = field(init=False)
    published: dict[int, list[np.ndarray]] = field(default_factory=dict)
    metrics: dict[int, Mapping[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.logits = self.board.reference

    def start(self, policy: Policy) -> None:
        self.logits = policy.weights.load()[LOGITS]

    def logps(self, responses: Sequence[Table], wanted: Sequence[str], policy: Policy) -> pa.Table:
        values = self.board.token_logps(policy.weights.load()[LOGITS])
        return self._table(responses, wanted, policy, {"logps": values})

    def spread(self, responses: Sequence[Table], wanted: Sequence[str], policy: Policy) -> pa.Table:
        logits = policy.weights.load()[LOGITS]
        rows, tokens, _ = (torch.from_numpy(part) for part in self.board.paths)  # [A, T]
        read = spread(logits[rows].flatten(0, 1), tokens.flatten()).unflatten(0, rows.shape)  # [A, T, 3]
        columns = zip(("logps", "entropy", "mass"), read.unbind(-1), strict=True)
        return self._table(responses, wanted, policy, dict(columns))

    def _table(
        self, responses: Sequence[Table], wanted: Sequence[str], policy: Policy, columns: Mapping[str, Tensor]
    ) -> pa.Table:
        """The rows of the wanted answers, of columns [A, T], without padding."""
        import pyarrow as pa

        places = _places(self.board, responses)
        lengths = self.board.paths[2].sum(-1)
        lists = pa.list_(pa.float64())

        def column(values: np.ndarray) -> pa.Array:
            return pa.array([values[places[id], : lengths[places[id]]] for id in wanted], lists)

        return pa.table(
            {
                "response": pa.array(wanted, pa.string()),
                "policy": pa.array([policy.sha256] * len(wanted), pa.string()),
                **{name: column(values.numpy()) for name, values in columns.items()},
            }
        )

    def steps(self, lesson: TrainingRound) -> int:
        return int(any(tables.pairs.rows for tables in lesson.tables))

    def update(self, lesson: TrainingRound, first: int, last: int) -> Mapping[str, float]:
        study = _study(self.board, lesson)
        self.logits = self.method.solve(self.board, self.logits, study.losses)
        if not self.logits.isfinite()[self.board.reference.isfinite()].all():
            raise FloatingPointError(f"the logits of round {lesson.round} are not finite")
        return {"loss": float(study.losses(self.logits).sum()), "pairs": float(study.pairs.weight.sum())}

    def publish(self, name: str, round: int) -> Policy:
        state = {LOGITS: self.logits.detach().clone()}
        self.published[round] = self.board.probabilities(state[LOGITS])
        return Policy(name, round, fingerprint(state), InMemoryWeights(state), stateless=True)

    def average(self, name: str, round: int, terms: Sequence[tuple[Policy, float]]) -> Policy:
        free = self.board.reference.isfinite()
        parts = [coefficient * policy.weights.load()[LOGITS].where(free, 0.0) for policy, coefficient in terms]
        state = {LOGITS: torch.stack(parts).sum(0).where(free, -torch.inf)}
        return Policy(name, round, fingerprint(state), InMemoryWeights(state), stateless=True)

    def save_policy(self, folder: Path, policy: Policy | None = None) -> Mapping[str, str]:
        folder.mkdir(parents=True)
        logits = self.logits if policy is None else policy.weights.load()[LOGITS]
        save_file({LOGITS: logits.contiguous()}, folder / "logits.safetensors")
        return {}

    def save_state(self, folder: Path) -> Mapping[str, str]:
        return self.save_policy(folder)

    def load_state(self, folder: Path) -> None:
        self.logits = load_file(folder / "logits.safetensors")[LOGITS]

    def close(self) -> None: ...


@dataclass(frozen=True)
class Study:
    """A training round in tensors: everything that the objective reads except the current log-probs."""

    board: Board
    lesson: TrainingRound
    places: list[Tensor]  # [P] each, of first, second and, if pairs have it, extra: index of the answer
    pairs: PairLogps  # `current` is empty
    share: Tensor  # [P]: the pair's share of its game's weight
    games: Tensor  # [P]: the pair's game

    def losses(self, logits: Tensor) -> Tensor:
        """The mean loss of each game [G] under a table of logits."""
        values = self.board.token_logps(logits)  # [A, T]
        current = Sides(*(TokenLogps(values[place], mask) for place, mask in self._masked()))
        pairs = PairLogps(
            current, self.pairs.anchors, self.pairs.preference, weight=self.pairs.weight, worth=self.pairs.worth
        )
        loss = self.lesson.objective.loss(pairs).values * self.share
        return torch.zeros(len(self.board.games), dtype=torch.float64).index_add(0, self.games, loss)

    def _masked(self) -> list[tuple[Tensor, Tensor]]:
        mask = torch.from_numpy(self.board.paths[2])
        return [(place, mask[place]) for place in self.places]


def _study(board: Board, lesson: TrainingRound) -> Study:
    known = _places(board, [tables.responses for tables in lesson.tables])
    third = lesson.objective.needs.extra is not None
    pairs = [pair for tables in lesson.tables for pair in read_pairs(tables)]
    ids = [named(pair)[: 3 if third else 2] for pair in pairs]
    places = [torch.tensor([known[side[s]] for side in ids]) for s in range(len(ids[0]))]
    weight = torch.tensor([pair.weight for pair in pairs], dtype=torch.float64)
    games = _games_of_answers(board)[places[0]]
    of_game = torch.zeros(len(board.games), dtype=torch.float64).index_add(0, games, weight)
    worth = [pair.worth for pair in pairs]
    empty = TokenLogps(torch.empty(0), torch.empty(0))
    return Study(
        board,
        lesson,
        places,
        pairs=PairLogps(
            Sides(empty, empty),
            _anchors(board, lesson, ids, places),
            torch.tensor([pair.preference for pair in pairs], dtype=torch.float64),
            weight=weight,
            worth=None if None in worth else torch.tensor(worth, dtype=torch.float64),
        ),
        share=weight / of_game[games],
        games=games,
    )


def _anchors(
    board: Board, lesson: TrainingRound, ids: Sequence[tuple[str, ...]], places: Sequence[Tensor]
) -> dict[str, Sides]:
    logps = read_anchors(lesson, {id for sides in ids for id in sides})
    mask = torch.from_numpy(board.paths[2])
    anchors = {}
    for name in sorted(lesson.objective.needs.anchors):
        sides = []
        for s, place in enumerate(places):
            values = torch.zeros((len(ids), mask.shape[1]), dtype=torch.float64)
            flat = np.concatenate([logps[side[s], lesson.roles[name]] for side in ids])
            values = values.masked_scatter(mask[place], torch.from_numpy(flat).double())
            sides.append(TokenLogps(values, mask[place]))
        anchors[name] = Sides(*sides)
    return anchors


def _places(board: Board, tables: Sequence[Table]) -> dict[str, int]:
    """Response id -> index among all games' answers."""
    places = {}
    for table in tables:
        for shard in table.read_shards(["response", "prompt_tokens", "tokens"]):
            columns = (shard[name].to_pylist() for name in ("response", "prompt_tokens", "tokens"))
            for id, (game,), tokens in zip(*columns, strict=True):
                places[id] = board.index[game, tuple(tokens)]
    return places


def _games_of_answers(board: Board) -> Tensor:
    return torch.tensor([g for g, _ in board.index])
