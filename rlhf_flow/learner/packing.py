"""Rows in one line of tokens without padding, where the answers to a prompt share it.

A line holds groups: a prompt, then each of its answers without its last token, which nothing reads. The positions of
every answer go on from the prompt's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlhf_flow.learner.batching import Group, Packed, Row

FILLER = 64  # tokens of a group that fills a line: fewer than any model has positions


def pack_groups(rows: Sequence[Row], multiple: int = 1) -> Packed:
    """The rows as one line, grouped by prompt; `at`, `targets` and `mask` stay row by row.

    The line is filled to a multiple of tokens with groups that nothing reads.
    """
    members: dict[bytes, list[int]] = {}
    for r, row in enumerate(rows):
        members.setdefault(row.prompt.tobytes(), []).append(r)
    at: list[np.ndarray] = [np.zeros(0, np.int64)] * len(rows)
    line: list[np.ndarray] = []
    groups, end = [], 0
    for numbers in members.values():
        prompt = rows[numbers[0]].prompt
        line.append(prompt)
        last, end = end + len(prompt) - 1, end + len(prompt)
        for r in numbers:
            fed = rows[r].tokens[:-1]
            line.append(fed)
            # The prompt's last position predicts the first token, and each token the next one.
            at[r] = np.concatenate([[last], np.arange(end, end + len(fed))])[: len(rows[r].tokens)]
            end += len(fed)
        groups.append(Group(len(prompt), tuple(max(0, len(rows[r].tokens) - 1) for r in numbers)))
    for left in range(-end % multiple, 0, -FILLER):
        groups.append(Group(min(left, FILLER), ()))
        line.append(np.zeros(groups[-1].prompt, np.int64))
    mask = np.arange(max(len(row.tokens) for row in rows)) < np.array([[len(row.tokens)] for row in rows])  # [R, T]
    targets = np.concatenate([row.tokens for row in rows]).astype(np.int64)
    return Packed(np.concatenate(line).astype(np.int64)[None], np.concatenate(at), targets, mask, tuple(groups))
