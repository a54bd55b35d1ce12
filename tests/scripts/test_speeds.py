"""The measurements of scoring and of rollouts alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import rollouts
import scoring
from peer.workload import W5V, build
from speeds import Speed, rows, table

from rlhf_flow.types import SamplingParams


def test_a_ratio_is_that_of_the_same_repetition() -> None:
    speeds = [Speed("bare", [100.0, 10.0, 50.0]), Speed("ours", [90.0, 9.0, 60.0])]
    *_, bare, ours = table("title", "answers", speeds).splitlines()
    assert bare.split()[-4:] == ["1.00", "1.00", "to", "1.00"]
    assert ours.split() == ["ours", "60", "9", "to", "90", "0.90", "0.90", "to", "1.20"]
    assert rows("W", "float32", "answers", speeds)[1] == {
        "workload": "W",
        "dtype": "float32",
        "unit": "answers/s",
        "side": "ours",
        "runs": [90.0, 9.0, 60.0],
    }


@pytest.mark.slow
def test_the_scorer_and_a_bare_forward_pass_score_alike(capsys: pytest.CaptureFixture[str]) -> None:
    found = scoring.measure(answers=16, repeats=1)  # it compares the scores
    assert [row["side"] for row in found] == ["bare forward pass", "rlhf_flow scorer"]
    assert "16 answers" in capsys.readouterr().out


@pytest.mark.soak
@pytest.mark.vllm
@pytest.mark.ray
def test_engines_and_bare_vllm_generate_equally_many_tokens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, _ = build(W5V, tmp_path)
    work = rollouts.Work(model, 8, SamplingParams(n=2, max_tokens=16), "float32", threads=1)
    found = [*rollouts.one_engine(work, 1), *rollouts.on_ray(work, 1, engines=2)]
    assert [row["side"] for row in found] == ["bare vLLM", "rlhf_flow engine", "fed by hand", "cluster=ray"]
    assert "warning" not in capsys.readouterr().out
