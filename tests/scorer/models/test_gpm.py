"""A general preference model as a judge: what it says is the form of its own embeddings."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rlhf_flow.scorer.models.gpm import GPM, log_odds
from rlhf_flow.specs import Place
from rlhf_flow.tokenization.chat_template import chat_tokens
from rlhf_flow.types import Message
from tests.scorer.conftest import Checkpoint, rollouts

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def path(checkpoint: Checkpoint) -> str:
    return checkpoint(labels=4)


def embedded(path: str, question: str, answer: str) -> np.ndarray:
    """One conversation alone, by the checkpoint's own forward pass."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokens = chat_tokens(tokenizer, [Message("user", question), Message("assistant", answer)], reply=False)
    model = AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(input_ids=torch.tensor([tokens])).logits[0].double().numpy()


def test_it_says_what_the_embeddings_say(path: str) -> None:
    answers = ["yes", "no, never at all", "maybe", "yes"]
    scored = GPM(path).open(Place()).score(rollouts(answers))
    vectors = [embedded(path, "question 0?", answer) for answer in answers]
    expected = [[1 / (1 + np.exp(-log_odds(one, other))) for other in vectors] for one in vectors]
    np.testing.assert_allclose(scored.wins[0], expected, atol=1e-5)
    assert np.ptp(scored.wins[0]) > 0.01
    assert scored.counts == {"judge/queries": 3, "judge/truncated": 0}


def test_the_padding_of_a_checkpoint_does_not_hide_an_end(checkpoint: Checkpoint) -> None:
    asked, path = rollouts(["yes", "no, never at all"]), checkpoint(labels=4)
    without = GPM(path).open(Place()).score(asked).wins
    config = Path(path) / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"pad_token_id": 2}))  # EOS, which ends every answer
    np.testing.assert_allclose(GPM(path).open(Place()).score(asked).wins, without, atol=1e-6)


@pytest.mark.parametrize("budget", [1, 40, 8192])
def test_batches_change_nothing_but_rounding(path: str, budget: int) -> None:
    asked = rollouts(["a", "b" * 30, "c d e"], ["", "yes", "no"])
    whole = GPM(path).open(Place()).score(asked)
    cut = GPM(path, batch_tokens=budget).open(Place()).score(asked)
    np.testing.assert_allclose(cut.wins, whole.wins, atol=1e-5)


def test_a_long_conversation_is_cut_at_the_front_and_counted(path: str) -> None:
    scored = GPM(path, max_tokens=8).open(Place()).score(rollouts(["y", "z" * 40]))
    assert scored.counts["judge/truncated"] == 2


def test_an_odd_number_of_labels_is_refused(checkpoint: Checkpoint, language_path: str) -> None:
    with pytest.raises(ValueError, match=r"even number of labels, and .* with 3.*scorer=reward_model"):
        GPM(checkpoint(labels=3)).check()
    with pytest.raises(ValueError, match=r"sequence-classification checkpoint"):
        GPM(language_path).check()


def test_it_is_a_judge_of_pairs(path: str) -> None:
    assert GPM(path).intransitive and GPM(path).loads_model
    assert GPM(path).fingerprint()
    for key, value in {"path": "", "format": "xml", "max_tokens": 1, "batch_tokens": 0, "dtype": "int8"}.items():
        with pytest.raises(ValueError, match=rf"scorer.{key} must be"):
            GPM(**({"path": path} | {key: value}))
