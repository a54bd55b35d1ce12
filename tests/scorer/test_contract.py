"""What every scorer promises, whatever is inside it."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from rlhf_flow.protocols import Scorer
from rlhf_flow.scorer import PARTS
from rlhf_flow.scorer.functions.rule import Rule
from rlhf_flow.scorer.functions.rules import Term
from rlhf_flow.scorer.llm.budget import Budget
from rlhf_flow.scorer.llm.endpoint import Endpoint
from rlhf_flow.scorer.models.reward_model import RewardModel
from rlhf_flow.specs import Place, ScorerSpec
from rlhf_flow.types import Rollouts
from rlhf_flow.weights.offload import Offloadable
from tests.scorer.conftest import Checkpoint, rollouts
from tests.support.served import pooling, scores_of, serving
from tests.support.stub_endpoint import Said, Stub, says

pytestmark = pytest.mark.slow

OVER = Term("rlhf_flow.scorer.shipped.length", weight=0.5, name="over", arguments={"most": 3})
FIELDS: dict[str, dict[str, Any]] = {
    "rule": {"function": "tests.support.rules.length"},
    "rules": {"terms": [Term("tests.support.rules.length"), OVER]},
    "gpm": {},
    "reward_mixture": {},
    "ensemble": {"combine": "pessimistic"},
    "cached": {},
    "recorded": {"ratings": {"policy": "level"}},
    "judge": {"model": "m"},
    "rubric": {"model": "m", "criteria": {"good": 1.0}},
    "simulated": {"base": Rule("tests.support.rules.length"), "position_bias": 0.5, "flips": 0.1},
    "reward_model": {},
    "comparison": {"function": "tests.support.comparisons.longer"},
    "preference_model": {"template": "{conversation}|{first}|{second}|"},
}
ELSEWHERE = {"self_judge", "hindsight", "none"}  # ask a policy of the run (test_asks_policy), or score nothing
ANSWERS = [
    ["", "yes", "no, never", "yes"],
    ["日本語 🦊", "e\u0301", "\u202eabc\n", "\x00"],
    ["a", "a", "b", "a b " * 40],
]


@pytest.fixture(scope="module", params=sorted(PARTS.keys() - ELSEWHERE))
def spec(
    request: pytest.FixtureRequest,
    reward_path: str,
    language_path: str,
    checkpoint: Checkpoint,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ScorerSpec]:
    name = request.param
    if name == "remote":
        pytest.importorskip("fastapi")
        folder = tmp_path_factory.mktemp("served")
        with serving("scorer=rule", "scorer.function=tests.support.rules.length", folder=folder) as served:
            yield PARTS[name](urls=[served.url()])
        return
    if name in ("judge", "rubric"):
        pytest.importorskip("httpx")
        cache = tmp_path_factory.mktemp("judge") / "cache.sqlite"
        with Stub(talks) as stub:
            reached = {"endpoint": Endpoint(stub.url), "budget": Budget(account="contract", cache=str(cache))}
            yield PARTS[name](**FIELDS[name], **reached)
        return
    if name == "human":
        fields = {"deadline": 0.0, "base": Rule("tests.support.rules.length")}
        yield PARTS[name](folder=str(tmp_path_factory.mktemp("labels")), **fields)
        return
    if name == "pooled":
        pytest.importorskip("httpx")
        with pooling(scores_of(reward_path)) as server:
            yield PARTS[name](reward_path, [server.url])
        return
    cache = tmp_path_factory.mktemp("cached") / "cache.sqlite"
    paths = {
        "ensemble": {"members": [RewardModel(reward_path), RewardModel(checkpoint(pad=0))]},
        "cached": {"base": RewardModel(reward_path), "cache": str(cache)},
        "reward_model": {"path": reward_path},
        "preference_model": {"path": language_path},
        "gpm": {"path": checkpoint(labels=4)},
        "reward_mixture": {"path": checkpoint(labels=4)},
    }
    yield PARTS[name](**FIELDS[name], **paths.get(name, {}))


def talks(question: str, before: int) -> Said:
    """A language model that says something else to every question, and always the same."""
    number = zlib.crc32(question.encode())
    return says(json.dumps({"good": 1 + number % 10}) if "JSON object" in question else "ABC"[number % 3])


@pytest.fixture(scope="module")
def scorer(spec: ScorerSpec) -> Iterator[Scorer]:
    spec.check()
    assert isinstance(spec.loads_model, bool)
    assert isinstance(spec.intransitive, bool)
    assert spec.fingerprint()
    opened = spec.open(Place())
    yield opened
    opened.close()


@pytest.mark.parametrize(
    "asked",
    [rollouts(*ANSWERS), rollouts(["only one"]), rollouts([f"answer {'x' * k}" for k in range(16)]), rollouts()],
    ids=["3x4", "1x1", "1x16", "none"],
)
def test_shapes_counts_and_both_views(spec: ScorerSpec, scorer: Scorer, asked: Rollouts) -> None:
    scored = scorer.score(asked)
    b, n = len(asked.prompts), len(asked.responses[0]) if asked.responses else 0
    assert scored.rollouts is asked
    assert scored.utility.shape == (b, n) and scored.utility.dtype == np.float32
    assert scored.wins.shape == (b, n, n) and scored.wins.dtype == np.float32
    assert np.isfinite(scored.utility).all()
    np.testing.assert_allclose(scored.wins + scored.wins.swapaxes(1, 2), 1, atol=1e-6)
    if spec.intransitive:
        np.testing.assert_allclose(scored.utility * n, scored.wins.sum(-1), rtol=1e-5)
        assert 0 <= scored.counts["judge/queries"] <= b * max(n, n * (n - 1) // 2)  # it may embed answers, one by one
    else:
        assert ((scored.wins > 0.5) <= (scored.utility[:, :, None] > scored.utility[:, None, :])).all()
        known = scored.counts.get("judge/cached", 0)  # asked before, and not again
        assert 0 < scored.counts["judge/queries"] + known <= b * n or b == 0
    assert all(values.shape == (b, n) for values in scored.aspects.values())


def test_equal_answers_tie_exactly(scorer: Scorer) -> None:
    scored = scorer.score(rollouts(*ANSWERS))
    assert scored.utility[0, 1] == scored.utility[0, 3]
    assert scored.wins[0, 1, 3] == scored.wins[0, 3, 1] == 0.5
    assert (np.diagonal(scored.wins, axis1=1, axis2=2) == 0.5).all()


def test_a_scorer_with_a_model_can_step_aside(spec: ScorerSpec, scorer: Scorer) -> None:
    if not spec.loads_model or "base" in vars(spec):  # who asks another one stays with the driver, and has no model
        return
    assert isinstance(scorer, Offloadable)
    before = scorer.score(rollouts(*ANSWERS))
    for _ in range(2):
        scorer.step_aside()
        scorer.step_aside()
        scorer.come_back()
        scorer.come_back()
        after = scorer.score(rollouts(*ANSWERS))
        assert np.array_equal(after.utility, before.utility)
        assert np.array_equal(after.wins, before.wins)


def test_the_order_of_prompts_and_answers_changes_nothing(scorer: Scorer) -> None:
    asked = rollouts(*ANSWERS)
    turned = Rollouts(1, asked.prompts[::-1], tuple(row[::-1] for row in asked.responses[::-1]))
    forth, back = scorer.score(asked), scorer.score(turned)
    np.testing.assert_array_equal(forth.utility, back.utility[::-1, ::-1])
    np.testing.assert_array_equal(forth.wins, back.wins[::-1, ::-1, ::-1])


def test_company_changes_nothing(scorer: Scorer) -> None:
    asked = rollouts(*ANSWERS)
    together = scorer.score(asked).utility
    for b, (prompt, responses) in enumerate(zip(asked.prompts, asked.responses, strict=True)):
        alone = scorer.score(Rollouts(1, (prompt,), (responses,))).utility
        np.testing.assert_allclose(alone[0], together[b], atol=1e-5)


def test_prompts_with_different_numbers_of_answers_are_refused(scorer: Scorer) -> None:
    with pytest.raises(ValueError, match="'q1' has 1 responses, others in its round have 2"):
        scorer.score(rollouts(["a", "b"], ["c"]))
