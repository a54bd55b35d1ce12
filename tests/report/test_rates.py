"""Win rates are printed in the digits that their interval supports, wherever they are printed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rlhf_flow.metrics.alarms import raised
from rlhf_flow.metrics.win_rate import gap, win_rate
from rlhf_flow.report import overoptimization
from rlhf_flow.report.card import model_card
from rlhf_flow.report.format import cell, with_ends
from rlhf_flow.report.measures import MEASURES, undecided
from rlhf_flow.report.page import columns
from rlhf_flow.report.run_folder import Run, read
from rlhf_flow.report.side_by_side import last_value
from tests.report.test_page import charts
from tests.report.test_report import page_of

MakeRun = Callable[..., Path]
THREE = re.compile(r"\b[01]\.\d{3}\b")
FEW = np.array([1.0, 1.0, 1.0, 0.0])
CONTROLLED = "eval/win_rate_length_controlled"


@pytest.fixture
def folder(make_run: MakeRun) -> Path:
    """A run that compared on four prompts."""
    lines = [
        {
            **{name: value for key in RATES for name, value in win_rate(key, wins).items()},
            **gap("eval/proxy_gap", FEW, 1 - FEW),
            "eval/kl": kl,
            "alarm/win_rate_drop": 1.0,
            "alarm/proxy_gap": 1.0,
        }
        for wins, kl in ((FEW, 0.0), (np.ones(4), 4.0), (FEW, 9.0))
    ]
    return make_run(lines, name="few")


RATES = ("eval/win_rate", CONTROLLED, "eval/win_rate/mathematics")


@pytest.fixture
def run(folder: Path) -> Run:
    return read(folder)


def test_in_eval() -> None:
    rate = win_rate("win_rate", FEW)
    assert with_ends(rate, "win_rate") == cell((*rate.values(),)) == "0.75 (0.30 to 0.95)"
    assert cell((0.8134, 0.8122, 0.8146)) == "0.8134 (0.8122 to 0.8146)"


def test_on_the_card(run: Run) -> None:
    card = model_card(run, 2)
    assert "0.75 [0.30, 0.95]" in card and not THREE.search(card.partition("## Results")[2])


def test_on_the_page_of_a_run(folder: Path) -> None:
    page = page_of(folder).words
    assert "alarm win_rate_drop" in page and "0.75 in round 0" in page
    shown = [value for _, values in columns(read(folder)) for value in values]
    assert "0.75" in shown and not any(map(THREE.search, shown))
    assert "95 % interval 0.30 to 0.95" in charts(folder)["Win rate"]


def test_in_a_comparison_of_runs(run: Run) -> None:
    assert last_value(run, MEASURES["eval/win_rate"]) == "0.75 (0.30 to 0.95), round 2"


def test_in_sentences(run: Run) -> None:
    assert {alarm.reason.partition(": read")[0] for alarm in raised(run.metrics[2])} == {
        "the win rate fell to 0.75 [0.30, 0.95], below its best",
        "the win rate by the scorer of training exceeds that by the evaluation scorer by 0.50 [-0.40, 0.91]",
    }
    assert undecided("round 1", 0.5, 0.30064, 0.95441).endswith("95 % interval 0.30 to 0.95")
    fell = [{"round": 1.0, "sqrt_kl": 1.0, **win_rate("win_rate", np.ones(64))}]
    fell += [{"round": 2.0, "sqrt_kl": 2.0, **win_rate("win_rate", np.arange(64) % 2)}]
    assert overoptimization.passed_its_best(fell).endswith("1.000 at √KL 1.00, and falls to 0.50 at 2.00")
