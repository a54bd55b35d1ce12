"""A scorer without verdicts."""

from __future__ import annotations

import pytest

from rlhf_flow.metrics.silent_judge import SilentJudgeError, check_silence


@pytest.mark.parametrize(
    ("counts", "fix"),
    [
        ({"asked": 8, "verdicts": 0, "cut": 8}, r"8 cut.*raise scorer\.max_tokens .*scorer\.thinking=false"),
        ({"asked": 72, "verdicts": 3, "unclear": 60, "cut": 9}, r"3 verdicts on 72 .*scorer\.structured=auto"),
        ({"asked": 20, "verdicts": 1, "failed": 19}, r"look at scorer\.endpoint"),
        ({"asked": 9, "verdicts": 0, "empty": 9}, r"9 empty"),
        ({"asked": 20, "verdicts": 0, "inconsistent": 20}, r"scorer\.inconsistent=average"),
        ({"asked": 8, "verdicts": 0}, r"no cause is known"),
    ],
)
def test_a_judge_that_gives_almost_no_verdicts_stops_the_run_with_the_key_that_helps(
    counts: dict[str, int], fix: str
) -> None:
    with pytest.raises(SilentJudgeError, match=rf"alarms\.silent_judge=0\.1: scorer gave .*{fix}"):
        check_silence({f"judge/{key}": number for key, number in counts.items()}, 0.1, slot="scorer")


@pytest.mark.parametrize(
    ("counts", "limit"),
    [
        ({"asked": 72, "verdicts": 8}, 0.1),
        ({"asked": 7, "verdicts": 0}, 0.1),
        ({"asked": 15, "verdicts": 1}, 0.1),
        ({"asked": 0, "verdicts": 0}, 0.1),
        ({"queries": 50, "abstained": 50}, 0.1),
        ({"asked": 50, "verdicts": 0, "capped": 50}, 0.1),
        ({"asked": 50, "verdicts": 0}, None),
    ],
    ids=["enough", "few", "one of few", "none asked", "does not count", "beyond the cap", "off"],
)
def test_what_may_be_chance_or_is_wanted_stops_nothing(counts: dict[str, int], limit: float | None) -> None:
    check_silence({f"judge/{key}": number for key, number in counts.items()}, limit, slot="scorer")
