"""Tiny checkpoints of many architectures, made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from families.models import make

from tests.support.tokenizer import tokenizer

Made = Callable[..., Path]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The folder of a family's checkpoint; with `dtype` or `shard`, of one that is stored so."""
    words, there = tokenizer(), dict[tuple[str, ...], Path]()

    def of(family: str, **stored: str) -> Path:
        key = (family, *stored.values())
        if key not in there:
            there[key] = make(family, tmp_path_factory.mktemp("-".join(key)), words, **stored)
        return there[key]

    return of
