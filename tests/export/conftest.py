"""A run of version 0.1 with its files, and runs whose rounds are made by hand."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from rlhf_flow.selector.best_and_worst import BestAndWorst
from rlhf_flow.storage import parquet
from rlhf_flow.storage.ledger import Ledger
from rlhf_flow.storage.store import StageFacts, StageWriter
from rlhf_flow.types import Message, Pair, Prompt, Response, Rollouts, RoundRecord, SamplingParams, Scored, Selection

ARCHIVE = Path(__file__).parents[1] / "support/old_runs/0.1.tar.xz"
SCORER = "rlhf_flow.scorer.models.reward_model.RewardModel, path: judge"
MakeRun = Callable[..., Path]


@pytest.fixture(scope="session")
def old_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rounds of online DPO with a reward model."""
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder / "0.1/online_dpo"


def response(
    prompt: str, k: int, text: str, *, round: int = 1, truncated: bool = False, source: str = "policy"
) -> Response:
    draw = SamplingParams(name="policy", n=2, max_tokens=8)
    tokens = np.arange(3, dtype=np.int32)
    id = f"{round}/{source}/{k}/{prompt}"
    return Response(id, tokens, text, None, truncated, draw, seed=k, policy="0" * 64, source=source)


def scored(
    texts: Sequence[Sequence[str]],
    wins: np.ndarray,
    utility: np.ndarray,
    *,
    round: int = 1,
    cut: Sequence[str] = (),
    source: str = "policy",
) -> Scored:
    """Prompts q0, q1, ... with these answers [B][N]; those in `cut` are truncated."""
    prompts = [Prompt(f"q{b}", (Message("user", f"Question {b}?"),), (1, 2)) for b in range(len(texts))]
    groups = tuple(
        tuple(
            response(prompt.id, k, text, round=round, truncated=text in cut, source=source)
            for k, text in enumerate(group)
        )
        for prompt, group in zip(prompts, texts, strict=True)
    )
    return Scored(Rollouts(round, tuple(prompts), groups), utility=utility, wins=wins)


def pairwise_wins(*firsts: float) -> np.ndarray:
    """[B, 2, 2], from P(first beats second) of each prompt."""
    return np.array([[[0.5, p], [1 - p, 0.5]] for p in firsts])


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """A run with one round per `Scored`; `pairs`: of each round, by default best against worst.

    `given`: two answers of a data set, of which the first is better.
    """

    def make(*rounds: Scored, pairs: Sequence[Pair] | None = None, given: Rollouts | None = None) -> Path:
        run = tmp_path / "run"
        ledger = Ledger(run)
        run.mkdir()
        model = tmp_path / "model"
        lines = [f"model: {{path: {model}}}", "prompts: {path: p.jsonl, _target_: rlhf_flow.prompts.jsonl.Jsonl}"]
        (run / "config.yaml").write_text("\n".join([*lines, f"scorer: {{_target_: {SCORER}}}"]) + "\n")
        for number, one in enumerate((None, *rounds)):
            if one is not None:
                selection = BestAndWorst(truncated="keep").select(one)
                if pairs is not None:
                    selection = Selection(tuple(pairs), {}, {})
                selected = {"pairs/00000": parquet.from_selection(selection)}
                if given is not None:
                    chosen, rejected = given.responses[0]
                    pair = Pair(given.prompts[0].id, chosen.id, rejected.id, preference=1.0)
                    selected["given/responses"] = parquet.from_rollouts(given)
                    selected["pairs/given"] = parquet.from_selection(Selection((pair,), {}, {}))
                for stage, tables in {
                    "sample": {"responses/00000": parquet.from_rollouts(one.rollouts)},
                    "score": {"scores/00000": parquet.from_scored(one)},
                    "select": selected,
                }.items():
                    ledger.commit(number, stage, partial(_write, tables=tables))
            ledger.close_round(RoundRecord(number, "0" * 64, {}, {}, {}, {}))
        return run

    return make


def _write(writer: StageWriter, tables: Mapping[str, pa.Table]) -> StageFacts:
    for name, table in tables.items():
        writer.table(name, table)
    return {}
