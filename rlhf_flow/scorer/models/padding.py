"""Whether padding on the right can change a model's output at the tokens before it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def sees_padding(model: PreTrainedModel) -> bool:
    """Whether the model needs a mask of the padding. Without one, kernels for plain causal attention apply.

    False for decoders of transformers: all their attention is causal, as their modules say to the kernels, and their
    positions count from the left. True for bidirectional attention, and for a checkpoint's own code.
    """
    if not type(model).__module__.startswith("transformers."):
        return True
    causal = [vars(module)["is_causal"] for module in model.modules() if "is_causal" in vars(module)]
    overruled = vars(model.config.get_text_config()).get("is_causal") is False
    return overruled or not causal or not all(causal)
