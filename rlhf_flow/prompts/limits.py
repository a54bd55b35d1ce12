"""Limits of a data set: on its size, checked while it is read, and on repeated and evaluated prompts."""

from __future__ import annotations

from dataclasses import dataclass, field

MIB = 2**20
ACTIONS = ("refuse", "drop", "count")
NAMED = ["prompt", "instruction", "question", "problem", "turns", "messages", "text", "input"]


@dataclass(frozen=True)
class Overlap:
    """Evaluation sets that training prompts must not occur in.

    A prompt occurs in a set if a user message shares `words` words in a row with one of its texts, or equals one of
    them. Case, spacing and Unicode variants do not count; punctuation counts only if whole texts are compared.
    """

    files: dict[str, str] = field(default_factory=dict)  # name of an evaluation set -> its file, as prompts.path
    columns: list[str] = field(default_factory=lambda: list(NAMED))  # of its files, that hold texts or chats
    words: int = 13  # in a row; a shorter message must equal a whole text
    action: str = "refuse"  # refuse | drop | count: what happens to training prompts that occur in a set

    def __post_init__(self) -> None:
        key = "prompts.limits.overlap"
        if self.action not in ACTIONS:
            raise ValueError(
                f"{key}.action={self.action}: must be one of {', '.join(ACTIONS)}. Fix: {key}.action=drop."
            )
        if self.words < 1:
            raise ValueError(f"{key}.words={self.words}: must be >= 1. Fix: leave it out for 13.")


@dataclass(frozen=True)
class Limits:
    """A data set beyond a limit of size is refused: a file of kilobytes can decompress to gigabytes."""

    rows: int = 10_000_000  # of the data set; blank lines count
    row_mib: float = 16.0  # of a row, decompressed
    total_mib: float = 4096.0  # of the data set, decompressed
    repeats: int | None = None  # times that a prompt may occur; later rows are dropped and counted; null: any number
    overlap: Overlap = field(default_factory=Overlap)

    def __post_init__(self) -> None:
        for key in ("rows", "row_mib", "total_mib", "repeats"):
            value = vars(self)[key]
            if value is not None and value <= 0:
                raise ValueError(f"prompts.limits.{key}={value}: must be > 0. Fix: leave it out for the default.")

    @property
    def row_bytes(self) -> int:
        return int(self.row_mib * MIB)

    @property
    def total_bytes(self) -> int:
        return int(self.total_mib * MIB)


class Budget:
    """Counts the rows and bytes read so far against the limits."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._rows = 0
        self._bytes = 0

    def add(self, place: str, size: int, *, rows: int = 1) -> None:
        """Count rows and their decompressed bytes. Raises ValueError if a limit is exceeded."""
        if rows == 1 and size > self.limits.row_bytes:
            raise self.row_too_large(place)
        self._rows += rows
        self._bytes += size
        if self._rows > self.limits.rows:
            raise ValueError(
                f"{place}: the data set has more than prompts.limits.rows={self.limits.rows} rows. "
                "Fix: use fewer rows, or raise prompts.limits.rows."
            )
        if self._bytes > self.limits.total_bytes:
            raise ValueError(
                f"{place}: the data set is larger than prompts.limits.total_mib={self.limits.total_mib:g} when "
                "decompressed. Fix: use fewer rows, or raise prompts.limits.total_mib if there is memory for them."
            )

    def row_too_large(self, place: str) -> ValueError:
        return ValueError(
            f"{place}: the row is larger than prompts.limits.row_mib={self.limits.row_mib:g} when decompressed. "
            "Fix: remove the row, or raise prompts.limits.row_mib."
        )
