"""Attention of models that cap its scores, as Gemma 2 does."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def keep_soft_caps(model: PreTrainedModel) -> None:
    """Let a model that caps its attention scores compute them itself.

    transformers 5 loads it with torch's attention function, which has no cap and leaves it out without a word.
    """
    if model.config.get_text_config().to_dict().get("attn_logit_softcapping"):
        model.set_attn_implementation("eager")
