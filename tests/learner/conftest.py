"""Ranks that the tests of this folder share: a process of them takes seconds to import torch and DeepSpeed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.ranks import Ranks


def _ranks(size: int) -> Iterator[Ranks]:
    with Ranks(size) as ranks:
        yield ranks


@pytest.fixture(scope="package")
def one() -> Iterator[Ranks]:
    yield from _ranks(1)


@pytest.fixture(scope="package")
def two() -> Iterator[Ranks]:
    yield from _ranks(2)


@pytest.fixture(scope="package")
def two_others() -> Iterator[Ranks]:
    """Processes that know nothing of what `two` did."""
    yield from _ranks(2)


@pytest.fixture(scope="package")
def four() -> Iterator[Ranks]:
    yield from _ranks(4)
