"""Files as people have them: compressed, in other encodings, several of them, and larger than they look."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import PreTrainedTokenizerFast

from rlhf_flow.prompts.epochs import PromptSet
from rlhf_flow.prompts.jsonl import Jsonl
from rlhf_flow.prompts.limits import Limits
from rlhf_flow.prompts.parquet import Parquet

TEXTS = ("one\u2028line", "größer", "🙂")
LINES = "".join(json.dumps({"prompt": text}, ensure_ascii=False) + "\n" for text in TEXTS)
Open = Callable[..., PromptSet]


def zstd(content: bytes) -> bytes:
    return pa.compress(content, codec="zstd", asbytes=True)


@pytest.fixture
def opened(tokenizer: PreTrainedTokenizerFast) -> Open:
    def open(path: Path | str, **keys: object) -> PromptSet:
        return Jsonl(path=str(path), batch=1, held_out=0, **keys).open(tokenizer, 0)

    return open


def asked(source: PromptSet) -> list[str]:
    return [prompt.messages[-1].content for prompt in source.training]


@pytest.mark.parametrize("compress", [gzip.compress, zstd, bz2.compress, lzma.compress])
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_compressed_files_are_read_whatever_their_name(
    compress: Callable[[bytes], bytes], name: str, tmp_path: Path, opened: Open
) -> None:
    (tmp_path / name).write_bytes(compress(LINES.encode()))
    assert asked(opened(tmp_path / name)) == list(TEXTS)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv", "rows.txt"])
def test_unicode_in_every_encoding_is_read(encoding: str, name: str, tmp_path: Path, opened: Open) -> None:
    content = {
        "rows.jsonl": LINES,
        "rows.json": json.dumps([{"prompt": text} for text in TEXTS], ensure_ascii=False, indent=1),
        "rows.csv": "prompt\r\n" + "".join(f'"{text}"\r\n' for text in TEXTS),
        "rows.txt": "\n".join(TEXTS),
    }[name]
    (tmp_path / name).write_bytes(content.encode(encoding))
    assert asked(opened(tmp_path / name)) == list(TEXTS)


def test_half_a_surrogate_pair_of_utf_16_is_refused_with_its_line(tmp_path: Path, opened: Open) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes('\ufeff{"prompt": "a"}\n{"prompt": "\ud83d"}\n'.encode("utf-16-le", "surrogatepass"))
    with pytest.raises(ValueError, match=r"line 2: .*half a surrogate pair"):
        opened(path)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)[:-9], "reading it failed"),
        ("a.jsonl.zst", zstd(LINES.encode())[:-9], "reading it failed"),
        ("a.jsonl", b"PK\x03\x04rest", "zip archive"),
        ("a.json", b'[{"prompt": "a"},', "a.json: expected one JSON object"),
        ("a.json", b'["a"]', "row 1: expected a JSON object, found str 'a'"),
        ("a.csv", b"prompt,level\na,b,c\n", "row 1: expected 2 columns, found 3"),
        ("a.csv", b'prompt\n"a', "row 1: unexpected end of data"),
        ("a.txt", b"caf\xe9\n", "line 1: expected UTF-8"),
    ],
)
def test_damaged_files_are_refused_with_a_way_out(
    name: str, content: bytes, said: str, tmp_path: Path, opened: Open
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{said}(.|\n)*Fix: "):
        opened(tmp_path / name)


def test_a_folder_and_a_pattern_are_all_their_files_in_order(tmp_path: Path, opened: Open) -> None:
    for name in ("b.jsonl", "a.jsonl", "README.md"):
        (tmp_path / name).write_text(f'{{"prompt": "{name} 1"}}\n\n{{"prompt": "{name} 2"}}\n')
    pq.write_table(pa.table({"prompt": ["c"]}), tmp_path / "c.parquet")
    source = opened(tmp_path)
    assert asked(source) == ["a.jsonl 1", "a.jsonl 2", "b.jsonl 1", "b.jsonl 2", "c"]
    assert [prompt.id for prompt in source.training] == ["row-1", "row-3", "row-4", "row-6", "row-7"]
    assert asked(opened(tmp_path / "*.jsonl")) == ["a.jsonl 1", "a.jsonl 2", "b.jsonl 1", "b.jsonl 2"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no data file"):
        opened(tmp_path / "empty")
    with pytest.raises(ValueError, match="not a file, a folder, or a pattern"):
        opened(tmp_path / "*.nothing")


MIB = 2**20


@pytest.mark.parametrize(
    ("content", "limits", "said"),
    [
        (b'{"prompt": "' + b"a" * 2 * MIB + b'"}', Limits(row_mib=1), r"line 1: .*row_mib=1 "),
        (b"\n" * 101, Limits(rows=100), r"line 101: .*limits\.rows=100 "),
        ((b'{"prompt": "' + b"a" * MIB + b'"}\n') * 3, Limits(total_mib=2), r"line 2: .*total_mib=2 "),
    ],
    ids=["a large row", "many lines", "many bytes"],
)
@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstd])
def test_what_decompresses_beyond_a_limit_is_refused(
    compress: Callable[[bytes], bytes], content: bytes, limits: Limits, said: str, tmp_path: Path, opened: Open
) -> None:
    (tmp_path / "rows.jsonl").write_bytes(compress(content))
    with pytest.raises(ValueError, match=f"{said}.*Fix: "):
        opened(tmp_path / "rows.jsonl", limits=limits)


def test_a_json_list_beyond_a_limit_is_refused(tmp_path: Path, opened: Open) -> None:
    (tmp_path / "rows.json").write_bytes(gzip.compress(b"[" + b" " * 3 * MIB + b"]"))
    with pytest.raises(ValueError, match=r"total_mib=2 .*Fix: "):
        opened(tmp_path / "rows.json", limits=Limits(total_mib=2))


@pytest.mark.parametrize("nested", [False, True])
def test_a_parquet_file_that_is_larger_than_it_looks_is_refused_before_a_row_is_kept(
    nested: bool, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    """A dictionary keeps one large text for all rows: here 2,000 rows of 90 KB are a few KB."""
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 2000, pa.int32()), pa.array(["a" * 90_000]))
    column = pa.ListArray.from_arrays(pa.array(range(2001), pa.int32()), texts) if nested else texts
    path = tmp_path / "bomb.parquet"
    pq.write_table(pa.table({"prompt": column}), path)
    assert path.stat().st_size < 30_000
    with pytest.raises(ValueError, match=r"row \d+: .*total_mib=100 when decompressed\. Fix: "):
        Parquet(path=str(path), batch=1, limits=Limits(total_mib=100)).open(tokenizer, 0)
    with pytest.raises(ValueError, match=r"row 1: .*row_mib=0\.05 when decompressed\. Fix: "):
        Parquet(path=str(path), batch=1, limits=Limits(row_mib=0.05)).open(tokenizer, 0)


@pytest.mark.parametrize("key", ["rows", "row_mib", "total_mib"])
def test_limits_are_positive(key: str) -> None:
    with pytest.raises(ValueError, match=rf"prompts\.limits\.{key}=0: must be > 0"):
        Limits(**{key: 0})


def test_parquet_takes_parquet_alone_and_says_what_reads_the_rest(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    (tmp_path / "rows.jsonl").write_text(LINES)
    with pytest.raises(ValueError, match=r"expected a parquet file, found something else\. Fix: prompts=jsonl"):
        Parquet(path=str(tmp_path / "rows.jsonl"), batch=1).open(tokenizer, 0)
