"""What a paid judge has said and what was spent on it: one SQLite file, shared by runs and by processes.

A call is reserved on disk before it is sent, at the most that it can cost, and settled when its answer is there. What
was reserved and never settled, because the answer was lost or the process died, may have been charged: it stays spent.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlhf_flow.scorer.wrappers.judgement_cache import JudgementCache, path_of, tell

MICRO = 1_000_000  # money is counted in millionths of the unit that prices are given in

ACCOUNTS = """CREATE TABLE IF NOT EXISTS accounts (
    name TEXT PRIMARY KEY, calls INTEGER NOT NULL, tokens INTEGER NOT NULL, cost INTEGER NOT NULL
) WITHOUT ROWID"""
UNSETTLED = """CREATE TABLE IF NOT EXISTS unsettled (
    id INTEGER PRIMARY KEY AUTOINCREMENT, account TEXT NOT NULL, tokens INTEGER NOT NULL, cost INTEGER NOT NULL
)"""


class CapReached(RuntimeError):  # noqa: N818  # it is no error of anybody's: the cap did what it is for
    """The next call could take an account beyond its cap; it was not sent."""


@dataclass(frozen=True)
class Budget:
    """What may be spent, and where it is written down.

    The caps are of an account: of everything that was ever spent under its name in this cache. Each run is an account
    of its own, by the name of its folder; runs that are given one name share their caps.
    """

    max_calls: int | None = None  # requests that are, or may have been, charged; None: no cap
    max_tokens: int | None = None  # of questions and replies together
    max_cost: float | None = None  # in the unit of the prices
    price_per_million_in: float = 0.0  # of a million tokens of questions
    price_per_million_out: float = 0.0  # of replies
    account: str = "${run_dir}"  # of the configuration; a budget that is made by hand names its own
    cache: str | None = None  # SQLite file, not on a network's drive; None: ${RLHF_FLOW_HOME}/judgements.sqlite

    def __post_init__(self) -> None:
        priced = self.price_per_million_in > 0 or self.price_per_million_out > 0
        for key, rule, ok in (
            ("max_calls", ">= 0, or null for no cap", self.max_calls is None or self.max_calls >= 0),
            ("max_tokens", ">= 0, or null for no cap", self.max_tokens is None or self.max_tokens >= 0),
            ("max_cost", "a number >= 0, or null for no cap", self.max_cost is None or _is_amount(self.max_cost)),
            ("max_cost", "null where both prices are 0 (or set scorer.budget.price_per_million_in and _out)",
             self.max_cost is None or priced),
            ("price_per_million_in", "a number >= 0", _is_amount(self.price_per_million_in)),
            ("price_per_million_out", "a number >= 0", _is_amount(self.price_per_million_out)),
            ("account", "a name", bool(self.account.strip())),
        ):  # fmt: skip
            if not ok:
                raise ValueError(f"scorer.budget.{key} must be {rule}, got {vars(self)[key]!r}")

    @property
    def path(self) -> Path:
        """The file of the cache: ${RLHF_FLOW_HOME:-~/.cache/rlhf-flow}/judgements.sqlite unless it is named."""
        return path_of(self.cache)

    @property
    def priced(self) -> bool:
        """Whether tokens cost anything."""
        return self.price_per_million_in > 0 or self.price_per_million_out > 0

    def cost(self, tokens_in: int, tokens_out: int) -> int:
        """In micro-units, rounded up: a price per million tokens is one of micro-units per token."""
        return math.ceil(self.price_per_million_in * tokens_in + self.price_per_million_out * tokens_out)

    def open(self) -> SpendLedger:
        """Raises ValueError where the cache cannot be opened."""
        return SpendLedger(self)


@dataclass(frozen=True)
class Spent:
    """What an account has spent, with what is reserved."""

    calls: int = 0
    tokens: int = 0
    cost: int = 0  # micro-units
    unsettled: int = 0  # calls, among these, that were never answered, or not yet


@dataclass(frozen=True)
class Reservation:
    """A call that may be sent."""

    id: int
    tokens: int  # at most
    cost: int  # at most, in micro-units


class SpendLedger:
    """A budget at work. Many threads may use one, many processes one file."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._judgements = JudgementCache(budget.path, ACCOUNTS, UNSETTLED, key="scorer.budget.cache")
        with self._judgements.transaction() as file:
            file.execute("INSERT OR IGNORE INTO accounts VALUES (?, 0, 0, 0)", [budget.account])

    def look_up(self, keys: Sequence[str]) -> dict[str, str]:
        """The replies that are known, by key."""
        return self._judgements.look_up(keys)

    def reserve(self, *, tokens: int, cost: int) -> Reservation:
        """Put aside what one call can cost at most. Once this returns, it is on disk.

        Raises CapReached, and reserves nothing, where the account would exceed a cap.
        """
        wanted = (1, tokens, cost)
        with self._judgements.transaction() as file:
            self._refuse_beyond(self._spent(file), wanted)
            self._add(file, *wanted)
            new = file.execute(
                "INSERT INTO unsettled (account, tokens, cost) VALUES (?, ?, ?)", [self._budget.account, tokens, cost]
            )
            assert new.lastrowid is not None
            return Reservation(new.lastrowid, tokens, cost)

    def settle(
        self, reservation: Reservation, kept: Mapping[str, str], *, tokens: int, cost: int, source: str = ""
    ) -> None:
        """Keep the reply (by its key), if it is worth that, and count what it did cost instead of the most it could.

        On disk once this returns. A reply that was kept before and could not be read is replaced.
        """
        with self._judgements.transaction() as file:
            self._close(file, reservation)
            self._add(file, 0, tokens - reservation.tokens, cost - reservation.cost)
            file.executemany("INSERT OR REPLACE INTO judgements VALUES (?, ?)", kept.items())
            tell(file, kept, source)

    def adopt(self, keys: Mapping[str, str]) -> int:
        """Give judgements that are kept by old keys their new ones (new -> old); return how many."""
        return self._judgements.adopt(keys)

    def release(self, reservation: Reservation) -> None:
        """Put everything back: the call was refused, and not charged."""
        with self._judgements.transaction() as file:
            self._close(file, reservation)
            self._add(file, -1, -reservation.tokens, -reservation.cost)

    @property
    def spent(self) -> Spent:
        with self._judgements.reading() as file:
            return self._spent(file)

    def close(self) -> None:
        self._judgements.close()

    def _refuse_beyond(self, spent: Spent, wanted: tuple[int, int, int]) -> None:
        budget = self._budget
        most = None if budget.max_cost is None else math.floor(budget.max_cost * MICRO)
        for key, cap, unit, have, more in (
            ("max_calls", budget.max_calls, 1, spent.calls, wanted[0]),
            ("max_tokens", budget.max_tokens, 1, spent.tokens, wanted[1]),
            ("max_cost", most, MICRO, spent.cost, wanted[2]),
        ):
            if cap is not None and have + more > cap:
                unsettled = f" ({spent.unsettled} calls among it have no answer)" if spent.unsettled else ""
                raise CapReached(
                    f"scorer.budget.{key}={cap / unit:g} is reached: account {budget.account!r} has spent "
                    f"{have / unit:g}{unsettled}, and the next call may take {more / unit:g}. Raise it and start the "
                    "same command again: what was answered is kept, and not paid for again."
                )

    def _spent(self, file: sqlite3.Connection) -> Spent:
        calls, tokens, cost, unsettled = file.execute(
            "SELECT calls, tokens, cost, (SELECT count(*) FROM unsettled WHERE account = name) "
            "FROM accounts WHERE name = ?",
            [self._budget.account],
        ).fetchone()
        return Spent(calls, tokens, cost, unsettled)

    def _add(self, file: sqlite3.Connection, calls: int, tokens: int, cost: int) -> None:
        file.execute(
            "UPDATE accounts SET calls = calls + ?, tokens = tokens + ?, cost = cost + ? WHERE name = ?",
            [calls, tokens, cost, self._budget.account],
        )

    def _close(self, file: sqlite3.Connection, reservation: Reservation) -> None:
        closed = file.execute("DELETE FROM unsettled WHERE id = ?", [reservation.id])
        assert closed.rowcount == 1, f"reservation {reservation.id} was settled or released before"


def _is_amount(value: float) -> bool:
    return math.isfinite(value) and value >= 0
