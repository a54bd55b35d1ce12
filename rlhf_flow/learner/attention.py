"""Attention over a line of groups: each answer sees its prompt and itself.

Everything else in a decoder layer works token by token, so it runs on the line. For attention the tokens are gathered
into rectangles, for which the model's own function is called, and its outputs are gathered back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface

from rlhf_flow.learner.batching import Group
from rlhf_flow.learner.sequence import SequenceGroup
from rlhf_flow.learner.spans import Span, place
from rlhf_flow.learner.varlen import Sequences, supported

NAME = "rlhf_flow_line"  # of `attend` among the attention functions of transformers
INNER = "sdpa"  # the function that `attend` calls


@dataclass(frozen=True)
class Rectangle:
    """Queries [R, Q] and keys [R, K], as places in the line. A missing place repeats the first one of its row."""

    queries: np.ndarray
    keys: np.ndarray
    present: np.ndarray  # bool [R, K]: keys that are not missing

    @property
    def causal(self) -> bool:
        """Whether query i is key i, so that attention is causal in the order of places."""
        return self.queries is self.keys

    @property
    def cost(self) -> int:
        """Scores that attention computes; without a mask it skips the upper half."""
        return self.queries.size * self.keys.shape[1] // (2 if self.causal else 1)


class Line:
    """Where attention finds the tokens of a line of groups."""

    def __init__(self, groups: Sequence[Group], device: torch.device, sequence: SequenceGroup | None = None) -> None:
        self.sequence = sequence  # the ranks that share the line
        self._spans, positions = place(groups)
        self.sequences = Sequences(self._spans, device)
        self.positions = torch.from_numpy(positions).to(device)  # [M]
        self.longest = int(positions.max()) + 1
        self.masks: dict[tuple[int, int | None], Tensor | None] = {}

    @cached_property
    def rectangles(self) -> list[Rectangle]:
        """Those that compute fewer scores."""
        return min(_whole(self._spans), _split(self._spans), key=lambda each: sum(one.cost for one in each))

    @cached_property
    def queries(self) -> list[Tensor]:
        return [self._placed(one.queries) for one in self.rectangles]

    @cached_property
    def keys(self) -> list[Tensor]:
        return [self._placed(one.keys) for one in self.rectangles]

    @cached_property
    def back(self) -> Tensor:
        """[M]: each token's output, among those of all rectangles."""
        back, end = np.zeros(len(self.positions), np.int64), 0
        for one in self.rectangles:
            back[one.queries.ravel()[::-1]] = np.arange(end, end + one.queries.size)[::-1]  # the first of equal places
            end += one.queries.size
        return self._placed(back)

    def mask(self, number: int, window: int | None) -> Tensor | None:
        """Which keys the queries of a rectangle see, bool [R, 1, Q, K]; None: those up to their own place."""
        window = None if window is None or window >= self.longest else window
        causal = self.rectangles[number].causal
        if (number, window) not in self.masks:
            self.masks[number, window] = None if causal and window is None else self._mask(number, window)
        return self.masks[number, window]

    def _mask(self, number: int, window: int | None) -> Tensor:
        queries, keys = self.positions[self.queries[number]], self.positions[self.keys[number]]
        queries, keys = queries[:, :, None], keys[:, None, :]
        seen = (keys <= queries) & self._placed(self.rectangles[number].present)[:, None, :]  # [R, Q, K]
        return (seen if window is None else seen & (keys > queries - window))[:, None]

    def _placed(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.positions.device)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    line: Line,
    sliding_window: int | None = None,
    **named: Any,  # noqa: ANN401  # what the model passes to its own function
) -> tuple[Tensor, None]:
    """An attention function of transformers, for query, key and value [1, heads, M, D]. Returns [1, M, heads, D].

    Ranks that share a line have a slice of M each.
    """
    if line.sequence is not None:
        query, key, value = map(line.sequence.heads, (query, key, value))
    found = _attend(module, query, key, value, line, sliding_window, named)
    return (found if line.sequence is None else line.sequence.tokens(found)), None


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, line: Line, window: int | None, named: dict[str, Any]
) -> Tensor:
    if supported(query.device, query.dtype, query.shape[-1]):
        return line.sequences.attend(query, key, value, scaling=named.get("scaling"), window=window)
    inner, outputs = AttentionInterface()[INNER], []
    for number, (queries, keys) in enumerate(zip(line.queries, line.keys, strict=True)):
        placed = (_gather(query, queries), _gather(key, keys), _gather(value, keys))
        output, _ = inner(module, *placed, line.mask(number, window), **named)  # [R, Q, heads, D]
        outputs.append(output.flatten(0, 1).flatten(1))
    _, heads, _, _ = query.shape
    return functional.embedding(line.back, torch.cat(outputs)).unflatten(-1, (heads, -1))[None]


def _gather(tokens: Tensor, places: Tensor) -> Tensor:
    """[1, heads, M, D] at places [R, L] -> [R, heads, L, D]."""
    heads = tokens.shape[1]
    table = tokens[0].transpose(0, 1).flatten(1)  # [M, heads * D]
    # An embedding, because its gradient sums equal places on all cores and in a fixed order.
    return functional.embedding(places, table).unflatten(-1, (heads, -1)).transpose(1, 2)


def _whole(spans: Sequence[Span]) -> list[Rectangle]:
    """One rectangle, with a row for each answer: its prompt and itself."""
    places, present = _filled([np.concatenate([span.prompt, one]) for span in spans for one in span.answers])
    return [Rectangle(places, places, present)]


def _split(spans: Sequence[Span]) -> list[Rectangle]:
    """The prompts, each once; and the answers, whose keys are their prompt and themselves."""
    prompts, present = _filled([span.prompt for span in spans if span.answers])
    pairs = [(one, np.concatenate([span.prompt, one])) for span in spans for one in span.answers if len(one)]
    found = [Rectangle(prompts, prompts, present)]
    if pairs:
        queries, _ = _filled([answer for answer, _ in pairs])
        found.append(Rectangle(queries, *_filled([keys for _, keys in pairs])))
    return found


def _filled(rows: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The rows as a rectangle, filled with the first place of each; and which places are not filled."""
    longest = max(map(len, rows))
    present = np.arange(longest) < np.array([[len(row)] for row in rows])
    return np.stack([np.concatenate([row, np.full(longest - len(row), row[0])]) for row in rows]), present


# Rectangles differ from line to line, so that a compiled layer would be compiled for each.
AttentionInterface.register(NAME, torch.compiler.disable(attend))
