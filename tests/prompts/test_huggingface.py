from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from rlhf_flow.prompts.huggingface import HuggingFace

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
    with pytest.raises(ValueError, match=r"'train'.*the splits there are: good, bad"):
        HuggingFace(path=str(tmp_path / "saved")).open(tokenizer, 0)


def test_what_is_no_data_set_is_refused(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"prompts\.path must be a Hugging Face data set.*nowhere"):
        HuggingFace(path=str(tmp_path / "nowhere")).open(tokenizer, 0)
