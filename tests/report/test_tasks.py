"""Results of `rlhf-flow eval --tasks` in the folder of a run: on its page, and on the card of a policy."""

from __future__ import annotations

from pathlib import Path

from rlhf_flow.evaluation import record
from rlhf_flow.report.card import model_card
from rlhf_flow.report.run_folder import read
from tests.report.test_report import page_of

ACCURACY = {"acc": 0.5, "acc_low": 0.304, "acc_high": 0.696, "samples": 30.0}


def test_they_are_on_the_page_and_on_the_card_of_their_round(good_run: Path) -> None:
    assert "lm-evaluation-harness" not in page_of(good_run).words + model_card(read(good_run), 4)
    for name, added in ((f"{good_run}@0", 0.0), (f"{good_run}@4", 0.1), ("other/run@4", 0.2)):
        found = {key: value + added * (key != "samples") for key, value in ACCURACY.items()}
        record.keep(good_run / "eval", "tasks", name, {"arc|easy" if added == 0.2 else "arc": found})
    page, card = page_of(good_run).words, model_card(read(good_run), 4)
    assert "0.60 (0.40 to 0.80)" in page and "0.70 (0.50 to 0.90)" in page and str(good_run.parent) not in page
    assert "| task | metric | starting model | round 4 |" in card
    assert "| arc | acc | 0.50 (0.30 to 0.70) | 0.60 (0.40 to 0.80) |" in card and "| arc | samples | 30 | 30 |" in card
    assert "easy" not in card and "lm-evaluation-harness" not in model_card(read(good_run), 2)
