"""What a judge said once it is not asked again, whoever asks, and what is kept is what it said."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_flow.scorer.functions.comparison import Comparison
from rlhf_flow.scorer.functions.rule import Rule
from rlhf_flow.scorer.models.ensemble import Ensemble
from rlhf_flow.scorer.models.reward_model import RewardModel
from rlhf_flow.scorer.wrappers.cached import Cached, identity
from rlhf_flow.scorer.wrappers.judgement_cache import JudgementCache
from rlhf_flow.specs import Place
from rlhf_flow.types import Message, Rollouts, Scored
from tests.scorer.conftest import rollouts

WAIT = 120.0  # seconds; on a busy machine a process takes its time


@dataclass(frozen=True)
class Ranked(Rule):
    """A rule whose verdicts are kept."""

    @property
    def cache_format(self) -> str:
        return "ranks"


@dataclass(frozen=True)
class Paired(Comparison):
    """A comparison whose verdicts are kept."""

    @property
    def cache_format(self) -> str:
        return "pairs"


LENGTH = Ranked("tests.support.rules.length")
LONGER = Paired("tests.support.comparisons.longer")
JUDGE = """
import os, time
from pathlib import Path
from rlhf_flow.types import Verdict

def worth(messages, answer, meta):
    with open(os.environ["ASKED"], "a") as asked:
        asked.write(answer + "\\n")
    if answer == "hang":
        time.sleep(600)
    return None if answer == "silence" else Verdict(len(answer) / 3, {"level": meta["level"] / 7})

def named(messages, answer, meta, path):
    return float(path in answer)
"""
RUN = """
import sys
from rlhf_flow.scorer.wrappers.cached import Cached
from rlhf_flow.specs import Place
from tests.scorer.conftest import rollouts
from tests.scorer.wrappers.test_cached import Ranked

judge = Cached(Ranked("worths.worth"), sys.argv[1]).open(Place())
for texts in sys.argv[2:]:
    print(judge.score(rollouts(texts.split())).counts["judge/queries"], flush=True)
"""


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What `worths.worth` was asked about, an answer a line."""
    (tmp_path / "worths.py").write_text(JUDGE)
    (tmp_path / "asked").touch()
    monkeypatch.setenv("ASKED", str(tmp_path / "asked"))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "worths", raising=False)
    return tmp_path / "asked"


def scored(spec: Any, asked: Rollouts) -> Scored:
    judge = spec.open(Place())
    try:
        return judge.score(asked)
    finally:
        judge.close()


def same(got: Scored, expected: Scored) -> None:
    np.testing.assert_array_equal(got.utility, expected.utility)
    np.testing.assert_array_equal(got.wins, expected.wins)
    assert list(got.aspects) == list(expected.aspects)
    for name, values in expected.aspects.items():
        np.testing.assert_array_equal(got.aspects[name], values)


GROUPS = st.integers(1, 4).flatmap(
    lambda n: st.lists(st.lists(st.sampled_from(["", "a", "b", "aa", "日本"]), min_size=n, max_size=n), max_size=4)
)


@given(st.lists(GROUPS, min_size=1, max_size=4))
def test_an_answer_is_asked_about_once_ever(calls: list[list[list[str]]]) -> None:
    """Prompt b of every call is the same prompt."""
    known: set[tuple[int, str]] = set()
    with tempfile.TemporaryDirectory() as folder:
        for groups in calls:
            got = scored(Cached(LENGTH, f"{folder}/cache"), rollouts(*groups))
            same(got, scored(LENGTH, rollouts(*groups)))
            now = {(b, text) for b, texts in enumerate(groups) for text in texts}
            assert (got.counts["judge/queries"], got.counts["judge/cached"]) == (len(now - known), len(now & known))
            known |= now


@given(st.lists(GROUPS, min_size=1, max_size=4))
def test_a_pair_is_compared_once_ever_in_whichever_order(calls: list[list[list[str]]]) -> None:
    known: set[tuple[int, frozenset[str]]] = set()
    with tempfile.TemporaryDirectory() as folder:
        for groups in calls:
            got = scored(Cached(LONGER, f"{folder}/cache"), rollouts(*groups))
            same(got, scored(LONGER, rollouts(*groups)))
            now = {(b, frozenset((x, y))) for b, texts in enumerate(groups) for x in texts for y in texts if x != y}
            assert (got.counts["judge/queries"], got.counts["judge/cached"]) == (len(now - known), len(now & known))
            known |= now


