"""The budget of an LLM judge, and a ledger of what it spent: one SQLite file, shared by runs and processes.

Each call is reserved on disk at its maximum cost before it is sent, and settled once it is answered. A reservation
that is never settled, because the answer was lost or the process died, may have been charged: it counts as spent.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rlhf_flow.scorer.fields import check_fields
from rlhf_flow.scorer.wrappers.judgement_cache import JudgementCache, note_source, path_of

MICRO = 1_000_000  # costs are stored in millionths of the unit of the prices

ACCOUNTS = """CREATE TABLE IF NOT EXISTS accounts (
    name TEXT PRIMARY KEY, calls INTEGER NOT NULL, tokens INTEGER NOT NULL, cost INTEGER NOT NULL
) WITHOUT ROWID"""
UNSETTLED = """CREATE TABLE IF NOT EXISTS unsettled (
    id INTEGER PRIMARY KEY AUTOINCREMENT, account TEXT NOT NULL, tokens INTEGER NOT NULL, cost INTEGER NOT NULL
)"""


class CapReached(RuntimeError):  # noqa: N818  # the cap worked as configured
    """The next call could take an account beyond its cap; it was not sent."""


@dataclass(frozen=True)
class Budget:
    """Caps on an account's spending, and the file that records it.

    The caps are on everything that was ever spent under the account's name in this cache. By default each run is an
    account, named by its folder; runs with the same account share their caps.
    """

    max_calls: int | None = None  # requests that are, or may have been, charged; null: no cap
    max_tokens: int | None = None  # of questions and replies together
    max_cost: float | None = None  # in the unit of the prices
    price_per_million_in: float = 0.0  # of a million tokens of questions
    price_per_million_out: float = 0.0  # of replies
    account: str = "${run_dir}"  # interpolated by the configuration
    cache: str | None = None  # SQLite file, not on a network drive; null: ${RLHF_FLOW_HOME}/judgements.sqlite

    def __post_init__(self) -> None:
        prices = "null where both prices are 0 (or set scorer.budget.price_per_million_in and _out)"
        check_fields(
            self,
            ("max_calls", ">= 0, or null for no cap", self.max_calls is None or self.max_calls >= 0),
            ("max_tokens", ">= 0, or null for no cap", self.max_tokens is None or self.max_tokens >= 0),
            ("max_cost", "a number >= 0, or null for no cap", self.max_cost is None or _is_amount(self.max_cost)),
            ("max_cost", prices, self.max_cost is None or self.priced),
            ("price_per_million_in", "a number >= 0", _is_amount(self.price_per_million_in)),
            ("price_per_million_out", "a number >= 0", _is_amount(self.price_per_million_out)),
            ("account", "a name", bool(self.account.strip())),
            slot="scorer.budget",
        )

    @property
    def path(self) -> Path:
        """The file of the cache."""
        return path_of(self.cache)

    @property
    def priced(self) -> bool:
        """Whether tokens cost anything."""
        return self.price_per_million_in > 0 or self.price_per_million_out > 0

    def cost(self, tokens_in: int, tokens_out: int) -> int:
        """In micro-units, rounded up: a price per million tokens is one of micro-units per token."""
        return math.ceil(self.price_per_million_in * tokens_in + self.price_per_million_out * tokens_out)

    def open(self) -> SpendLedger:
        """Raises ValueError if the cache cannot be opened."""
        return SpendLedger(self)


@dataclass(frozen=True)
class Spent:
    """The spending of an account, reservations included."""

    calls: int = 0
    tokens: int = 0
    cost: int = 0  # micro-units
    unsettled: int = 0  # of the calls: not answered, or not yet


@dataclass(frozen=True)
class Reservation:
    """A call that may be sent."""

    id: int
    tokens: int  # at most
    cost: int  # at most, in micro-units


class SpendLedger(JudgementCache):
    """The cached replies, and the spending of a budget's account."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        super().__init__(budget.path, ACCOUNTS, UNSETTLED, key="scorer.budget.cache")
        with self.transaction() as file:
            file.execute("INSERT OR IGNORE INTO accounts VALUES (?, 0, 0, 0)", [budget.account])

    def reserve(self, *, tokens: int, cost: int) -> Reservation:
        """Reserve the maximum that a call can cost; on disk once this returns.

        Raises CapReached, and reserves nothing, if the account would exceed a cap.
        """
        with self.transaction() as file:
            self._refuse_beyond(self._spent(file), Spent(1, tokens, cost))
            self._add(file, 1, tokens, cost)
            new = file.execute(
                "INSERT INTO unsettled (account, tokens, cost) VALUES (?, ?, ?)", [self._budget.account, tokens, cost]
            )
            assert new.lastrowid is not None
            return Reservation(new.lastrowid, tokens, cost)

    def settle(
        self, reservation: Reservation, kept: Mapping[str, str], *, tokens: int, cost: int, source: str = ""
    ) -> None:
        """Store the reply (key -> reply, or nothing), and replace the reserved maximum by the actual cost.

        On disk once this returns. A stored reply, which could not be read, is replaced.
        """
        with self.transaction() as file:
            self._close(file, reservation)
            self._add(file, 0, tokens - reservation.tokens, cost - reservation.cost)
            file.executemany("INSERT OR REPLACE INTO judgements VALUES (?, ?)", kept.items())
            note_source(file, kept, source)

    def release(self, reservation: Reservation) -> None:
        """Undo a reservation whose call was refused, and not charged."""
        with self.transaction() as file:
            self._close(file, reservation)
            self._add(file, -1, -reservation.tokens, -reservation.cost)

    @property
    def spent(self) -> Spent:
        with self.reading() as file:
            return self._spent(file)

    def _refuse_beyond(self, spent: Spent, wanted: Spent) -> None:
        budget = self._budget
        max_micro = None if budget.max_cost is None else math.floor(budget.max_cost * MICRO)
        for key, cap, unit, have, more in (
            ("max_calls", budget.max_calls, 1, spent.calls, wanted.calls),
            ("max_tokens", budget.max_tokens, 1, spent.tokens, wanted.tokens),
            ("max_cost", max_micro, MICRO, spent.cost, wanted.cost),
        ):
            if cap is not None and have + more > cap:
                unsettled = f" ({spent.unsettled} calls among it have no answer)" if spent.unsettled else ""
                raise CapReached(
                    f"scorer.budget.{key}={cap / unit:g} is reached: account {budget.account!r} has spent "
                    f"{have / unit:g}{unsettled}, and the next call may take {more / unit:g}. Fix: raise it and "
                    "start the same command again: answered calls are cached, and not paid for again."
                )

    def _spent(self, file: sqlite3.Connection) -> Spent:
        row = file.execute(
            "SELECT calls, tokens, cost, (SELECT count(*) FROM unsettled WHERE account = name) "
            "FROM accounts WHERE name = ?",
            [self._budget.account],
        ).fetchone()
        return Spent(*row)

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
