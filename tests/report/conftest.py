"""Folders as runs leave them, made by hand: what the report reads, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

MakeRun = Callable[..., Path]

CONFIG = """\
rounds: {rounds}
scorer: {{_target_: rlhf_flow.scorer.models.reward_model.RewardModel, path: models/reward}}
evaluate:
  every: 1
  scorer: {{_target_: rlhf_flow.scorer.functions.rule.Rule, function: rlhf_flow.sandbox.gold.worth}}
note: "{note}"
"""
STAGES = {"sample": 9.0, "score": 2.5, "select": 0.1, "anchor": 1.5, "learn": 12.0, "publish": 0.4, "evaluate": 6.0}


def metrics(round: int) -> dict[str, float]:
    """What a round of a run that goes well has to say."""
    gain = 1 - 0.6**round
    line: dict[str, float] = {
        "eval/win_rate": 0.5 + 0.45 * gain,
        "eval/win_rate_low": 0.5 + 0.45 * gain - 0.04 * (round > 0),
        "eval/win_rate_high": 0.5 + 0.45 * gain + 0.03 * (round > 0),
        "eval/reward": 0.41 + 0.4 * gain,
        "eval/proxy": -0.8 + 3.1 * gain,
        "eval/length": 31.0 - 4 * gain,
        "eval/truncated": 0.031 * (1 - gain),
        "eval/distinct": 0.99 - 0.05 * gain,
        "eval/aspect/well_formed": 0.93 + 0.05 * gain,
        "eval/aspect/on_topic": 0.3 + 0.6 * gain,
        "eval/aspect/tone": 0.45 + 0.3 * gain,
        "seconds/evaluate": STAGES["evaluate"],
        "seconds/round": STAGES["evaluate"] + 0.1,
    }
    if round:
        line |= {"eval/kl": 7.5 * gain, "train/loss": 0.69 - 0.3 * gain, "train/margin": 2.5 * gain}
        line |= {"train/accuracy": 0.55 + 0.3 * gain, "reward/mean": -0.7 + 3 * gain, "staleness/max": 0}
        line |= {"pairs/used": 500 - 10 * round, "pairs/tie": 12 + 10 * round}
        line |= {"responses/paired": 1000, "responses/duplicate": 24 + 3 * round, "responses/sampled": 1024 + 3 * round}
        line |= {"judge/queries": 1024, "tokens/sampled": 31000}
        line |= {f"seconds/{stage}": seconds for stage, seconds in STAGES.items()}
        line["seconds/round"] = sum(STAGES.values()) + 0.7
    return line


def answers(n: int, round: int) -> list[dict[str, object]]:
    return [
        {
            "prompt_id": f"held-out-{index:03d}",
            "prompt": f"Name something that is number {index}.",
            "start": f"number {index} is maybe nice nice nice",
            "answer": f"Round {round} says: number {index} is well said, kindly and briefly.",
            "win": (index * 37 % 100) / 100,
            "utility": 0.8,
            "start_utility": 0.4,
            "length": 12,
            "truncated": index % 7 == 0,
        }
        for index in range(n)
    ]


def watched(round: int) -> dict[str, float]:
    """What a round of a run says that pleases its own judge more and more, and no other."""
    fooled = 1 - 0.5**round
    line = metrics(round) | {
        "eval/win_rate_length_controlled": 0.5 + 0.02 * round,
        "eval/length_drift": 1 + 0.9 * fooled,
        "eval/topk_entropy": 1.8 - 0.5 * fooled,
        "eval/topk_mass": 0.9 + 0.05 * fooled,
        "eval/proxy_win_rate": 0.5 + 0.45 * fooled,
        "eval/proxy_gap": 0.4 * fooled,
    }
    for key in ("eval/proxy_win_rate", "eval/proxy_gap", "eval/length_drift"):
        line |= {f"{key}_low": line[key] - 0.05 * (round > 0), f"{key}_high": line[key] + 0.05 * (round > 0)}
    return line | ({"alarm/proxy_gap": 1} if round > 1 else {}) | ({"alarm/length_drift": 1} if round == 4 else {})


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """make_run(lines=[...], rows={round: [...]}, name=..., finished=..., note=...) -> the folder of a run."""

    def make(
        lines: Sequence[dict[str, float]] = (),
        rows: dict[int, list[dict[str, object]]] | None = None,
        *,
        name: str = "sandbox",
        rounds: int = 4,
        finished: bool = False,
        note: str = "",
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.yaml").write_text(CONFIG.format(rounds=rounds, note=note), encoding="utf-8")
        start = {"versions": {"torch": "2.13.0", "vllm": "0.32.0"}, "commit": "abc123", "note": note}
        (folder / "manifest.json").write_text(json.dumps({"starts": [start]}), encoding="utf-8")
        written = [json.dumps({"round": round, **line}) for round, line in enumerate(lines)]
        (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in written), encoding="utf-8")
        for round, table in (rows or {}).items():
            path = folder / "rounds" / f"{round:05d}" / "evaluation" / "compared.parquet"
            path.parent.mkdir(parents=True)
            pq.write_table(pa.Table.from_pylist(table), path)
        if finished:
            (folder / "final.json").write_text(json.dumps({"round": len(lines) - 1}), encoding="utf-8")
        return folder

    return make


@pytest.fixture
def fooled_run(make_run: MakeRun) -> Path:
    """Four rounds that pleased the training scorer."""
    return make_run([watched(round) for round in range(5)], name="fooled")


@pytest.fixture
def good_run(make_run: MakeRun) -> Path:
    """Four rounds that went well, with their answers."""
    rows = {round: answers(40, round) for round in range(5)}
    return make_run([metrics(round) for round in range(5)], rows, finished=True)
