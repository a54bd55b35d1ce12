"""The reward model agrees with a forward pass of its own, one conversation at a time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rlhf_flow.scorer.models.reward_model import RewardModel
from rlhf_flow.specs import Place
from tests.scorer.conftest import Checkpoint, rollouts

pytestmark = pytest.mark.slow

ANSWERS = [["a cat", "", "a dog and a cat and the sky"], ["why", "x" * 70, "日本語"]]


def one_by_one(path: str, render: Callable[[str, str], str]) -> np.ndarray:
    """The oracle: no batch, no padding, float64."""
    model = AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float64).eval()
    own = AutoTokenizer.from_pretrained(path)
    asked = rollouts(*ANSWERS)
    scores = []
    for prompt, responses in zip(asked.prompts, asked.responses, strict=True):
        for response in responses:
            ids = own(render(prompt.messages[0].content, response.text), add_special_tokens=False)["input_ids"]
            assert ids.count(own.bos_token_id) == 1
            with torch.no_grad():
                scores.append(model(torch.tensor([ids])).logits.item())
    return np.array(scores).reshape(2, 3)


def chat(question: str, answer: str) -> str:
    return f"<s><|user|>{question}</s><|assistant|>{answer}</s>"


@pytest.mark.parametrize("pad", [None, 0], ids=["no padding token", "padding token"])
@pytest.mark.parametrize("budget", [1, 100, 10_000])
def test_a_batch_scores_as_each_conversation_alone(pad: int | None, budget: int, checkpoint: Checkpoint) -> None:
    path = checkpoint(pad=pad)
    scored = RewardModel(path, batch_tokens=budget).open(Place()).score(rollouts(*ANSWERS))
    expected = one_by_one(path, chat)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(scored.utility, expected, atol=1e-5)
    np.testing.assert_allclose(scored.wins[0, 0, 1], 1 / (1 + np.exp(expected[0, 1] - expected[0, 0])), atol=1e-5)


def test_a_padding_token_that_is_eos_scores_what_transformers_scores(checkpoint: Checkpoint) -> None:
    path = checkpoint(pad=2)
    scored = RewardModel(path).open(Place()).score(rollouts(*ANSWERS))
    np.testing.assert_allclose(scored.utility, one_by_one(path, chat), atol=1e-5)


def test_without_a_template_the_texts_follow_one_another(checkpoint: Checkpoint) -> None:
    path = checkpoint(template=False)
    spec = RewardModel(path, format="plain")
    spec.check()
    expected = one_by_one(path, lambda question, answer: f"<s>{question}\n\n{answer}")
    np.testing.assert_allclose(spec.open(Place()).score(rollouts(*ANSWERS)).utility, expected, atol=1e-5)


def test_what_is_cut_is_counted_and_the_answer_stays(reward_path: str) -> None:
    judge = RewardModel(reward_path, max_tokens=40).open(Place())
    scored = judge.score(rollouts(["x" * 60, "y" * 60, "short"]))
    assert scored.counts == {"judge/queries": 3, "judge/truncated": 2}
    assert len(set(scored.utility[0])) == 3


def test_equal_conversations_are_one_query(reward_path: str) -> None:
    scored = RewardModel(reward_path).open(Place()).score(rollouts(["a", "a", "b"]))
    assert scored.counts["judge/queries"] == 2


def test_a_score_that_is_not_finite_names_the_response(checkpoint: Checkpoint) -> None:
    path = checkpoint()
    model = AutoModelForSequenceClassification.from_pretrained(path)
    with torch.no_grad():
        model.score.weight.fill_(float("nan"))
    model.save_pretrained(path)
    with pytest.raises(FloatingPointError, match="'1/policy/0/q0' nan"):
        RewardModel(path).open(Place()).score(rollouts(["a"]))


def test_bfloat16_is_close(reward_path: str) -> None:
    wide = RewardModel(reward_path).open(Place()).score(rollouts(*ANSWERS)).utility
    narrow = RewardModel(reward_path, dtype="bfloat16").open(Place()).score(rollouts(*ANSWERS)).utility
    assert narrow.dtype == np.float32 and not np.array_equal(narrow, wide)
    np.testing.assert_allclose(narrow, wide, atol=0.1 * np.ptp(wide))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labels": 2}, "num_labels=1 .* has 2"),
        ({"head": False}, "sequence-classification checkpoint.*LlamaForCausalLM"),
        ({"template": False}, "Fix: .* or scorer.format=plain"),
    ],
)
def test_what_is_no_reward_model_is_refused_without_loading_it(
    change: dict[str, Any], said: str, checkpoint: Checkpoint
) -> None:
    path = checkpoint(**change)
    (Path(path) / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=said):
        RewardModel(path).check()
    with pytest.raises(ValueError, match=said):
        RewardModel(path).open(Place())


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path: Path, checkpoint: Checkpoint) -> None:
    with pytest.raises(ValueError, match=r"scorer\.path=.* holds no config\.json"):
        RewardModel(str(tmp_path)).check()
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"scorer\.path=.*: loading it failed: .* Fix: "):
        RewardModel(str(tmp_path)).check()


def test_a_missing_head_is_never_filled_with_random_numbers(checkpoint: Checkpoint) -> None:
    path = checkpoint(head=False)
    config = json.loads((Path(path) / "config.json").read_text())
    config["architectures"] = ["LlamaForSequenceClassification"]
    config["num_labels"] = 1
    (Path(path) / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"has no weights for score.weight"):
        RewardModel(path).open(Place())


def test_values_are_checked(reward_path: str) -> None:
    for key, value in {"format": "xml", "max_tokens": 1, "batch_tokens": 0, "dtype": "float16"}.items():
        with pytest.raises(ValueError, match=rf"scorer\.{key} must be"):
            RewardModel(reward_path, **{key: value})
    with pytest.raises(ValueError, match=r"scorer\.max_tokens must be <= 512"):
        RewardModel(reward_path, max_tokens=513).check()
