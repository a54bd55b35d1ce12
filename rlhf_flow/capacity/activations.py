"""Activation memory of a Llama-like decoder, in bytes per token and layer.

Letters as in `rlhf_flow.capacity.model_shape`. The table is what each layer saves for its backward
pass, counted with torch's saved-tensor hooks (`tests/capacity/test_activations.py`):

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

from dataclasses import dataclass

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


@dataclass(frozen=True)
class Tokens:
    """The tokens of a forward pass with gradients."""

    line: int  # of everything but attention
    answers: int  # whose logits are computed
    queries: int  # of attention, whose rectangles repeat some tokens of a line
    keys: int
    repeats_keys: bool = False  # whether attention gets keys and values for each query head

    @classmethod
    def padded(cls, rows: int, positions: int) -> Tokens:
        """Of rows padded to `positions`, without logits."""
        return cls(rows * positions, 0, rows * positions, rows * positions)

    @classmethod
    def shared(cls, groups: int, prompt: int, answers: int, answer: int, *, gathers: bool) -> Tokens:
        """Of groups of a prompt and its answers in one line, as `rlhf_flow.learner.attention` lays them out.

        `gathers`: whether attention gathers rectangles; the kernel of GPUs reads the line, and gathers keys only.
        """
        rows, line = groups * answers, groups * (prompt + answers * answer)
        if not gathers:
            return cls(line, rows * answer, line, groups * prompt + rows * (prompt + answer))
        whole, split = rows * (prompt + answer) ** 2 // 2, groups * prompt**2 // 2 + rows * answer * (prompt + answer)
        if whole <= split:
            return cls(line, rows * answer, rows * (prompt + answer), rows * (prompt + answer))
        return cls(line, rows * answer, line, groups * prompt + rows * (prompt + answer), repeats_keys=True)

    def share(self, ranks: int) -> Tokens:
        """Of one of the ranks that share the pass: a slice of the line, and some heads of all tokens."""
        line, answers, queries, keys = (-(-n // ranks) for n in (self.line, self.answers, self.queries, self.keys))
        return Tokens(line, answers, queries, keys, self.repeats_keys)


def activations(shape: Shape, tokens: Tokens, numeric: str, recompute: str = "off") -> int:
    """Bytes that all layers and the last normalisation keep; with autocast, also the cast weights."""
    *_, element = KEPT[numeric]
    end = 3 * element * shape.width * tokens.line
    cast = 2 * shape.linear if numeric == "autocast" else 0
    kept = shape.layers * _of_pass(shape, tokens, numeric, recompute) + end
    if recompute == "off":
        return kept + cast
    return kept + _of_pass(shape, tokens, numeric, "off") + cast // max(1, shape.layers)


def _of_pass(shape: Shape, tokens: Tokens, numeric: str, recompute: str) -> int:
    """Bytes that a layer keeps: as `of_layer`, with attention's own tokens."""
    own = of_layer(shape, numeric, recompute) * tokens.line
    if recompute == "full" or tokens.queries == tokens.keys == tokens.line:
        return own
    each = KEPT[numeric][1] // 2  # bytes of an element in attention
    queries, keys = shape.queries, shape.queries if tokens.repeats_keys else shape.keys
    sums = 4 * shape.heads
    if recompute == "selective":  # the products stay as they are; the output of attention is that of its rectangles
        return own + (each * queries + sums) * (tokens.queries - tokens.line) + each * queries * tokens.line
    before = 2 * each * (queries + shape.keys) + sums  # q, output, k, v
    gathered = (2 * each * queries + sums) * tokens.queries + 2 * each * keys * tokens.keys
    return own - before * tokens.line + gathered + each * queries * tokens.line  # and the output, gathered back


def logits(shape: Shape, tokens: int, chunk: int, numeric: str) -> int:
    """Bytes of the output layer, which takes `chunk` response tokens at a time and changes their logits in place."""
    at_once = min(chunk, tokens)
    cast = 0 if numeric == "float32" else 2 * at_once
    return (4 * at_once + max(cast, 4 * min(ROWS, at_once))) * shape.vocabulary


def passing(shape: Shape, tokens: int, numeric: str) -> int:
    """Peak bytes of a forward pass without gradients: one feed-forward layer."""
    *_, element = KEPT[numeric]
    return element * tokens * (3 * shape.inner + 3 * shape.width)
