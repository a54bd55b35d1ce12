"""Trains a table of logits in float64.

All games of a board are trained independently: the loss of a game is the weighted mean over its own pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
from rlhf_flow.types import GroupLogps, Pair, PairLogps, Policy, Sides, TokenLogps
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
        read = spread(logits[rows].flatten(0, 1), tokens.flatten()).unflatten(0, rows.shape)  # [A, T, 4]
        columns = zip(("logps", "entropy", "mass", "likeliest"), read.unbind(-1), strict=True)
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

    def computes_anchor(self, lesson: TrainingRound, sha256: str) -> bool:
        return False  # its one step is a whole optimisation

    def update(self, lesson: TrainingRound, first: int, last: int) -> Mapping[str, float]:
        study = _study(self.board, lesson)
        self.logits = self.method.solve(self.board, self.logits, study.losses)
        if not self.logits.isfinite()[self.board.reference.isfinite()].all():
            raise FloatingPointError(f"the logits of round {lesson.round} are not finite")
        return {"loss": float(study.losses(self.logits).sum()), "pairs": float(study.weight.sum())}

    def publish(self, name: str, round: int) -> Policy:
        state = {LOGITS: self.logits.detach().clone()}
        self.published[round] = self.board.probabilities(state[LOGITS])
        return Policy(name, round, fingerprint(state), InMemoryWeights(state), stateless=True)

    def average(self, name: str, round: int, terms: Sequence[tuple[Policy, float]]) -> Policy:
        free = self.board.reference.isfinite()
        parts = [coefficient * policy.weights.load()[LOGITS].where(free, 0.0) for policy, coefficient in terms]
        state = {LOGITS: torch.stack(parts).sum(0).where(free, -torch.inf)}
        if name == "policy":  # the round's policy is this one, not what was trained
            self.published[round] = self.board.probabilities(state[LOGITS])
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


Losses = Callable[[Tensor], Tensor]  # token log-probs [A, T] -> the loss of each training example


@dataclass(frozen=True)
class Study:
    """A training round in tensors: everything that the objective reads except the current log-probs."""

    board: Board
    read: Losses
    weight: Tensor  # [P], of the examples
    games: Tensor  # [P]: the game of each

    def losses(self, logits: Tensor) -> Tensor:
        """The mean loss of each game [G] under a table of logits."""
        values = self.read(self.board.token_logps(logits))
        of_game = torch.zeros(len(self.board.games), dtype=torch.float64).index_add(0, self.games, self.weight)
        share = self.weight / of_game[self.games]
        return torch.zeros(len(self.board.games), dtype=torch.float64).index_add(0, self.games, values * share)


def _study(board: Board, lesson: TrainingRound) -> Study:
    known = _places(board, [tables.responses for tables in lesson.tables])
    pairs = [pair for tables in lesson.tables for pair in read_pairs(tables)]
    weight = torch.tensor([pair.weight for pair in pairs], dtype=torch.float64)
    games = _games_of_answers(board)[torch.tensor([known[pair.first] for pair in pairs])]
    read = _groups if lesson.objective.needs.examples == "groups" else _pairs
    return Study(board, read(board, lesson, pairs, weight, known), weight, games)


def _pairs(
    board: Board, lesson: TrainingRound, pairs: Sequence[Pair], weight: Tensor, known: Mapping[str, int]
) -> Losses:
    third = lesson.objective.needs.extra is not None
    ids = [named(pair)[: 3 if third else 2] for pair in pairs]
    places = [torch.tensor([known[side[s]] for side in ids]) for s in range(len(ids[0]))]
    mask = torch.from_numpy(board.paths[2])
    worth = [pair.worth for pair in pairs]
    chosen = [
        mask[place[p < 0.5]].sum() for *place, p in zip(*places[:2], [pair.preference for pair in pairs], strict=True)
    ]
    given = PairLogps(
        Sides(*[TokenLogps(torch.empty(0), torch.empty(0))] * 2),
        {
            name: Sides(
                *(_anchor(board, lesson, name, [side[s] for side in ids], place) for s, place in enumerate(places))
            )
            for name in sorted(lesson.objective.needs.anchors)
        },
        torch.tensor([pair.preference for pair in pairs], dtype=torch.float64),
        weight=weight,
        worth=None if None in worth else torch.tensor(worth, dtype=torch.float64),
        chosen_tokens=float(torch.stack(chosen).double().mean()),
    )

    def read(values: Tensor) -> Tensor:
        current = Sides(*(TokenLogps(values[place], mask[place]) for place in places))
        return lesson.objective.loss(replace(given, current=current)).values

    return read


def _groups(
    board: Board, lesson: TrainingRound, groups: Sequence[Pair], weight: Tensor, known: Mapping[str, int]
) -> Losses:
    third = lesson.objective.needs.extra is not None
    extra = torch.tensor([known[group.extra] for group in groups if third and group.extra is not None])
    groups = [replace(group, extra=None) for group in groups]
    ids = [id for group in groups for id in named(group)]
    sizes = torch.tensor([len(named(group)) for group in groups])
    place = torch.tensor([known[id] for id in ids])
    valid = torch.from_numpy(board.paths[2])
    mask = valid[place]
    mass = [group.mass or (1.0,) * len(named(group)) for group in groups]
    given = GroupLogps(
        TokenLogps(torch.empty(0), torch.empty(0)),
        {name: _anchor(board, lesson, name, ids, place) for name in sorted(lesson.objective.needs.anchors)},
        group=torch.arange(len(groups)).repeat_interleave(sizes),
        worth=torch.tensor([value for group in groups for value in group.worth or ()], dtype=torch.float64),
        weight=weight,
        mass=torch.tensor([one / sum(each) for each in mass for one in each], dtype=torch.float64),
        enumerated=any(group.mass is not None for group in groups),
    )

    def read(values: Tensor) -> Tensor:
        thirds = TokenLogps(values[extra], valid[extra]) if third else None
        current = TokenLogps(values[place], mask)
        return lesson.objective.loss(replace(given, current=current, extra=thirds)).values

    return read


def _anchor(board: Board, lesson: TrainingRound, name: str, ids: Sequence[str], place: Tensor) -> TokenLogps:
    """The log-probs [P, T] of responses under an anchor."""
    logps, mask = read_anchors(lesson, set(ids)), torch.from_numpy(board.paths[2])[place]
    flat = np.concatenate([logps[id, lesson.roles[name]] for id in ids])
    values = torch.zeros(mask.shape, dtype=torch.float64).masked_scatter(mask, torch.from_numpy(flat).double())
    return TokenLogps(values, mask)


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
