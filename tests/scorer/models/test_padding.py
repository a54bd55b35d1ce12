"""What a scorer's forward pass is asked for: no mask where causal attention makes it superfluous, and no KV cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, DynamicCache

from rlhf_flow.protocols import Scorer
from rlhf_flow.scorer.models.gpm import GPM
from rlhf_flow.scorer.models.preference_model import PreferenceModel
from rlhf_flow.scorer.models.reward_model import RewardModel
from rlhf_flow.specs import Place
from tests.scorer.conftest import Checkpoint, rollouts
from tests.support.tokenizer import tokenizer

pytestmark = pytest.mark.slow

ANSWERS = [["a cat", "", "a dog and a cat and the sky"], ["why", "x" * 70, "日本語"]]
SCORERS: dict[str, tuple[Callable[[str], Any], dict[str, Any]]] = {
    "reward model": (RewardModel, {}),
    "reward model with a padding token": (RewardModel, {"pad": 0}),
    "GPM": (GPM, {"labels": 4}),
    "preference model": (PreferenceModel, {"head": False}),
}
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "opt": {"ffn_dim": 32, "word_embed_proj_dim": 16},
    "bloom": {},
    "falcon": {"alibi": True},
    "mistral": {"intermediate_size": 32, "sliding_window": 8},
    "gemma2": {"intermediate_size": 32, "sliding_window": 8, "head_dim": 8},
    "bert": {"intermediate_size": 32},
}


@pytest.fixture
def attended(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, bool]]:
    """For each call of an attention kernel with several queries: whether it got a mask, and whether it was causal."""
    calls: list[tuple[bool, bool]] = []
    kernel = torch.nn.functional.scaled_dot_product_attention

    def recorded(*arguments: Any, attn_mask: Any = None, is_causal: bool = False, **named: Any) -> torch.Tensor:
        calls.append((attn_mask is not None, is_causal))
        return kernel(*arguments, attn_mask=attn_mask, is_causal=is_causal, **named)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", recorded)
    return calls


def write(folder: Path, family: str, **more: Any) -> str:
    """A tiny random model of a family, with one score."""
    tokenizer().save_pretrained(folder)
    shape = {"vocab_size": len(tokenizer()), "num_labels": 1, "initializer_range": 0.3, "init_std": 0.3}
    shape |= {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    config = AutoConfig.for_model(family, **(shape | FAMILIES[family] | more))
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    return str(folder)


def utilities(scorer: Scorer) -> np.ndarray:
    return scorer.score(rollouts(*ANSWERS)).utility


@pytest.mark.parametrize("kind", SCORERS)
def test_rows_of_a_decoder_take_the_causal_kernel_whatever_their_lengths(
    kind: str, checkpoint: Checkpoint, attended: list[tuple[bool, bool]]
) -> None:
    spec, of = SCORERS[kind]
    scorer = spec(checkpoint(**of)).open(Place())
    attended.clear()
    scorer.score(rollouts(*ANSWERS))
    assert attended and set(attended) == {(False, True)}


@pytest.mark.parametrize("kind", SCORERS)
def test_no_keys_and_values_are_kept(kind: str, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, of = SCORERS[kind]
    scorer = spec(checkpoint(**of)).open(Place())
    monkeypatch.setattr(DynamicCache, "update", lambda *arguments, **named: pytest.fail("a KV cache"))
    scorer.score(rollouts(*ANSWERS))


def test_a_cap_of_attention_scores_is_kept(tmp_path: Path) -> None:
    found = [
        utilities(RewardModel(write(tmp_path / str(cap), "gemma2", attn_logit_softcapping=cap)).open(Place()))
        for cap in (0.5, None)
    ]
    assert np.abs(found[0] - found[1]).max() > 0.01


@pytest.mark.parametrize("family", FAMILIES)
def test_other_families_score_independently_of_the_batch(family: str, tmp_path: Path) -> None:
    path = write(tmp_path, family)
    together, alone = (
        utilities(RewardModel(path, batch_tokens=budget, max_tokens=256).open(Place())) for budget in (10_000, 1)
    )
    assert np.ptp(together) > 0.01
    np.testing.assert_allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize(("family", "more"), [("bert", {}), ("mistral", {"is_causal": False, "sliding_window": None})])
def test_padding_stays_masked_if_attention_is_bidirectional(
    family: str, more: dict[str, Any], tmp_path: Path, attended: list[tuple[bool, bool]]
) -> None:
    path = write(tmp_path, family, **more)
    alone = utilities(RewardModel(path, batch_tokens=1).open(Place()))
    attended.clear()
    together = utilities(RewardModel(path, batch_tokens=10_000).open(Place()))
    assert set(attended) == {(True, False)}
    np.testing.assert_allclose(together, alone, atol=1e-5)
