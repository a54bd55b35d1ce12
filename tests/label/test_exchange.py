"""Labels come from files and go to files, and nothing that was said is lost on the way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlhf_flow.cli.main import main
from rlhf_flow.scorer.human.annotations import Annotations
from rlhf_flow.scorer.human.questions import Question
from rlhf_flow.types import Message
from tests.support.labelling import ask, question, verdicts

ARGILLA = [
    {"id": "a1", "fields": {"prompt": "Q?", "response_a": "x", "response_b": "y"}, "responses": {"preference": [
        {"value": "response_a", "user_id": "u1", "status": "submitted"},
        {"value": "response_b", "user_id": "u2", "status": "submitted"},
        {"value": "response_b", "user_id": "u3", "status": "draft"},
        {"value": "tie", "user_id": "u4"},
    ]}},
    {"fields": {"instruction": "R?", "response-1": "x", "response-2": "y"}, "responses": [
        {"values": {"rank": {"value": [{"value": "response-1", "rank": 2}, {"value": "response-2", "rank": 1}]}},
         "user_id": "u1", "status": "submitted"},
    ]},
]  # fmt: skip
LABEL_STUDIO = [
    {"id": 1, "data": {"prompt": "Q?", "answer1": "x", "answer2": "y"}, "annotations": [
        {"completed_by": 3, "was_cancelled": False, "result": [
            {"type": "pairwise", "value": {"selected": "left"}, "to_name": "answer1,answer2"}]},
        {"completed_by": {"id": 4, "email": "a@b.c"}, "result": [
            {"type": "choices", "value": {"choices": ["equal"]}, "to_name": "prompt"}]},
        {"completed_by": 5, "was_cancelled": True, "result": []},
    ]},
]  # fmt: skip
Q, R = question("x", "y", asked="Q?"), question("x", "y", asked="R?")


def written(path: Path, content: object) -> str:
    path.write_text(json.dumps(content))
    return str(path)


def test_exports_of_annotation_tools_are_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    assert main(["label", str(run), "--import", written(tmp_path / "argilla.json", ARGILLA)]) == 0
    assert verdicts(run / "labels", [Q, R]) == [{"u1": "first", "u2": "second", "u4": "tie"}, {"u1": "second"}]
    assert "4 verdicts imported; 2 new questions" in capsys.readouterr().out
    assert main(["label", str(run), "--import", written(tmp_path / "studio.json", LABEL_STUDIO)]) == 0
    assert verdicts(run / "labels", [Q])[0] == {
        "u1": "first", "u2": "second", "u4": "tie", "3": "first", "a@b.c": "tie", "5": "skip",
    }  # fmt: skip
    assert main(["label", str(run), "--import", str(tmp_path / "studio.json")]) == 0
    assert "0 verdicts imported, 3 already known; 0 new questions" in capsys.readouterr().out


def test_what_is_exported_and_imported_is_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chat = Question((Message("system", "s"), Message("user", "hi")), "1", "2")
    first, second = tmp_path / "first", tmp_path / "second"
    ask(first / "labels", [Q, chat])
    annotations = Annotations(first / "labels")
    for number, (asked, annotator, said) in enumerate(
        [(Q, "ann", "first"), (Q, "bob", "second"), (Q, "eve", "tie"), (chat, "ann", "bad"), (chat, "bob", "skip")]
    ):
        annotations.label(f"id-{number}", asked.key, annotator, said, comment=f"says {annotator}")
    annotations.close()
    file = tmp_path / "labels.jsonl"
    assert main(["label", str(first), "--export", str(file)]) == 0
    assert "4 verdicts in 6 rows (2 ties are two rows each" in capsys.readouterr().out
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert rows[1] == {
        "prompt": [{"role": "user", "content": "Q?"}], "rejected": "x", "chosen": "y", "annotator": "bob",
        "comment": "says bob",
    }  # fmt: skip
    assert main(["label", str(second), "--import", str(file)]) == 0
    assert verdicts(second / "labels", [Q, chat]) == [
        {"ann": "first", "bob": "second", "eve": "tie"},
        {"ann": "bad"},
    ]


def test_a_question_of_the_run_keeps_its_order_and_its_own_verdicts(tmp_path: Path) -> None:
    turned = question("y", "x", asked="Q?")
    ask(tmp_path / "labels", [turned], needed=3, deadline=60)
    annotations = Annotations(tmp_path / "labels")
    annotations.label("1", turned.key, "ann", "tie")
    annotations.close()
    rows = [{"prompt": "Q?", "chosen": "x", "rejected": "y", "annotator": name} for name in ("ann", "bob")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["label", str(tmp_path), "--import", str(tmp_path / "rows.jsonl")]) == 0
    assert verdicts(tmp_path / "labels", [turned]) == [{"ann": "tie", "bob": "second"}]


def test_rows_that_are_no_labels_are_told_all_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = [{**ARGILLA[0], "fields": {"prompt": "Q?"}}, {**ARGILLA[0], "responses": {"p": [{"value": "yes"}]}}, {"a": 1}]
    bad.append({**ARGILLA[0], "responses": {"p": [{"value": "tie", "user_id": "\ud83d"}]}})
    path = written(tmp_path / "bad.json", [ARGILLA[0], *bad])
    assert main(["label", str(tmp_path / "run"), "--import", path]) == 2
    told = capsys.readouterr().err
    assert (
        "4 of " in told
        and "row 5" in told
        and "row 2" in told
        and "row 3" in told
        and "row 4" in told
        and "Fix: " in told
    )
    assert not verdicts_of(tmp_path / "run" / "labels")  # nothing is taken of a file that is refused


def verdicts_of(folder: Path) -> list[object]:
    annotations = Annotations(folder)
    try:
        return list(annotations.labels())
    finally:
        annotations.close()


def test_a_run_that_is_none_exports_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["label", str(tmp_path / "nowhere"), "--export", str(tmp_path / "x.jsonl")]) == 2
    assert "is not the folder of a run" in capsys.readouterr().err
