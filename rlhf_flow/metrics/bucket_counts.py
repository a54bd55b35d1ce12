"""How many pairs a round has, and why responses and pairs were not used, as text."""

from __future__ import annotations

from collections.abc import Mapping

USED = ("pairs/used", "pairs/used_tie", "late/pairs")  # trained on; late pairs were considered in an earlier round
ANSWERS = {  # buckets of responses that no pair uses
    "truncated": "cut",
    "too_long": "longer than selector.longest",
    "stale": "older than off_policy.max_staleness",
    "mismatched": "beyond off_policy.max_mismatch",
}
PAIRS = {  # buckets of pairs that are not used; other buckets are shown by their name
    "tie": "tied",
    "identical": "of equal answers",
    "abstained": "without a verdict",
    "overdue": "waiting for people",
    "capped": "beyond the judge's budget",
    "unasked": "not compared",
    "low_margin": "too close",
}
MOST = 2  # reasons that are shown


def pairs(metrics: Mapping[str, float]) -> tuple[int, int] | None:
    """How many pairs a round trains on, and how many it considered; None if it selected nothing."""
    considered = [value for key, value in metrics.items() if key.startswith("pairs/")]
    if not considered:
        return None
    return int(sum(metrics.get(key, 0) for key in USED)), int(sum(considered) + metrics.get("late/pairs", 0))


def reasons(metrics: Mapping[str, float], *, limit: int | None = None) -> str:
    """Why a round has no more pairs: "63 answers cut at 64 tokens, 3 pairs tied". `limit`: tokens of a response."""
    cut = "" if limit is None else f" at {limit} tokens"
    answers = [
        (metrics.get(f"responses/{name}", 0), "answer", words + (cut if name == "truncated" else ""))
        for name, words in ANSWERS.items()
    ]
    lost = [
        (value, "pair", PAIRS.get(name, name.replace("_", " ")))
        for key, value in metrics.items()
        if key.startswith("pairs/") and key not in USED and (name := key.removeprefix("pairs/")) != "no_pair"
    ]
    largest = sorted((one for one in [*answers, *lost] if one[0]), key=lambda one: -one[0])[:MOST]
    return ", ".join(f"{number:.0f} {noun}{'' if number == 1 else 's'} {words}" for number, noun, words in largest)
