from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from rlhf_flow.prompts.huggingface import HuggingFace
from rlhf_flow.prompts.parse import Columns

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def test_a_folder_of_files_with_two_splits(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for split, count in (("train", 4), ("test", 2)):
        lines = [json.dumps({"prompt": f"{split} {at}", "level": at}) for at in range(count)]
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    opened = HuggingFace(path=str(folder), held_out_split="test", batch=4).open(tokenizer, 0)
    assert {prompt.messages[0].content for prompt in opened.batch(1)} == {f"train {at}" for at in range(4)}
    assert [(prompt.id, prompt.meta) for prompt in opened.held_out()] == [
        ("held-out-row-1", {"level": 0}),
        ("held-out-row-2", {"level": 1}),
    ]


def test_what_save_to_disk_wrote(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    rows = datasets.Dataset.from_dict({"prompt": ["a", "b", ""]})
    datasets.DatasetDict({"good": rows.select([0, 1]), "bad": rows}).save_to_disk(tmp_path / "saved")
    good = HuggingFace(path=str(tmp_path / "saved"), split="good", batch=2, held_out=0)
    assert good.open(tokenizer, 0).counts["training"] == 2
    with pytest.raises(ValueError, match="split bad, row 3"):
        HuggingFace(path=str(tmp_path / "saved"), split="bad").open(tokenizer, 0)
    with pytest.raises(ValueError, match=r"split=train.*the splits there are: good, bad\. Fix: "):
        HuggingFace(path=str(tmp_path / "saved")).open(tokenizer, 0)
    for key, value in (("config", "en"), ("revision", "v1"), ("streaming", True)):
        spec = HuggingFace(path=str(tmp_path / "saved"), split="good", **{key: value})
        with pytest.raises(
            ValueError, match=rf"prompts\.{key}={value}: .*saved is a folder .* Fix: leave prompts\.{key}"
        ):
            spec.open(tokenizer, 0)


def test_what_is_no_data_set_is_refused(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"prompts\.path=.*nowhere: no such folder. Fix: "):
        HuggingFace(path=str(tmp_path / "nowhere")).open(tokenizer, 0)


@pytest.mark.parametrize("format", ["numpy", "pandas", "torch", "arrow", None])
def test_what_was_saved_with_a_format_is_the_same_data(
    format: str | None, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    saved = datasets.Dataset.from_dict({"prompt": ["a", "b"], "chosen": ["c", "d"], "level": [1, 2]})
    saved.with_format(format).save_to_disk(tmp_path / "saved")
    columns = Columns(candidates={"good": "chosen"})
    opened = HuggingFace(path=str(tmp_path / "saved"), columns=columns, batch=2, held_out=0).open(tokenizer, 0)
    assert [(prompt.messages[0].content, prompt.meta) for prompt in opened.training] == [
        ("a", {"level": 1}),
        ("b", {"level": 2}),
    ]


def test_the_first_rows_of_a_stream(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    (tmp_path / "data").mkdir()
    lines = [json.dumps({"question": f"why {at}?"}) for at in range(9)]
    (tmp_path / "data" / "train.jsonl").write_text("\n".join(lines))
    for streaming in (True, False):
        spec = HuggingFace(path=str(tmp_path / "data"), streaming=streaming, first=3, batch=3, held_out=0)
        opened = spec.open(tokenizer, 0)
        assert [prompt.messages[0].content for prompt in opened.training] == ["why 0?", "why 1?", "why 2?"]
        assert "read as orca" in opened.summary


def test_the_cause_of_a_loading_error_is_told(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    (tmp_path / "data").mkdir()
    for name, value in (("a", 1), ("b", {"x": 1})):  # two files whose columns differ
        (tmp_path / "data" / f"train-{name}.jsonl").write_text(json.dumps({"prompt": name, f"n{name}": value}) + "\n")
    with pytest.raises(ValueError) as refused:
        HuggingFace(path=str(tmp_path / "data"), batch=1).open(tokenizer, 0)
    told = str(refused.value)
    assert "column names don't match" in told and "Fix: " in told


def test_a_subset_is_named_and_those_there_are_told(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    for name in ("easy", "hard"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "train.jsonl").write_text(json.dumps({"prompt": name}) + "\n")
    configs = "".join(f"- config_name: {name}\n  data_files: {name}/*.jsonl\n" for name in ("easy", "hard"))
    (tmp_path / "data" / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    hard = HuggingFace(path=str(tmp_path / "data"), config="hard", batch=1, held_out=0).open(tokenizer, 0)
    assert [prompt.messages[0].content for prompt in hard.training] == ["hard"]
    with pytest.raises(ValueError, match=r"easy.*hard"):
        HuggingFace(path=str(tmp_path / "data"), batch=1).open(tokenizer, 0)
