"""The script that trains judges on real preferences: what it makes of a file, and what it tells of runs."""

from __future__ import annotations

import gzip
import json
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from preferences import CHOSEN, MOST, Result, longer_wins, main, read, shortened, split, table

from rlhf_flow.sandbox.tokenizer import train_tokenizer

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("RLHF_FLOW_DATA", ROOT.parent / "shared" / "data")) / "alpaca_eval_preferences.jsonl.gz"


def generated(path: Path, instructions: int = 40) -> Path:
    """Two pairs for each instruction, in the shape of the real file; the first answer is longer, and mostly better."""
    rows = [
        {
            "prompt": f"Tell me about {i} cats.",
            "response_a": f"There are {i} cats, and each of them is grey. " * 2,
            "response_b": f"{word} {i}.",
            "prob_b": 0.9 if i % 10 == 0 else 0.02,
        }
        for i in range(instructions)
        for word in ("Cats", "No")
    ]
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    return path


def test_pairs_are_read_in_the_order_of_the_file(tmp_path: Path) -> None:
    pairs = read(generated(tmp_path / "p.jsonl.gz"))
    assert [pair["preference"] for pair in pairs[:3]] == pytest.approx([0.1, 0.1, 0.98])
    assert (pairs[0]["second"], pairs[1]["second"]) == ("Cats 0.", "No 0.")
    assert len({pair["id"] for pair in pairs}) == 80
    plain = tmp_path / "p.jsonl"
    plain.write_bytes(gzip.decompress((tmp_path / "p.jsonl.gz").read_bytes()))
    assert read(plain) == pairs


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(st.text("aB \n", max_size=4), max_size=30))
def test_no_instruction_is_on_two_sides(prompts: list[str]) -> None:
    pairs = [{"id": number, "prompt": prompt} for number, prompt in enumerate(prompts)]
    sides = split(pairs)
    assert sorted(pair["id"] for side in sides.values() for pair in side) == list(range(len(prompts)))
    found = [{" ".join(pair["prompt"].casefold().split()) for pair in side} for side in sides.values()]
    assert sum(map(len, found)) == len(set().union(*found))


def test_a_text_that_is_too_long_keeps_its_beginning(tmp_path: Path) -> None:
    pairs = read(generated(tmp_path / "p.jsonl.gz", 2))
    pairs[0]["first"] = "one two three " * 400
    pairs[1] |= {"first": pairs[0]["first"] + "four", "second": pairs[0]["first"] + "five"}
    words = train_tokenizer([pair["first"] for pair in pairs], vocabulary=300, max_length=64)
    sides, counts = shortened({"training": pairs, "held_out": pairs[2:]}, words)
    assert counts == {"first cut": 2, "second cut": 1, "identical": 1}  # the second pair ends alike
    kept = sides["training"]
    assert kept[1:] == sides["held_out"] == pairs[2:]
    assert pairs[0]["first"].startswith(kept[0]["first"])
    assert len(words(kept[0]["first"])["input_ids"]) == MOST["first"]


def measured(accuracy: float, over: tuple[float, float]) -> dict[str, float]:
    found = {"eval/log_loss": 0.3, "eval/ece": 0.05, "eval/length_correlation": 0.8}
    for name in ("accuracy", "longer_wins", "always_first", "over_longer_wins", "over_always_first"):
        low, high = over if "over" in name else (accuracy, accuracy)
        found |= {f"eval/{name}": accuracy, f"eval/{name}_low": low, f"eval/{name}_high": high}
    return found


def test_the_table_says_whether_a_judge_is_better_than_a_baseline() -> None:
    results = [
        Result(kind, CHOSEN, 0, measured(0.8, over))
        for kind, over in (("good", (0.01, 0.1)), ("equal", (-0.01, 0.1)), ("bad", (-0.2, -0.1)))
    ]
    lines = list(table(results, measured(0.7, (0.0, 0.0))))
    assert all(line.count("|") == lines[0].count("|") for line in lines[:8])
    assert "| the longer of the whole answers wins | 0.700 (0.700 to 0.700) |" in lines[3]
    for kind, says in (("good", "better than"), ("equal", "not told apart from"), ("bad", "worse than")):
        assert f"`{kind}`, lr {CHOSEN.lr:g}, seed 0: {says} the longer of the texts that it read." in lines


def test_the_longer_answer_is_measured_in_the_whole_texts() -> None:
    pair = {"prompt": "Why?", "first": "because", "second": "so", "preference": 1.0}
    pairs = [pair, pair | {"preference": 0.2}, pair | {"prompt": "How?", "second": "as it was"}, pair]
    assert longer_wins(pairs)["eval/longer_wins"] == pytest.approx(2 / 4)


def test_the_whole_script_runs_on_a_file_of_that_shape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, folder = generated(tmp_path / "p.jsonl.gz"), tmp_path / "out"
    asked = ["preferences.py", "--data", str(data), "--folder", str(folder), "--kinds", "bradley_terry"]
    monkeypatch.setattr(sys, "argv", asked)
    main()  # the training itself is a process of its own
    said = capsys.readouterr().out
    sides = {side: len(pairs) for side, pairs in split(read(data)).items()}
    assert f"held_out: {sides['held_out']} pairs of answers to {sides['held_out'] // 2} instructions" in said
    (run,) = (path for path in folder.glob("bradley_terry-*-held_out") if path.is_dir())
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["eval/pairs"] == sides["held_out"] and last["train/pairs"] == sides["training"]
    assert f"| the longer of the texts that were read wins | {last['eval/longer_wins']:.3f} (" in said


@pytest.mark.skipif(not DATA.is_file(), reason="the real preferences are not here (RLHF_FLOW_DATA names their folder)")
def test_the_real_file_is_split_by_instruction() -> None:
    pairs = read(DATA)
    sides = split(pairs)
    assert (len(pairs), len({pair["prompt"] for pair in pairs})) == (3220, 805)
    assert all(0 <= pair["preference"] <= 1 for pair in pairs)
    prompts = {side: {pair["prompt"] for pair in found} for side, found in sides.items()}
    assert not prompts["held_out"] & (prompts["training"] | prompts["validation"])
    assert 0.15 < len(sides["held_out"]) / len(pairs) < 0.25
