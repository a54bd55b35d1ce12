"""The data of a run, read back by the library that its users load it with."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from rlhf_flow.cli.main import main
from rlhf_flow.export.dataset import write_dataset
from rlhf_flow.runner import results
from rlhf_flow.types import Pair, Scored
from tests.export.conftest import MakeRun, pairwise_wins, scored

TEXTS = [["yes", "no"], ["one", "two"], ["cut", "whole"]]
UTILITY = np.array([[1.0, 2.0], [3.0, math.nan], [9.0, -1.0]], dtype=np.float32)


def read(path: Path, cache: Path) -> list[dict[str, Any]]:
    kind = {".parquet": "parquet", ".jsonl": "json"}[path.suffix]
    return list(datasets.load_dataset(kind, data_files=str(path), split="train", cache_dir=str(cache)))


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_pairs_are_rows_that_trl_reads(suffix: str, old_run: Path, tmp_path: Path) -> None:
    out = tmp_path / f"new/pairs.{suffix}"
    assert main(["export", "pairs", str(old_run), "--out", str(out)]) == 0
    rows = read(out, tmp_path / "cache")
    assert len(rows) == 48
    assert {row["round"] for row in rows} == {1, 2}
    for row in rows:
        assert [message["role"] for message in row["prompt"]] == ["user"]
        for side in ("chosen", "rejected"):
            assert [message["role"] for message in row[side]] == ["assistant"]
        assert row["preference"] >= 0.5
        assert row["chosen_score"] >= row["rejected_score"]
        assert (row["run"], row["algorithm"], row["judge"]) == ("online_dpo", "online_dpo", "reward_model: judge")
        assert len(row["chosen_policy"]) == 64
        assert row["chosen_id"] != row["rejected_id"]
        assert row["chosen_id"].endswith(row["prompt_id"])


def test_the_second_of_a_pair_is_chosen_if_it_is_preferred(make_run: MakeRun, tmp_path: Path) -> None:
    pairs = [
        Pair("q0", "1/policy/0/q0", "1/policy/1/q0", preference=0.2, weight=2.0),
        Pair("q1", "1/policy/0/q1", "1/policy/1/q1", preference=0.5),
    ]
    run = make_run(scored(TEXTS, pairwise_wins(0.2, 0.5, 0.5), UTILITY), pairs=pairs)
    path, said = write_dataset("pairs", run)
    assert path == run / "export/pairs.parquet"
    assert "2 pairs, 1 of them ties" in said
    first, second = read(run / "export/pairs.parquet", tmp_path / "cache")
    assert first["chosen"] == [{"role": "assistant", "content": "no"}]
    assert (first["preference"], first["weight"], first["chosen_score"]) == (0.8, 2.0, 2.0)
    assert second["preference"] == 0.5
    assert second["rejected_score"] is None


def test_pairs_of_a_data_set_that_the_run_trained_on_are_exported_too(make_run: MakeRun, tmp_path: Path) -> None:
    given = scored([["better", "worse"]], pairwise_wins(1), np.ones((1, 2)), source="dataset").rollouts
    run = make_run(scored(TEXTS, pairwise_wins(0.2, 0.5, 0.5), UTILITY), pairs=[], given=given)
    write_dataset("pairs", run)
    (row,) = read(run / "export/pairs.parquet", tmp_path / "cache")
    assert (row["chosen"][0]["content"], row["chosen_source"], row["chosen_score"]) == ("better", "dataset", None)
    shown = results.pairs(run, 1).iloc[0]
    assert (shown.chosen, shown.rejected, shown.preference) == ("better", "worse", 1.0)


def test_single_answers_are_no_pairs(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    single = Pair("q0", "1/policy/0/q0", None, preference=1.0)
    run = make_run(scored(TEXTS, pairwise_wins(1, 1, 1), UTILITY), pairs=[single])
    assert main(["export", "pairs", str(run)]) == 2
    assert "trains on single answers, which are no pairs. Fix: export labels" in capsys.readouterr().err
    (row,) = results.pairs(run, 1).itertuples()
    assert (row.chosen, row.rejected, row.rejected_id) == ("yes", None, None)
    with pytest.raises(ValueError, match=r"round=2: .* has no pairs of it. Fix: a round from 1 to 1"):
        results.pairs(run, 2)


def test_groups_are_no_pairs(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    group = Pair("q0", "1/policy/0/q0", "1/policy/1/q0", preference=1.0, others=("1/policy/2/q0",))
    run = make_run(scored(TEXTS, pairwise_wins(1, 1, 1), UTILITY), pairs=[group])
    assert main(["export", "pairs", str(run)]) == 2
    assert "Fix: export labels" in capsys.readouterr().err
    assert not [*run.glob("export/*")]  # no half of a file


def test_sft_has_the_best_complete_answer_of_the_last_round(make_run: MakeRun) -> None:
    rounds = [
        scored(TEXTS, pairwise_wins(0.5, 0.5, 0.5), UTILITY, cut=["cut"]),
        scored([["later", "lesser"]], pairwise_wins(0.5), np.array([[5.0, 4.0]]), round=2),
    ]
    run = make_run(*rounds)
    _, said = write_dataset("sft", run, out=run / "sft.jsonl")
    rows = [json.loads(line) for line in (run / "sft.jsonl").read_text().splitlines()]
    best = {row["prompt_id"]: row["completion"][0] for row in rows}
    assert best == {
        "q0": {"role": "assistant", "content": "later"},
        "q1": {"role": "assistant", "content": "one"},
        "q2": {"role": "assistant", "content": "whole"},
    }
    assert "3 prompts" in said
    write_dataset("sft", run, rounds="1", out=run / "sft.jsonl")
    assert json.loads((run / "sft.jsonl").read_text().splitlines()[0])["completion"][0]["content"] == "no"


def test_a_prompt_without_a_complete_answer_is_counted(make_run: MakeRun) -> None:
    texts = [["a", "b"], ["c", "d"]]
    run = make_run(scored(texts, pairwise_wins(1, 1), np.ones((2, 2)), cut=["a", "b"]))
    _, said = write_dataset("sft", run)
    assert said == "1 prompts with their best answer; 1 prompts have no complete answer with a score"


UNKNOWN = scored([["a", "b"]], pairwise_wins(math.nan), np.full((1, 2), math.nan))  # as of `rlhf-flow sft`
CUT = scored([["a", "b"]], pairwise_wins(1), np.ones((1, 2)), cut=["a", "b"])
SINGLE = [Pair("q0", "1/policy/0/q0", None, preference=1.0)]


@pytest.mark.parametrize(
    ("kind", "rounds", "told"),
    [
        ("pairs", [UNKNOWN], "trains on single answers, which are no pairs. Fix: export model."),
        ("sft", [UNKNOWN], "has no complete answers with a score. Fix: export model."),
        ("labels", [UNKNOWN], "has no answers that win or lose against others. Fix: export model."),
        ("sft", [CUT], "has no complete answers with a score. Fix: export labels, which has every answer"),
        ("labels", [], "has no answers that win or lose against others. Fix: export again after the first round."),
    ],
)
def test_no_rows_are_no_file(
    kind: str, rounds: list[Scored], told: str, make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(*rounds, pairs=SINGLE)
    assert main(["export", kind, str(run)]) == 2
    assert told in capsys.readouterr().err
    assert not [*run.glob("export/*")]


def test_labels_are_which_answers_win_against_the_others(make_run: MakeRun, tmp_path: Path) -> None:
    texts = [["yes", "no"], ["one", "two"], ["abstained", "from"]]
    utility = np.array([[0.7, 0.3], [0.5, 0.5], [math.nan, math.nan]])
    run = make_run(scored(texts, pairwise_wins(0.9, 0.5, math.nan), utility))
    _, said = write_dataset("labels", run)
    rows = read(run / "export/labels.parquet", tmp_path / "cache")
    assert said == "2 labelled answers; 2 ties are left out"
    assert {row["completion"][0]["content"]: row["label"] for row in rows} == {"yes": True, "no": False}
    assert [row["prompt"] for row in rows] == [[{"role": "user", "content": "Question 0?"}]] * 2
    assert [(row["score"], round(row["win_rate"], 3)) for row in rows] == [(0.7, 0.7), (0.3, 0.3)]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["pairs", "{run}", "--rounds", "2-3"], "round 2 has no pairs; the run has 1 to 1"),
        (["pairs", "{run}", "--rounds", "one"], "'one' is no round"),
        (["pairs", "{run}", "--out", "pairs.csv"], "--out=pairs.csv: the suffix must be .parquet or .jsonl"),
        (["pairs", "nowhere"], "nowhere holds no run"),
        (["labels", "{run}@1"], "@1 is a policy, and export labels is of rounds. Fix: {run} --rounds 1."),
        (["pairs", "{run}@last"], "Fix: {run}, without @last."),
        (["stories", "{run}"], "Try rlhf-flow export --help"),
    ],
)
def test_a_mistake_is_one_sentence_with_a_fix(
    arguments: list[str], told: str, make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(scored(TEXTS, pairwise_wins(1, 1, 1), UTILITY))
    assert main(["export", *(word.format(run=run) for word in arguments)]) == 2
    assert told.format(run=run) in capsys.readouterr().err
