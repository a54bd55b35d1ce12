from __future__ import annotations

import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_flow.scorer.llm.budget import Budget, CapReached, Reservation, SpendLedger, Spent

MANY = 16


def purse(folder: Path, **fields: object) -> SpendLedger:
    return Budget(**{"account": "run", "cache": str(folder / "cache.sqlite"), **fields}).open()


class Books:
    """An account as it should be, in plain Python."""

    def __init__(self) -> None:
        self.open: list[Reservation] = []
        self.settled: list[tuple[int, int]] = []  # tokens, cost
        self.known: dict[str, str] = {}

    @property
    def spent(self) -> Spent:
        every = [*self.settled, *((one.tokens, one.cost) for one in self.open)]
        return Spent(len(every), sum(one[0] for one in every), sum(one[1] for one in every), len(self.open))


STEP = st.tuples(
    st.sampled_from(["reserve", "reserve", "settle", "release", "reopen"]),
    st.sampled_from(["ours", "theirs"]),
    st.integers(0, 20),  # tokens
    st.integers(0, 9),  # which reservation, which key
)


@given(st.lists(STEP, max_size=40))
def test_every_account_is_the_sum_of_what_happened_to_it(steps: list[tuple[str, str, int, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        purses = {name: purse(Path(folder), account=name, max_tokens=60, max_calls=8) for name in ("ours", "theirs")}
        books = {name: Books() for name in purses}
        for step, name, tokens, which in steps:
            held, book = purses[name], books[name]
            if step == "reopen":
                held.close()
                purses[name] = purse(Path(folder), account=name, max_tokens=60, max_calls=8)
            elif step == "reserve":
                fits = book.spent.calls < 8 and book.spent.tokens + tokens <= 60
                try:
                    book.open.append(held.reserve(tokens=tokens, cost=2 * tokens))
                    assert fits
                except CapReached:
                    assert not fits
            elif book.open:
                one = book.open.pop(which % len(book.open))
                if step == "settle":
                    key, used = f"key {which}", min(tokens, one.tokens)
                    held.settle(one, {key: f"{name} {tokens}"}, tokens=used, cost=used)
                    book.settled.append((used, used))
                    books["ours"].known[key] = f"{name} {tokens}"  # the replies belong to all; the last one stays
                else:
                    held.release(one)
            assert purses[name].spent == book.spent
        keys = [f"key {which}" for which in range(10)]
        for held in purses.values():
            assert held.look_up(keys) == books["ours"].known
            held.close()


@pytest.mark.parametrize("shared", [True, False], ids=["one purse", "a purse each"])
def test_threads_never_exceed_a_cap(tmp_path: Path, shared: bool) -> None:
    one = purse(tmp_path, max_calls=100)

    def work(number: int) -> int:
        held, calls = one if shared else purse(tmp_path, max_calls=100), 0
        try:
            while True:
                reserved = held.reserve(tokens=3, cost=0)
                held.settle(reserved, {f"{number} {calls}": "A"}, tokens=2, cost=0)
                calls += 1
        except CapReached:
            return calls

    with ThreadPoolExecutor(MANY) as pool:
        assert sum(pool.map(work, range(MANY))) == 100
    assert one.spent == Spent(calls=100, tokens=200)


@pytest.mark.slow
def test_processes_never_exceed_a_cap(tmp_path: Path) -> None:
    work = f"""
from rlhf_flow.scorer.llm.budget import Budget, CapReached
held, calls = Budget(account="run", cache={str(tmp_path / "cache.sqlite")!r}, max_tokens=600).open(), 0
try:
    while True:
        held.reserve(tokens=3, cost=0)
        calls += 1
except CapReached:
    print(calls)
"""
    started = [subprocess.Popen([sys.executable, "-c", work], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert sum(int(one.communicate(timeout=120)[0]) for one in started) == 200
    assert purse(tmp_path).spent == Spent(calls=200, tokens=600, unsettled=200)


def test_what_a_killed_process_reserved_stays_spent_and_what_it_settled_stays_known(tmp_path: Path) -> None:
    work = f"""
import os, signal
from rlhf_flow.scorer.llm.budget import Budget
held = Budget(account="run", cache={str(tmp_path / "cache.sqlite")!r}).open()
held.settle(held.reserve(tokens=50, cost=50), {{"first": "A"}}, tokens=7, cost=3)
held.reserve(tokens=100, cost=10)
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", work], timeout=120).returncode == -9
    held = purse(tmp_path)
    assert held.spent == Spent(calls=2, tokens=107, cost=13, unsettled=1)
    assert held.look_up(["first", "second"]) == {"first": "A"}


def test_a_reservation_is_seen_by_others_before_the_call_is_sent(tmp_path: Path) -> None:
    ours, theirs = purse(tmp_path, max_calls=1), purse(tmp_path, max_calls=1)
    reserved = ours.reserve(tokens=1, cost=1)
    with pytest.raises(CapReached):
        theirs.reserve(tokens=1, cost=1)
    ours.release(reserved)
    theirs.reserve(tokens=1, cost=1)


def test_many_keys_are_looked_up_at_once(tmp_path: Path) -> None:
    held = purse(tmp_path)
    for key in ("0", "1999"):
        held.settle(held.reserve(tokens=1, cost=0), {key: f"of {key}"}, tokens=1, cost=0)
    assert held.look_up([str(key) for key in range(2000)]) == {"0": "of 0", "1999": "of 1999"}
    assert held.look_up([]) == {}


def test_a_cap_that_refuses_says_how_to_go_on(tmp_path: Path) -> None:
    fields = {"max_cost": 0.5, "price_per_million_in": 1.0}
    held = purse(tmp_path, **fields)
    held.reserve(tokens=1, cost=400_000)
    said = r"scorer.budget.max_cost=0.5 is reached: account 'run' has spent 0.4 \(1 calls .* no answer.* may take 0.2"
    with pytest.raises(CapReached, match=said):
        held.reserve(tokens=1, cost=200_000)
    assert held.spent == Spent(calls=1, tokens=1, cost=400_000, unsettled=1), "what is refused is not reserved"
    purse(tmp_path, **{**fields, "max_cost": 0.6}).reserve(tokens=1, cost=200_000)


def test_an_endpoint_that_takes_more_than_it_could_is_counted_as_it_says(tmp_path: Path) -> None:
    held = purse(tmp_path, max_tokens=10)
    held.settle(held.reserve(tokens=5, cost=0), {"a": "A"}, tokens=11, cost=0)
    assert held.spent.tokens == 11
    with pytest.raises(CapReached):
        held.reserve(tokens=0, cost=0)


@given(st.floats(0, 100), st.floats(0, 100), st.integers(0, 10**6), st.integers(0, 10**6))
def test_costs_are_rounded_up_and_never_fall_with_tokens(into: float, out: float, asked: int, replied: int) -> None:
    budget = Budget(price_per_million_in=into, price_per_million_out=out)
    exact = into * asked + out * replied
    assert exact <= budget.cost(asked, replied) <= exact + 1
    assert budget.cost(asked, replied) <= budget.cost(asked + 1, replied + 1)


def test_the_cache_is_in_the_home_that_the_environment_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLHF_FLOW_HOME", str(tmp_path))
    Budget(account="run").open().close()
    assert (tmp_path / "judgements.sqlite").is_file()
    assert Budget(cache=str(tmp_path / "other")).path == tmp_path / "other"


def test_what_is_no_cache_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "cache.sqlite"
    file.write_text("my thesis " * 100)
    for cache in (file, file / "below", tmp_path):
        with pytest.raises(ValueError, match=r"scorer\.budget\.cache must be an SQLite file"):
            Budget(cache=str(cache)).open()
    assert file.read_text() == "my thesis " * 100


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"max_calls": -1}, "max_calls must be >= 0"),
        ({"max_tokens": -1}, "max_tokens must be >= 0"),
        ({"max_cost": -1.0, "price_per_million_in": 1.0}, "max_cost must be a number >= 0"),
        ({"max_cost": 1.0}, "max_cost must be null where both prices are 0"),
        ({"price_per_million_out": float("nan")}, "price_per_million_out must be a number >= 0"),
        ({"account": " "}, "account must be a name"),
    ],
)
def test_what_is_no_budget_is_refused(fields: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=f"scorer.budget.{said}"):
        Budget(**fields)
