from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rlhf_flow.scorer.llm.budget import Budget
from rlhf_flow.scorer.llm.endpoint import Endpoint
from rlhf_flow.scorer.llm.rubric import Rubric
from rlhf_flow.specs import Place
from rlhf_flow.types import Rollouts, Scored
from tests.scorer.conftest import rollouts
from tests.support.stub_endpoint import Said, Stub, fails, says

pytest.importorskip("httpx")

CRITERIA = {"help": 3.0, "harm": 1.0}
MARKS = {"a": (4, 2), "b": (1, 1), "c": (5, 5), "d": (6, 1)}  # the last one is out of range


def marked(question: str, before: int) -> Said:
    answer = question.rpartition("##")[2]
    return fails(400) if answer == "!" else says(json.dumps(dict(zip(CRITERIA, MARKS[answer], strict=True))))


def rubric(url: str, folder: Path, **fields: object) -> Rubric:
    (folder / "template.txt").write_text("{conversation}##{answer}")
    plain = {"model": "m", "criteria": CRITERIA, "high": 5.0, "template": str(folder / "template.txt")}
    endpoint = Endpoint(url, name="the lab's judge", on_failure="abstain")
    return Rubric(
        **{**plain, **fields}, endpoint=endpoint, budget=Budget(account="run", cache=str(folder / "cache.sqlite"))
    )


def scored(folder: Path, asked: Rollouts) -> Scored:
    with Stub(marked) as stub:
        spec = rubric(stub.url, folder)
        spec.check()
        return spec.open(Place()).score(asked)


def test_the_worth_is_the_weighted_mean_of_the_marks(tmp_path: Path) -> None:
    judged = scored(tmp_path, rollouts(["a", "b", "c", "a"]))
    np.testing.assert_allclose(judged.utility, [[3.5, 1, 5, 3.5]])
    np.testing.assert_array_equal(judged.aspects["help"], [[4, 1, 5, 4]])
    np.testing.assert_array_equal(judged.aspects["harm"], [[2, 1, 5, 2]])
    np.testing.assert_array_equal(judged.wins[0, 0], [0.5, 1, 0, 0.5])
    assert judged.counts == {
        "judge/asked": 3,
        "judge/verdicts": 3,
        **dict.fromkeys(["judge/cut", "judge/empty", "judge/unclear"], 0),
        "judge/queries": 3,  # equal texts are asked about once
        "judge/cached": 0,
        "judge/abstained": 0,
        "judge/failed": 0,
        "judge/calls": 3,
        "judge/tokens": 33,
    }


def test_what_has_no_clear_marks_has_no_worth(tmp_path: Path) -> None:
    judged = scored(tmp_path, rollouts(["a", "d", "!"]))
    np.testing.assert_array_equal(np.isnan(judged.utility), [[False, True, True]])
    np.testing.assert_array_equal(np.isnan(judged.aspects["harm"]), [[False, True, True]])
    np.testing.assert_array_equal(np.isnan(judged.wins[0]), ~np.eye(3, dtype=bool))
    assert judged.counts["judge/abstained"] == 2 and judged.counts["judge/failed"] == 1
    assert judged.counts["judge/unclear"] == judged.counts["judge/verdicts"] == 1 and judged.counts["judge/asked"] == 3


def test_a_second_run_asks_nothing_but_what_could_not_be_read(tmp_path: Path) -> None:
    asked = rollouts(["a", "b"], ["c", "d"])
    first = scored(tmp_path, asked)
    with Stub(lambda question, before: fails(400)) as stub:
        again = rubric(stub.url, tmp_path).open(Place()).score(asked)
    np.testing.assert_array_equal(first.utility, again.utility)
    assert first.counts["judge/calls"] == 4 and again.counts["judge/cached"] == 3
    assert again.counts["judge/failed"] == 1, "the one out of range was not kept"


def test_other_weights_are_another_judge_and_cost_nothing(tmp_path: Path) -> None:
    asked = rollouts(["a", "b"])
    scored(tmp_path, asked)
    plain, other = (rubric("http://127.0.0.1:1/v1", tmp_path, criteria=weights) for weights in (CRITERIA, {"help": 1}))
    assert plain.fingerprint() != other.fingerprint()
    np.testing.assert_array_equal(other.open(Place()).score(asked).utility, [[4, 1]])


def test_the_shipped_template_names_the_criteria_and_the_range(tmp_path: Path) -> None:
    with Stub(lambda question, before: says('{"help": 2, "harm": 3}')) as stub:
        spec = rubric(stub.url, tmp_path, template="rubric", low=0.5)
        spec.check()
        judged = spec.open(Place()).score(rollouts(["an {answer}"]))
        (question,) = stub.asked
    assert "help, harm" in question and "from 0.5 (worst) to 5 (best)" in question and "an {answer}" in question
    np.testing.assert_array_equal(judged.utility, [[2.25]])


@pytest.mark.parametrize("structured", ["auto", "true"])
def test_a_schema_has_the_criteria(tmp_path: Path, structured: str) -> None:
    with Stub(marked) as stub:
        spec = rubric(stub.url, tmp_path, structured=structured)
        assert spec.open(Place()).score(rollouts(["a"])).counts["judge/verdicts"] == 1
        schema = stub.requests[0]["response_format"]["json_schema"]["schema"]
    assert schema["required"] == list(CRITERIA) and schema["properties"]["help"] == {"type": "number"}
    assert spec.fingerprint() != rubric(stub.url, tmp_path).fingerprint()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"criteria": {}}, "criteria must be at least one name"),
        ({"criteria": {"help": 0.0}}, "criteria must be at least one name with a weight > 0"),
        ({"high": 1.0}, "high must be a number above scorer.low, got 1.0"),
        ({"low": float("nan")}, "low must be a number"),
        ({"max_tokens": 0}, "max_tokens must be >= 1"),
    ],
)
def test_what_is_no_rubric_is_refused(fields: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=f"scorer.{said}"):
        Rubric(**{"model": "m", "criteria": CRITERIA, **fields})