def test_a_tournament_meets_whom_it_would_meet_and_pays_for_what_is_new(tmp_path: Path) -> None:
    texts = [f"answer {'x' * k}" for k in range(8)]
    few = replace(LONGER, pairs="knockout")
    cached = Cached(few, str(tmp_path / "cache"))
    first, again = scored(cached, rollouts(texts)), scored(cached, rollouts(texts))
    plain = scored(few, rollouts(texts))
    for got in (first, again):
        same(got, plain)
        np.testing.assert_array_equal(got.pair_flags["unasked"], plain.pair_flags["unasked"])
    assert first.counts["judge/queries"] == plain.counts["judge/queries"] == again.counts["judge/cached"] < 28
    every = scored(Cached(LONGER, str(tmp_path / "cache")), rollouts(texts))
    assert every.counts["judge/queries"] == 28 - first.counts["judge/queries"], "whom they met before they do not meet"


@pytest.mark.slow
def test_a_reward_model_scores_in_another_company_what_it_scored_before(reward_path: str, tmp_path: Path) -> None:
    cached = Cached(RewardModel(reward_path), str(tmp_path / "cache"))
    asked = rollouts(["a cat", "", "a dog"], ["why", "x" * 70, "no"])
    first = scored(cached, asked)
    same(first, scored(RewardModel(reward_path), asked))
    mixed = scored(cached, rollouts(["new", "a cat", "a dog"], ["no", "why", "y"]))
    assert (mixed.counts["judge/queries"], mixed.counts["judge/cached"]) == (2, 4)
    assert mixed.utility[0, 1] == first.utility[0, 0] and mixed.utility[1, 0] == first.utility[1, 2]


def test_abstentions_and_aspects_are_kept_as_they_are(asked: Path, tmp_path: Path) -> None:
    rule = Ranked("worths.worth")
    groups = rollouts(["yes", "silence"], ["silence", "no, never"])
    expected = scored(rule, groups)
    for _ in range(2):
        got = scored(Cached(rule, str(tmp_path / "cache")), groups)
        same(got, expected)
        assert got.counts["judge/abstained"] == 2
    assert asked.read_text().split("\n").count("yes") == 2, "once without the cache, once with it"


@pytest.mark.parametrize(
    "change",
    [
        lambda p: replace(p, messages=(Message("user", "another question"),)),
        lambda p: replace(p, messages=(Message("system", p.messages[0].content),)),
        lambda p: replace(p, answer="gold"),
        lambda p: replace(p, meta={"level": 9}),
    ],
    ids=["another question", "another role", "a gold answer", "another column"],
)
def test_another_prompt_is_another_question_and_another_id_is_not(change: Any, tmp_path: Path) -> None:
    cached = Cached(LENGTH, str(tmp_path / "cache"))
    plain = rollouts(["a", "b"])
    scored(cached, plain)
    (prompt,) = plain.prompts
    renamed = replace(plain, prompts=(replace(prompt, id="other", tokens=(9,)),), round=7)
    assert scored(cached, renamed).counts["judge/queries"] == 0
    assert scored(cached, replace(plain, prompts=(change(prompt),))).counts["judge/queries"] == 2


def test_a_judge_is_what_it_says_and_not_where_it_lies(reward_path: str, asked: Path, tmp_path: Path) -> None:
    (tmp_path / "moved").symlink_to(reward_path)
    model = RewardModel(reward_path)
    two = Ensemble([model, model])
    moved = RewardModel(str(tmp_path / "moved"))
    assert identity(model) == identity(moved)
    assert identity(two) == identity(Ensemble([moved, model]))
    assert identity(LONGER) == identity(replace(LONGER, pairs="knockout"))
    others = [model, replace(model, max_tokens=40), two, replace(two, combine="min"), LENGTH]
    others += [Ranked("worths.named", {"path": path}) for path in "ab"]
    others += [LONGER, Paired("tests.support.comparisons.count")]
    assert len(set(map(identity, others))) == len(others)


