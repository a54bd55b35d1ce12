"""Limits on the size of a data set, checked while it is read: a file of kilobytes can decompress to gigabytes."""

from __future__ import annotations

from dataclasses import dataclass

MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """A data set beyond one of these limits is refused."""

    rows: int = 10_000_000  # of the data set; blank lines count
    row_mib: float = 16.0  # of a row, decompressed
    total_mib: float = 4096.0  # of the data set, decompressed

    def __post_init__(self) -> None:
        for key, value in vars(self).items():
            if value <= 0:
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
