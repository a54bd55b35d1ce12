"""The prompts that an engine gets while it generates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from queue import SimpleQueue

from rlhf_flow.types import Prompt


@dataclass
class Inbox:
    """A `Take` of the prompts that another thread puts.

    The number of all prompts ends it, because Ray 2.60 may run the calls of a concurrency group out of order.
    """

    arrived: SimpleQueue[Sequence[Prompt] | int] = field(default_factory=SimpleQueue)
    taken: int = 0
    total: int | None = None  # None: not known yet

    def put(self, arrived: Sequence[Prompt] | int) -> None:
        """Prompts, or the number of all prompts."""
        self.arrived.put(arrived)

    def __call__(self, *, wait: bool) -> Sequence[Prompt] | None:
        new: list[Prompt] = []
        while self.taken != self.total and (not self.arrived.empty() or (wait and not new)):
            each = self.arrived.get()
            if isinstance(each, int):
                self.total = each
            else:
                new += each
                self.taken += len(each)
        return new if new or self.taken != self.total else None
