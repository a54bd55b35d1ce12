"""Activation memory of a Llama-like decoder, in bytes per token and layer.

Letters as in `rlhf_flow.capacity.model_shape`; n tokens of a micro-batch, including padding. The table is what each
layer saves for its backward pass, counted with torch's saved-tensor hooks (`tests/capacity/test_activations.py`):

    float32    24 H + 8 Q + 8 G + 16 I    input and output of normalisation; q, k, v and the output of attention; gate,
                                          up, their activation and product
    autocast   26 H + 4 Q + 4 G +  8 I    the residual stream stays float32, and each projection casts its input
    bfloat16   16 H + 4 Q + 4 G +  8 I    everything except the inside of the normalisation
    plus       8 + 4 A                    two factors of normalisation, and the log-sum-exp of each head

A feed-forward layer without a gate saves half as much of I. Attention is fused, so nothing of size n^2 is stored.
With gradient checkpointing a layer keeps its input, and one layer at a time is recomputed. Selective checkpointing also
keeps the outputs of matrix products and of attention.
"""

from __future__ import annotations

from rlhf_flow.capacity.model_shape import Shape

# numeric -> coefficients of H, Q, G and I, and bytes of an element of the residual stream
KEPT = {"float32": (24, 8, 8, 16, 4), "autocast": (26, 4, 4, 8, 4), "bfloat16": (16, 4, 4, 8, 2)}
SELECTIVE = {"float32": (12, 8, 8, 8), "autocast": (8, 4, 4, 4), "bfloat16": (6, 4, 4, 4)}
ROWS = 128  # tokens of whose logits the output layer makes a copy to sum them


def of_layer(shape: Shape, numeric: str, recompute: str = "off") -> int:
    """Bytes per token that a layer keeps. `recompute`: as `Training.recomputes`."""
    *_, element = KEPT[numeric]
    if recompute == "full":
        return element * shape.width
    wide, query, key, inner = SELECTIVE[numeric] if recompute == "selective" else KEPT[numeric][:4]
    inner = inner if shape.gated else inner // 2
    kept = wide * shape.width + query * shape.queries + key * shape.keys + inner * shape.inner + 4 * shape.heads
    return kept if recompute == "selective" else kept + 8


def activations(shape: Shape, tokens: int, numeric: str, recompute: str = "off") -> int:
    """Bytes for n tokens in all layers and the last normalisation; with autocast, also the cast weights."""
    *_, element = KEPT[numeric]
    end = 3 * element * shape.width * tokens
    cast = 2 * shape.linear if numeric == "autocast" else 0
    kept = shape.layers * of_layer(shape, numeric, recompute) * tokens + end
    if recompute == "off":
        return kept + cast
    return kept + of_layer(shape, numeric) * tokens + cast // max(1, shape.layers)


def logits(shape: Shape, tokens: int, chunk: int, numeric: str) -> int:
    """Bytes of the output layer, which takes `chunk` response tokens at a time and changes their logits in place."""
    at_once = min(chunk, tokens)
    cast = 0 if numeric == "float32" else 2 * at_once
    return (4 * at_once + max(cast, 4 * min(ROWS, at_once))) * shape.vocabulary


def passing(shape: Shape, tokens: int, numeric: str) -> int:
    """Peak bytes of a forward pass without gradients: one feed-forward layer."""
    *_, element = KEPT[numeric]
    return element * tokens * (3 * shape.inner + 3 * shape.width)
