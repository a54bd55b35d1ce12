"""People as a judge: what a run makes of what they say, and how long it waits for them."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlhf_flow.config import compose as config
from rlhf_flow.config.identity import identity
from rlhf_flow.scorer.functions.comparison import Comparison
from rlhf_flow.scorer.functions.rule import Rule
from rlhf_flow.scorer.human.annotations import Annotations, Question
from rlhf_flow.scorer.human.human import Human, Panel
from rlhf_flow.specs import Place
from rlhf_flow.types import Message, Rollouts, Scored
from tests.config.test_compose import LOCAL
from tests.scorer.conftest import rollouts

WAIT = 60.0  # seconds
PEOPLE = [*(one for one in LOCAL if not one.startswith("scorer")), "scorer=human"]
LENGTH = Rule("tests.support.rules.length")


def silent(prompt: tuple[Message, ...], first: str, second: str, meta: Mapping[str, object]) -> float | None:
    """A judge that abstains from q1, and otherwise likes the second."""
    return None if meta["level"] == 1 else 0.25 if first < second else 0.75


@contextmanager
def panel(folder: Path, **fields: Any) -> Iterator[Panel]:
    spec = Human(folder=str(folder), **{"poll": 0.01, **fields})
    spec.check()
    opened = spec.open(Place())
    yield opened
    opened.close()


def scored(folder: Path, asked: Rollouts, **fields: Any) -> Scored:
    with panel(folder, **fields) as opened:
        return opened.score(asked)


@dataclass
class People:
    """Say what they are told to, of questions that they find in the folder."""

    folder: Path
    labels: int = 0
    seen: set[str] = field(default_factory=set)

    def say(self, question: Question, **verdicts: str) -> None:
        annotations = Annotations(self.folder)
        for name, verdict in verdicts.items():
            self.labels += 1
            annotations.label(str(self.labels), question.key, name, verdict)
        annotations.close()

    def ask(self, asked: Sequence[Question]) -> None:
        annotations = Annotations(self.folder)
        annotations.ask(asked, needed=1, deadline=None)
        annotations.close()


def question(first: str, second: str, *, b: int = 0) -> Question:
    return Question((Message("user", f"question {b}?"),), first, second)


@pytest.mark.parametrize(
    ("verdicts", "p"),
    [
        ({"Ann": "first"}, 1.0),
        ({"Ann": "second"}, 0.0),
        ({"Ann": "tie"}, 0.5),
        ({"Ann": "first", "Bob": "second", "Cleo": "first"}, 2 / 3),
        ({"Ann": "skip", "Bob": "tie", "Cleo": "first"}, 0.75),
        ({"Ann": "skip"}, math.nan),
    ],
    ids=str,
)
def test_wins_are_the_mean_of_the_verdicts(tmp_path: Path, verdicts: dict[str, str], p: float) -> None:
    needed = max(1, sum(verdict != "skip" for verdict in verdicts.values()))
    people = People(tmp_path)
    people.ask([question("a", "b")])
    people.say(question("a", "b"), **verdicts)
    asked = rollouts(["b", "a", "b"])
    found = scored(tmp_path, asked, annotators=needed)
    np.testing.assert_allclose(found.wins[0, 1], [p, 0.5, p], rtol=1e-6)
    assert found.wins[0, 0, 2] == 0.5
    assert found.pair_flags == {}
    assert found.counts == {
        "judge/queries": 0,
        "judge/cached": 1,
        "judge/abstained": int(math.isnan(p)),
        "judge/overdue": 0,
    }


def test_it_waits_until_people_have_said_enough_and_tells_how(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked, people = rollouts(["a", "b"], ["x", "x"]), People(tmp_path / "labels")
    with panel(tmp_path / "labels", annotators=2) as opened, ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(opened.score, asked)
        until(lambda: opened.annotations.progress("Ann").open == 1)
        people.say(question("a", "b"), Ann="first")
        assert not waiting.done(), "one of two"
        people.say(question("a", "b"), Bob="tie")
        found = waiting.result(WAIT)
    assert found.wins[0, 0, 1] == 0.75
    assert found.wins[1, 0, 1] == 0.5
    assert (found.counts["judge/queries"], found.counts["judge/cached"]) == (1, 0)
    told = capsys.readouterr().out
    assert told.count("\n") == 1
    assert f"1 of 1 pairs are open. To label: rlhf-flow label {tmp_path}\n" in told


def test_after_the_deadline_another_judge_says_the_rest_which_is_marked(tmp_path: Path) -> None:
    asked, people = rollouts(["a", "bb", "a"], ["x", "y", "y"], ["p", "q", "r"]), People(tmp_path)
    people.ask([question("a", "bb"), question("p", "q", b=2)])
    people.say(question("a", "bb"), Ann="first")
    people.say(question("p", "q", b=2), Ann="skip")
    found = scored(tmp_path, asked, deadline=0.0, base=Comparison("tests.scorer.human.test_human.silent"))
    assert found.wins[0, 0, 1] == 1.0, "people have said it"
    assert np.isnan(found.wins[1, 0, 1]), "nobody has"
    assert np.isnan(found.wins[2, 0, 1]), "it was skipped, and is no question for another"
    assert found.wins[2, 0, 2] == found.wins[2, 1, 2] == 0.25, "the other judge has"
    overdue = np.zeros((3, 3, 3), dtype=bool)
    for b, i, j in [(1, 0, 1), (1, 0, 2), (2, 0, 2), (2, 1, 2)]:
        overdue[b, i, j] = overdue[b, j, i] = True
    np.testing.assert_array_equal(found.pair_flags["overdue"], overdue)
    assert found.counts["judge/overdue"] == 3
    assert found.counts["judge/abstained"] == 2


def test_after_the_deadline_there_is_no_verdict_where_there_is_no_other_judge(tmp_path: Path) -> None:
    found = scored(tmp_path, rollouts(["a", "b"]), deadline=0.0)
    assert np.isnan(found.wins[0, 0, 1]) and found.pair_flags["overdue"][0].sum() == 2
    assert found.utility.tolist() == [[0.5, 0.5]]


def test_a_late_label_counts_from_the_next_look_on_and_nothing_is_waited_for(tmp_path: Path) -> None:
    asked, people = rollouts(["a", "bb", "ccc"]), People(tmp_path)
    first = scored(tmp_path, asked, deadline=0.0, base=LENGTH)
    assert (first.wins[0, 0, 1], first.counts["judge/overdue"]) == (0.0, 3)
    people.say(question("a", "bb"), Ann="first")
    again = scored(tmp_path, asked, deadline=0.0, base=LENGTH)
    assert again.wins[0, 0, 1] == 1.0
    assert not again.pair_flags["overdue"][0, 0, 1] and again.pair_flags["overdue"][0, 0, 2]
    assert (again.counts["judge/overdue"], again.counts["judge/cached"]) == (2, 1)
    people.say(question("a", "ccc"), Ann="first")
    people.say(question("bb", "ccc"), Ann="first")
    assert scored(tmp_path, asked).pair_flags == {}


def test_only_the_prompts_that_are_overdue_are_put_to_the_other_judge(tmp_path: Path) -> None:
    asked, people = rollouts(["a", "b"], ["c", "d"]), People(tmp_path)
    people.ask([question("a", "b")])
    people.say(question("a", "b"), Ann="tie")
    refusing = Rule("tests.scorer.human.test_human.refuses_the_first_prompt")
    assert scored(tmp_path, asked, deadline=0.0, base=refusing).counts["judge/overdue"] == 1


def refuses_the_first_prompt(messages: tuple[Message, ...], answer: str, meta: Mapping[str, object]) -> float:
    assert meta["level"] != 0, "people have said everything about it"
    return 0.0


def test_what_annotators_agree_on_is_measured(tmp_path: Path) -> None:
    asked, people = rollouts(["a", "b"], ["c", "d"]), People(tmp_path)
    people.ask([question("a", "b"), question("c", "d", b=1)])
    people.say(question("a", "b"), Ann="first", Bob="first")
    people.say(question("c", "d", b=1), Ann="first", Bob="second")
    measures = scored(tmp_path, asked, annotators=2).batch_metrics
    assert measures == {"annotator_agreement": 0.5, "annotator_alpha": pytest.approx(0.0)}
    assert scored(tmp_path, rollouts(["x"])).batch_metrics == {}


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"annotators": 0}, "scorer.annotators must be >= 1, got 0"),
        ({"deadline": -1.0}, "scorer.deadline must be >= 0 and finite, in seconds, or null to wait for ever, got -1.0"),
        ({"poll": 0.0}, "scorer.poll must be > 0 and finite, in seconds, got 0.0"),
        ({"folder": " "}, "scorer.folder must be a folder, got ' '"),
        ({"base": LENGTH}, "scorer.deadline must be a number of seconds if scorer.base scores"),
    ],
    ids=str,
)
def test_a_value_that_serves_nobody_is_refused(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError) as raised:
        Human(**{"folder": "labels", **fields})
    assert told in str(raised.value)


def test_its_identity_is_that_of_the_other_judge_and_not_the_folder() -> None:
    assert Human(folder="a").fingerprint() == Human(folder="b").fingerprint() == "people"
    both = Human(folder="a", deadline=1.0, base=LENGTH)
    assert LENGTH.fingerprint() in both.fingerprint()
    with pytest.raises(ValueError, match="nowhere"):
        Human(folder="a", deadline=1.0, base=Rule("nowhere.at_all")).check()


@pytest.mark.slow
def test_a_run_may_go_on_with_another_folder_deadline_and_pause_but_not_with_fewer_annotators() -> None:
    rest = ["scorer@scorer.base=rule", "scorer.base.function=tests.support.rules.length"]
    first = config.compose(*PEOPLE, *rest, "scorer.deadline=60")
    assert first.scorer.folder == f"{first.run_dir}/labels"
    moved = config.compose(*PEOPLE, *rest, "scorer.deadline=5", "scorer.folder=elsewhere", "scorer.poll=9")
    assert identity(moved) == identity(first) != identity(config.compose(*PEOPLE))
    other = config.compose(*PEOPLE, *rest, "scorer.deadline=60", "scorer.annotators=2")
    assert identity(other) != identity(first)
    assert config.from_yaml(config.as_yaml(first)) == first


def test_without_another_judge_it_is_composed_and_read_again() -> None:
    alone = config.compose(*PEOPLE)
    assert alone.scorer.base is None
    assert config.from_yaml(config.as_yaml(alone)) == alone


def until(holds: Any) -> None:
    """Wait for something another thread does."""
    pause = threading.Event()
    for _ in range(int(WAIT / 0.01)):
        if holds():
            return
        pause.wait(0.01)
    raise AssertionError("it never held")
