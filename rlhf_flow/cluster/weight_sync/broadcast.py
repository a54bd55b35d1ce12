"""Weights from the ranks of a learner to engines, bucket by bucket, while both are at it.

Engines take what arrives as any other weights, and vLLM reloads from it layer by layer. vLLM's own trainer side does
not come into the learner's process: to import vllm (0.32) patches torch there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlhf_flow.cluster.weight_sync.channels import Channel, PassOn
from rlhf_flow.weights.buckets import Bucket, Index, views

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class StreamedWeights:
    """Weights that an engine gets from a learner: they can be streamed once, and only while they are sent."""

    groups: tuple[Index, ...]  # what is in each bucket
    line: Channel

    def index(self) -> Index:
        return tuple(entry for group in self.groups for entry in group)

    def stream(self) -> Iterator[tuple[str, Tensor]]:
        """On the line's device. Raises RuntimeError where the learner is lost, or does not come."""
        import torch

        with self.line.open() as pass_on:
            for group in self.groups:
                size = sum(entry.size for entry in group)
                # Of its own for each bucket: vLLM keeps tensors until their layer is whole.
                room = torch.empty(size, dtype=torch.uint8, device=self.line.device)
                pass_on(room)
                yield from views(group, room)

    def load(self) -> dict[str, Tensor]:
        return dict(self.stream())


def send(buckets: Iterable[Bucket], groups: Sequence[Index], lines: Sequence[Channel]) -> None:
    """Pass on each bucket by one line after the other; the second may pass on what the first one brought here.

    A line that fails ends with those after it, and the buckets are gathered to the end all the same, for other ranks
    wait for this one's part of them. Raises RuntimeError then.
    """
    failure: RuntimeError | None = None
    with ExitStack() as stack:
        at_work = None
        for number, bucket in enumerate(buckets):
            if at_work is None:
                at_work, failure = _opened(lines, stack)
            for place, pass_on in enumerate(at_work):
                try:
                    if number >= len(groups) or bucket.index != groups[number]:
                        raise RuntimeError(f"bucket {number} is not the one that the engines wait for")
                    pass_on(bucket.data)
                except RuntimeError as error:
                    failure = failure or error
                    del at_work[place:]
                    break
    if failure is not None:
        raise failure


def _opened(lines: Sequence[Channel], stack: ExitStack) -> tuple[list[PassOn], RuntimeError | None]:
    """Those that could be opened, up to the first that could not, and why."""
    opened: list[PassOn] = []
    for line in lines:
        try:
            opened.append(stack.enter_context(line.open()))
        except RuntimeError as failure:
            return opened, failure
    return opened, None
