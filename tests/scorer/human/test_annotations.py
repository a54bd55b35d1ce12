"""What people said is on disk, once, whoever asks and however often it is sent."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_flow.scorer.human import annotations as store
from rlhf_flow.scorer.human.annotations import FILE, VERDICTS, Annotations, Progress, Question
from rlhf_flow.scorer.llm.budget import Budget
from rlhf_flow.types import Message

ASKED = [Question((Message("user", f"question {k}?"),), "a", "b") for k in range(3)]
PEOPLE = ["Ann", "Bob", "Cleo"]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Annotations]:
    annotations = Annotations(tmp_path)
    yield annotations
    annotations.close()


def test_texts_come_back_as_they_are(opened: Annotations) -> None:
    strange = Question((Message("system", "\x00"), Message("user", "\ud800 日本語")), "", "\u202eabc\n")
    opened.ask([strange], needed=1, deadline=None)
    assert opened.hand("Ann") == strange


def test_the_order_of_the_answers_makes_another_question_and_so_does_every_text() -> None:
    one = Question((Message("user", "x"),), "a", "b")
    others = [
        Question((Message("user", "x"),), "b", "a"),
        Question((Message("user", "x"),), "ab", ""),
        Question((Message("assistant", "x"),), "a", "b"),
        Question((Message("user", "x"), Message("user", "")), "a", "b"),
    ]
    assert len({one.key, *(other.key for other in others)}) == 5
    assert Question((Message("user", "x"),), "a", "b").key == one.key


def test_a_question_that_is_asked_again_keeps_its_time_and_what_was_said(
    opened: Annotations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store.time, "time", lambda: 1000.0)
    opened.ask(ASKED, needed=1, deadline=10)
    opened.label("1", ASKED[0].key, "Ann", "tie")
    monkeypatch.setattr(store.time, "time", lambda: 2000.0)
    opened.ask(ASKED, needed=2, deadline=50)
    first, second, _ = opened.standings(ASKED)
    assert (first.due, first.said, first.needed) == (1050.0, {"Ann": "tie"}, 2)
    assert second.overdue(1050.0) and not second.overdue(1049.0)
    opened.ask(ASKED, needed=1, deadline=None)
    assert not any(one.overdue(1e12) for one in opened.standings(ASKED))


def test_one_verdict_is_enough_so_a_question_is_in_one_persons_hands_for_a_minute(
    opened: Annotations, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    opened.ask(ASKED[:2], needed=1, deadline=None)
    assert [opened.hand(name) for name in PEOPLE] == [*ASKED[:2], None]
    assert opened.hand("Ann") == ASKED[0], "the same after a reload"
    monkeypatch.setattr(store.time, "time", lambda: now + 59)
    assert opened.hand("Bob") == ASKED[1], "who looks on, keeps it"
    monkeypatch.setattr(store.time, "time", lambda: now + 65)
    assert opened.hand("Bob") == ASKED[1], "also where an earlier one has become free"
    assert opened.hand("Cleo") == ASKED[0], "Ann has not looked for a minute"
    assert opened.hand("Ann") is None


def test_as_many_people_read_a_question_as_verdicts_are_needed(opened: Annotations) -> None:
    opened.ask(ASKED[:1], needed=2, deadline=None)
    assert [opened.hand(name) for name in PEOPLE] == [ASKED[0], ASKED[0], None]
    opened.label("1", ASKED[0].key, "Ann", "skip")
    assert opened.hand("Cleo") == ASKED[0], "a skip is no verdict"
    assert opened.hand("Ann") is None
    opened.label("2", ASKED[0].key, "Cleo", "skip")
    assert opened.hand("Bob") is None, "as many have skipped it"
    assert opened.standings(ASKED[:1])[0].skipped


def test_what_one_person_skips_is_left_to_others_and_comes_back_to_them_if_they_ask_for_it(opened: Annotations) -> None:
    """One verdict is enough, and eight skips by one person end nobody's work."""
    many = [Question((Message("user", f"{k}?"),), "a", "b") for k in range(8)]
    opened.ask(many, needed=1, deadline=None)
    for k, one in enumerate(many):
        opened.label(str(k), one.key, "Ann", "skip")
    assert opened.hand("Ann") is None and opened.progress("Ann") == Progress(mine=8, asked=8, open=0, skipped=8)
    assert all(one.skipped for one in opened.standings(many)), "nobody else is there"
    assert opened.hand("Bob") == many[0]
    assert not any(one.settled for one in opened.standings(many)), "now Bob is, and his work is not ended"
    opened.label("b", many[0].key, "Bob", "first")
    opened.label("c", many[1].key, "Bob", "skip")
    assert [one.settled for one in opened.standings(many)] == [True, True, *[False] * 6], "two have skipped the second"
    opened.reconsider("Ann")
    assert opened.progress("Ann") == Progress(mine=1, asked=8, open=7, skipped=0), "Bob has decided the first"
    assert opened.hand("Ann") == many[1]