def processes(cache: Path, *runs: Sequence[str]) -> list[subprocess.Popen[str]]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return [
        subprocess.Popen(
            [sys.executable, "-c", RUN, str(cache), *texts], env=environment, stdout=subprocess.PIPE, text=True
        )
        for texts in runs
    ]


@pytest.mark.slow
def test_processes_share_what_they_ask_and_agree(asked: Path, tmp_path: Path) -> None:
    texts = [" ".join(f"{k}-{word}" for word in ("a", "b", "c")) for k in range(8)]
    running = processes(tmp_path / "cache", texts, texts[::-1])
    for process in running:
        process.communicate(timeout=WAIT)
        assert process.returncode == 0
    times = asked.read_text().split()
    assert len(set(times)) == 24 and max(map(times.count, times)) <= 2, "twice where both asked at the same time"
    (again,) = processes(tmp_path / "cache", texts)
    assert set(again.communicate(timeout=WAIT)[0].split()) == {"0"}


@pytest.mark.slow
def test_what_was_said_before_a_kill_is_kept_and_what_was_not_is_asked_again(asked: Path, tmp_path: Path) -> None:
    (process,) = processes(tmp_path / "cache", ["a b", "c hang"])
    end = time.monotonic() + WAIT
    while "hang" not in asked.read_text():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    got = scored(Cached(Ranked("worths.worth"), str(tmp_path / "cache")), rollouts(["a", "b", "c"]))
    assert (got.counts["judge/queries"], got.counts["judge/cached"]) == (1, 2)


def test_of_two_who_answer_at_the_same_time_the_first_is_kept(tmp_path: Path) -> None:
    one, other = (JudgementCache(tmp_path / "cache", key="scorer.cache") for _ in range(2))
    one.keep({"a": "1", "b": "2"}, source="one")
    other.keep({"b": "3", "c": "4"}, source="other")
    assert one.look_up(["a", "b", "c", "d"]) == {"a": "1", "b": "2", "c": "4"}
    one.close()
    other.close()


def test_a_judge_that_may_say_something_else_or_keeps_it_itself_is_refused(tmp_path: Path) -> None:
    cached = Cached(Cached(LENGTH, str(tmp_path / "a")), str(tmp_path / "b"))
    for refuse in (cached.check, lambda: cached.open(Place())):
        with pytest.raises(ValueError, match=r"scorer\.base must be .* says the same again .*; Cached as configured"):
            refuse()


def test_a_cache_that_cannot_be_written_is_told_before_the_run(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("this is no data base, and long enough to be taken for a wrong one " * 20)
    with pytest.raises(ValueError, match=r"scorer\.cache must be an SQLite file .* file is not a database"):
        Cached(LENGTH, str(tmp_path / "text")).check()


def test_a_judgement_belongs_to_the_registered_name_and_not_to_the_file_of_the_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is paid stays known, wherever a later version has the class."""
    spec = Comparison("tests.support.comparisons.longer")
    before = identity(spec)
    monkeypatch.setattr(Comparison, "__module__", "rlhf_flow.scorer.functions.comparison")
    assert identity(spec) == before


def test_what_version_0_1_kept_is_still_known(tmp_path: Path, reward_path: str) -> None:
    """It kept judgements by the module of the class, and with every field that was there: such a key is renamed."""
    spec = RewardModel(reward_path)
    fields = {
        "revision": None, "trust_remote_code": False, "format": "chat", "max_tokens": None, "batch_tokens": 8192,
        "dtype": "float32",
    }  # fmt: skip
    asked = rollouts(["a"])
    (prompt,) = asked.prompts
    messages = [(message.role, message.content) for message in prompt.messages]
    old = digest(["rlhf_flow.scorer.reward_model.RewardModel", fields, spec.fingerprint()])
    key = digest([old, messages, prompt.answer, dict(prompt.meta), ["a"]])
    path = tmp_path / "cache.sqlite"
    JudgementCache(path, key="scorer.cache").keep({key: json.dumps({"utility": 4.5, "aspects": {}})}, source="old")
    for _ in range(2):
        scored = Cached(spec, str(path)).open(Place()).score(asked)
        assert scored.utility.tolist() == [[4.5]] and scored.counts["judge/queries"] == 0


def digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=repr).encode()).hexdigest()
