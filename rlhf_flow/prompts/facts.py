"""What is known of a data set once it was read: counts, and the line for the console."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from rlhf_flow.prompts.layout import LaidOut

STARTS_AT_ZERO = ("too_long_cut", "too_long_dropped", "repeated")


@dataclass
class Facts:
    """Collected while rows become prompts."""

    counts: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(STARTS_AT_ZERO, 0)))
    left_out: Counter[str] = field(default_factory=Counter)  # column -> rows whose value is no JSON
    read_as: list[str] = field(default_factory=list)
    nothing_held_out: bool = False

    def add(self, laid_out: LaidOut) -> None:
        """Count the rows, and keep how they were read."""
        self.counts["rows"] += len(laid_out.rows) + laid_out.undecided
        if laid_out.undecided:
            self.counts["undecided_dropped"] += laid_out.undecided
        if laid_out.says and laid_out.says not in self.read_as:
            self.read_as.append(laid_out.says)

    def summary(self) -> str:
        """One line: `read as orca (question → prompt); 23 training, 1 held out`."""
        told = [
            f"{number} {name.replace('_', ' ')}" + (f" ({', '.join(self.left_out)})" if name == "meta_left_out" else "")
            for name, number in self.counts.items()
            if number
        ]
        if self.nothing_held_out:
            told.append("nothing held out, so no round is evaluated")
        return "; ".join([*self.read_as, ", ".join(told)])
