from __future__ import annotations

import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import PreTrainedTokenizerFast

from rlhf_flow.prompts.parquet import Parquet
from rlhf_flow.prompts.parse import Columns


def test_texts_and_chats_are_read(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    path = str(tmp_path / "prompts.parquet")
    chats = [
        [{"role": "user", "content": "hi"}],
        [{"role": "system", "content": "s"}, {"role": "user", "content": "ho"}],
    ]
    day = datetime.date(2020, 1, 1)
    pq.write_table(pa.table({"chat": chats, "number": [4, 9], "day": [day, day]}), path)
    opened = Parquet(path=path, columns=Columns(prompt="chat", id="number"), batch=2, held_out=0).open(tokenizer, 0)
    found = {prompt.id: [message.role for message in prompt.messages] for prompt in opened.batch(1)}
    assert found == {"4": ["user"], "9": ["system", "user"]}
    assert opened.counts["meta_left_out"] == 2  # a date is no JSON value


def test_bad_files_are_refused(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    path = tmp_path / "prompts.parquet"
    with pytest.raises(ValueError, match=r"prompts\.path=.* is not a file"):
        Parquet(path=str(path)).open(tokenizer, 0)
    path.write_bytes(b"PAR1 but no more")
    with pytest.raises(ValueError, match=r"reading this parquet file failed.*Fix: "):
        Parquet(path=str(path)).open(tokenizer, 0)
    pq.write_table(pa.table({"prompt": pa.array([], pa.string())}), path)
    with pytest.raises(ValueError, match="empty file"):
        Parquet(path=str(path)).open(tokenizer, 0)
    pq.write_table(pa.table({"prompt": ["a", None]}), path)
    with pytest.raises(ValueError, match=r"row 2: .* found NoneType"):
        Parquet(path=str(path)).open(tokenizer, 0)


def test_a_text_that_is_not_utf8_is_refused_with_file_and_row(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    path = str(tmp_path / "prompts.parquet")
    bad = pa.array([b"fine", b"caf\xe9"]).view(pa.string())
    pq.write_table(pa.table({"prompt": bad}), path)
    with pytest.raises(ValueError, match=r"prompts\.parquet, row 1 or soon after it: .*0xe9.*Fix: "):
        Parquet(path=path).open(tokenizer, 0)
