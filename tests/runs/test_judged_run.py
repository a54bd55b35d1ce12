"""A whole run whose judge misbehaves behind its endpoint: it ends with the right abstentions, or stops and goes on."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from rlhf_flow.cli.main import main
from tests.support import tiny
from tests.support.stub_endpoint import Behaviour, Said, Stub, fails, says

pytest.importorskip("httpx")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.policy(tmp_path_factory.mktemp("policy"))


def overrides(policy: Path, folder: Path, stub: Stub, **keys: object) -> list[str]:
    (folder / "template.txt").write_text("{conversation}##{first}##{second}")
    asked = tiny.overrides(policy, tiny.prompts(folder / "prompts.jsonl"), folder / "run", rounds=2, scorer="judge")
    values: dict[str, object] = {
        "sampler.draws.0.n": 2,
        "scorer.model": "m",
        "scorer.template": folder / "template.txt",
        "scorer.endpoint.base_url": stub.url,
        "scorer.endpoint.timeout_seconds": 2,
        "scorer.endpoint.retries": 2,
        "scorer.budget.cache": folder / "cache.sqlite",
        "scorer@evaluate.scorer": "rule",
        "evaluate.scorer.function": "tests.support.tiny.shorter",
        "evaluate.proxy": "false",
    }
    return [*asked, *(f"{key}={value}" for key, value in (values | keys).items())]


def letter(question: str) -> str:
    _, first, second = question.split("##")
    return "A" if len(first) < len(second) else "B"


def troubled(kinds: dict[int, Said]) -> Behaviour:
    """By a hash of the question: something of everything, each at its first try or for ever."""

    def behave(question: str, before: int) -> Said:
        kind = sum(question.encode()) % 8
        if kind == 7:
            return fails(400)  # for ever: no use in trying again
        return kinds[kind] if before == 0 and kind in kinds else says(letter(question))

    return behave


KINDS = {
    0: fails(500),
    1: fails(429, Retry_After="0"),
    2: Said("<html>not now</html>"),
    3: Said(says("A").body[:40]),
    4: Said(says("A").body, cut=True),
    5: Said("", hangs=True),
}


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]


def test_a_round_ends_with_the_right_abstentions(policy: Path, tmp_path: Path) -> None:
    with Stub(troubled(KINDS)) as stub:
        asked = overrides(policy, tmp_path, stub, **{"scorer.endpoint.on_failure": "abstain", "prompts.batch": 20})
        assert main(["run", *asked]) == 0
        refused = {question for question in stub.asked if sum(question.encode()) % 8 == 7}
    told = metrics(tmp_path)[1:]
    assert refused and len(stub.asked) > 16
    assert 0 < sum(round["judge/failed"] for round in told) <= len(refused)
    for round in told:
        pairs = {key: value for key, value in round.items() if key.startswith("pairs/")}
        assert sum(pairs.values()) == 20, pairs  # prompts of two answers each
        assert pairs.get("pairs/abstained", 0) == round["judge/abstained"]


def test_a_run_that_stops_at_a_failure_goes_on_and_pays_no_answer_twice(
    policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Stub(lambda question, before: fails(400) if stub.total > 12 else says(letter(question))) as stub:
        asked = overrides(policy, tmp_path, stub)
        assert main(["run", *asked]) == 1
        said = " ".join(capsys.readouterr().err.split())
        assert "status 400" in said and "The same command resumes" in said
        answered = 12
        stub.behaviour = lambda question, before: says(letter(question))
        assert main(["run", *asked]) == 0
        paid = sum(1 for number in stub.asked.values() if number == 1)
        assert stub.total - len(stub.asked) <= 16, "at most what was refused is asked again"
        assert paid >= answered
    with sqlite3.connect(tmp_path / "cache.sqlite") as cache:
        (kept,) = cache.execute("SELECT count(*) FROM judgements").fetchone()
    assert kept == len(stub.asked)
    assert all(round["judge/abstained"] == 0 for round in metrics(tmp_path)[1:])


def test_a_cap_stops_the_run_and_a_higher_one_goes_on(
    policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Stub(lambda question, before: says(letter(question))) as stub:
        asked = overrides(policy, tmp_path, stub)
        assert main(["run", *asked, "scorer.budget.max_calls=12"]) == 1
        assert "max_calls=12" in capsys.readouterr().err and stub.total == 12
        assert main(["run", *asked, "scorer.budget.max_calls=200"]) == 0
        assert set(stub.asked.values()) == {1}
    told = metrics(tmp_path)[1:]
    assert sum(round["judge/calls"] for round in told) <= stub.total  # what a stopped piece paid is in its account


def test_a_silent_judge_stops_the_run_and_may_be_asked_otherwise_until_it_speaks(
    policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A thinking model spends its tokens: no answer is scored in vain, and the same run goes on with more tokens."""

    def thinks(question: str, before: int) -> Said:
        enough = stub.requests[-1].get("max_completion_tokens", 16) > 100
        return says(letter(question)) if enough else says(None, finish="length")

    with Stub(thinks) as stub:
        asked = overrides(policy, tmp_path, stub, **{"prompts.batch": 20})
        assert main(["run", *asked]) == 1
        told = capsys.readouterr()
        assert told.out.count("warning: a reply of the judge was cut at 16 tokens") == 1
        assert "alarms.silent_judge=0.1" in told.err and "raise scorer.max_tokens" in told.err
        assert len(metrics(tmp_path)) == 1, "the start alone"
        more = "scorer.request={max_tokens: null, max_completion_tokens: 900}"
        assert main(["run", *asked, more]) == 0
        assert main(["run", *asked, "scorer.request={max_tokens: null, max_completion_tokens: 901}"]) == 2
    said = capsys.readouterr()
    assert "scorer.request.max_completion_tokens was 900, now 901" in said.err
    assert "verdicts " in said.out and " calls" in said.out
    (first, *_) = metrics(tmp_path)[1:]
    assert first["judge/verdicts"] == first["judge/asked"] >= 8 and first["judge/cut"] == 0