def test_a_label_is_replaced_by_its_annotator_alone(opened: Annotations) -> None:
    opened.ask(ASKED, needed=1, deadline=None)
    opened.label("1", ASKED[0].key, "Ann", "first", comment="shorter")
    opened.label("2", ASKED[0].key, "Bob", "tie", instead="1")
    for _ in range(2):
        opened.label("3", ASKED[0].key, "Ann", "bad", comment="both lie", instead="1")
    assert opened.standings(ASKED)[0].said == {"Ann": "bad", "Bob": "tie"}
    assert opened.standings(ASKED)[0].verdicts == [0.5, 0.5]
    (kept,) = opened.labels("Ann")
    assert (kept.id, kept.question, kept.verdict, kept.comment) == ("3", ASKED[0], "bad", "both lie")
    with pytest.raises(ValueError, match="at most 4000 characters, got 4001"):
        opened.label("4", ASKED[1].key, "Ann", "tie", comment="x" * 4001)


def test_files_and_folders_are_the_owners_alone(tmp_path: Path) -> None:
    """Labels, judgements and what was spent, and the files that SQLite makes beside them; older ones are closed too."""
    old = tmp_path / "old"
    old.mkdir()
    (old / FILE).touch(0o644)
    umask = os.umask(0o022)
    try:
        opened = [Annotations(old), Annotations(tmp_path / "run" / "labels")]
        opened += [Budget(account="a", cache=str(tmp_path / "cache" / "judgements.sqlite")).open()]
        found = [path for folder in ("run", "cache") for path in (tmp_path / folder, *(tmp_path / folder).rglob("*"))]
        modes = {path: oct(path.stat().st_mode & 0o777) for path in [*found, *old.iterdir()]}
        assert len(modes) >= 9
        assert modes == {path: "0o700" if path.is_dir() else "0o600" for path in modes}
        for one in opened:
            one.close()
    finally:
        os.umask(umask)


def test_a_file_of_an_earlier_release_is_read_and_goes_on(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / FILE) as file:
        file.executescript(
            "CREATE TABLE questions (id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, content TEXT NOT NULL,"
            " needed INTEGER NOT NULL, asked REAL NOT NULL, due REAL);"
            "CREATE TABLE labels (id TEXT PRIMARY KEY, question INTEGER NOT NULL REFERENCES questions,"
            " annotator TEXT NOT NULL, verdict TEXT NOT NULL CHECK (verdict IN ('first', 'second', 'tie', 'skip')),"
            " at REAL NOT NULL, undone REAL);"
            "CREATE VIEW standings AS SELECT *, 0 AS said, 0 AS open FROM questions;"
        )
        file.execute("INSERT INTO questions VALUES (1, ?, ?, 1, 0, NULL)", [ASKED[0].key, ASKED[0].content])
        file.execute("INSERT INTO labels VALUES ('1', 1, 'Ann', 'first', 0, NULL)")
    opened = Annotations(tmp_path)
    assert opened.standings(ASKED[:1])[0].said == {"Ann": "first"}
    opened.label("2", ASKED[0].key, "Ann", "bad", comment="after all", instead="1")
    assert opened.standings(ASKED[:1])[0].said == {"Ann": "bad"}
    opened.close()


def test_what_is_waited_for_comes_before_what_is_overdue(opened: Annotations) -> None:
    opened.ask(ASKED[:2], needed=1, deadline=0)
    opened.ask(ASKED[2:], needed=1, deadline=1000)
    assert [opened.hand(name) for name in PEOPLE] == [ASKED[2], ASKED[0], ASKED[1]]


def test_a_label_that_is_sent_again_is_one_label_also_after_it_was_undone(opened: Annotations) -> None:
    opened.ask(ASKED, needed=1, deadline=None)
    for _ in range(2):
        opened.label("1", ASKED[0].key, "Ann", "first")
    opened.label("2", ASKED[0].key, "Ann", "second")
    assert opened.standings(ASKED)[0].said == {"Ann": "first"}
    for _ in range(2):
        opened.undo("1", "Ann")
    opened.label("1", ASKED[0].key, "Ann", "first")
    assert opened.standings(ASKED)[0].said == {}
    opened.label("3", ASKED[0].key, "Ann", "second")
    assert opened.standings(ASKED)[0].said == {"Ann": "second"}


