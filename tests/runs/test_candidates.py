"""Answers that came with the prompts, from their file to the learner."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from rlhf_flow.cli.main import main
from tests.support import tiny

pytestmark = pytest.mark.slow

DRAWS = (
    "[{name: own, n: 1, temperature: 0, max_tokens: 8},"
    " {name: good, n: 1, max_tokens: 32, policy: dataset, candidate: good},"
    " {name: bad, n: 1, max_tokens: 32, policy: dataset, candidate: bad}]"
)


@pytest.fixture
def asked(tmp_path: Path) -> list[str]:
    """Two answers for each prompt, ranked with the policy's own one: as SELM does."""
    rows = [
        {
            "prompt": f"Tell me about {i} cats.",
            "chosen": [{"role": "assistant", "content": f"{i}"}],
            "rejected": f"They are {i}.",
        }
        for i in range(24)
    ]
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    overrides = tiny.overrides(tiny.policy(tmp_path / "model"), prompts, tmp_path / "run", algorithm="selm")
    return [
        *(override for override in overrides if not override.startswith("sampler.draws.0")),
        "prompts.columns.candidates={good: chosen, bad: rejected}",
        "sampler=draws",
        f"sampler.draws={DRAWS}",
        "selector.extra=own",
    ]


def test_answers_of_a_data_set_are_ranked_with_the_policys_own(asked: list[str], tmp_path: Path) -> None:
    assert main(["run", *asked]) == 0
    responses = [row for path in tmp_path.glob("run/rounds/*1/responses/*") for row in pq.read_table(path).to_pylist()]
    given = [row["text"] for row in responses if row["source"] == "dataset"]
    assert len(given) == 16 and sum(text.startswith("They are") for text in given) == 8
    pairs = [row for path in tmp_path.glob("run/rounds/*1/pairs/*") for row in pq.read_table(path).to_pylist()]
    used = [row for row in pairs if row["first"] is not None]
    assert len(used) == 8 and all("/own/" in row["extra"] for row in used)
    assert all("/good/" in row["first"] for row in used)  # the shortest: what the judge likes
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert metrics[1]["train/loss"] > 0


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "prompts.columns.candidates={good: chosen}",
            "sampler.draws.2.candidate must be an answer that every prompt has (good), got 'bad'. "
            "Fix: name its column, 'prompts.columns.candidates={bad: column}'.",
        ),
        (f"sampler.draws={DRAWS.replace('32', '4')}", "sampler.draws.2.max_tokens must be >= "),
        ("prompts.columns.candidates={good: best, bad: rejected}", "prompts.columns.candidates.good="),
    ],
)
def test_what_is_missing_or_too_long_is_said_before_the_run(
    override: str, said: str, asked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    replaced = override.partition("=")[0]
    assert main(["run", *(one for one in asked if not one.startswith(f"{replaced}=")), override]) == 2
    assert said in capsys.readouterr().err