def test_undo_hands_the_question_back_and_is_for_ones_own_labels(opened: Annotations) -> None:
    opened.ask(ASKED, needed=1, deadline=None)
    opened.label("1", ASKED[0].key, "Ann", "first")
    assert opened.hand("Ann") == ASKED[1]
    opened.undo("1", "Bob")
    assert opened.last("Ann") == "1" and opened.last("Bob") is None
    opened.undo("1", "Ann")
    assert opened.last("Ann") is None
    assert opened.hand("Ann") == ASKED[0]
    assert opened.hand("Bob") == ASKED[1]


def test_only_verdicts_on_questions_are_written(opened: Annotations) -> None:
    opened.ask(ASKED, needed=1, deadline=None)
    with pytest.raises(ValueError, match="the verdict must be one of first, second, tie, bad, skip, got 'left'"):
        opened.label("1", ASKED[0].key, "Ann", "left")
    with pytest.raises(ValueError, match="there is no question 'x'"):
        opened.label("1", "x", "Ann", "first")
    assert opened.progress("Ann") == Progress(mine=0, asked=3, open=3)


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(ValueError, match=r"scorer\.folder must be a folder .* Fix: name a folder"):
        Annotations(tmp_path / "taken")
    (tmp_path / FILE).write_text("no database, and long enough to be taken for one" * 30)
    with pytest.raises(ValueError, match=r"scorer\.folder must be a folder"):
        Annotations(tmp_path)


def test_a_label_outlives_the_process_that_took_it(tmp_path: Path) -> None:
    work = (
        "import os, signal, sys; from pathlib import Path; from tests.scorer.human.test_annotations import *\n"
        "opened = Annotations(Path(sys.argv[1])); opened.ask(ASKED, needed=1, deadline=None)\n"
        "opened.label('1', ASKED[0].key, 'Ann', 'tie'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", work, str(tmp_path)], env=environment, timeout=120)
    assert done.returncode == -signal.SIGKILL
    opened = Annotations(tmp_path)
    assert opened.standings(ASKED)[0].said == {"Ann": "tie"}
    opened.close()


ACT = st.one_of(
    st.tuples(
        st.just("label"), st.sampled_from(PEOPLE), st.integers(0, 9), st.integers(0, 2), st.sampled_from([*VERDICTS])
    ),
    st.tuples(st.just("undo"), st.sampled_from(PEOPLE), st.integers(0, 9)),
    st.tuples(st.just("hand"), st.sampled_from(PEOPLE)),
    st.tuples(st.just("ask"), st.integers(1, 3)),
)


@pytest.mark.slow
@given(st.lists(ACT, max_size=30))
def test_whatever_several_people_do_each_has_at_most_one_verdict_on_a_question(acts: list[tuple]) -> None:
    """Against a model: a dictionary of what counts, and the ids that were ever written."""
    with tempfile.TemporaryDirectory() as folder:
        opened = Annotations(Path(folder))
        opened.ask(ASKED, needed=1, deadline=None)
        said: dict[tuple[int, str], tuple[str, str]] = {}  # question, annotator -> id, verdict
        written: set[str] = set()
        for act in acts:
            match act:
                case "label", who, number, k, verdict:
                    opened.label(str(number), ASKED[k].key, who, verdict)
                    if str(number) not in written and (k, who) not in said:
                        written.add(str(number))
                        said[k, who] = str(number), verdict
                case "undo", who, number:
                    opened.undo(str(number), who)
                    said = {key: kept for key, kept in said.items() if (key[1], kept[0]) != (who, str(number))}
                case "hand", who:
                    handed = opened.hand(who)
                    assert handed is None or (ASKED.index(handed), who) not in said
                case "ask", needed:
                    opened.ask(ASKED, needed=needed, deadline=None)
        found = [one.said for one in opened.standings(ASKED)]
        assert found == [{who: said[k, who][1] for who in PEOPLE if (k, who) in said} for k in range(3)]
        settled = sum(one.settled for one in opened.standings(ASKED))
        for who in PEOPLE:
            mine = [k for (k, name), (_, one) in said.items() if name == who and one == "skip"]
            skipped = sum(len(one.verdicts) < one.needed for one in map(opened.standings(ASKED).__getitem__, mine))
            assert opened.progress(who) == Progress(sum(name == who for _, name in said), 3, 3 - settled, skipped)
        opened.close()
        rows = sqlite3.connect(Path(folder) / FILE).execute("SELECT id FROM labels").fetchall()
        assert {id for (id,) in rows} == written and len(rows) == len(written), "nothing is deleted, or written twice"
