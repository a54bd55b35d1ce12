"""Accuracy and calibration of a reward model on held-out labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from rlhf_flow.metrics.stats import difference_with_interval, share_with_interval, sigmoid

BINS = 10  # of the confidence, from 1/2 to 1


@dataclass(frozen=True)
class Verdicts:
    """Predictions and labels of P pairs of responses.

    The order within a pair changes no metric but `always_first`. A pairwise model is asked in both orders: verdicts
    with the same `comparison` are on the same two responses in the same order here, whichever the model read first.
    They count as one pair, with the mean of both probabilities.
    """

    odds: np.ndarray  # float64 [P]: log P(first beats second) - log P(second beats first), nats
    label: np.ndarray  # float64 [P]: P(first beats second), the label
    longer: np.ndarray  # float64 [P]: length of first - length of second
    answers: Sequence[tuple[str, str]]  # [P]: the texts of both
    prompt: np.ndarray  # int64 [P]: equal for pairs with the same prompt
    comparison: np.ndarray | None = None  # int64 [P]; None: each verdict is a comparison of its own

    @property
    def correct(self) -> np.ndarray:
        """[P]: 1 if the model prefers the winner, 1/2 if it ties, else 0; NaN if the label is a tie."""
        return _agreement(self.odds, self.label)


def measure(verdicts: Verdicts) -> dict[str, float]:
    """The metrics by name. What cannot be measured is absent.

    pairs               pairs with a label
    accuracy            share of the pairs with a winner whose winner the model prefers; a tie of the model counts 1/2
    longer_wins         accuracy of always preferring the longer response
    always_first        accuracy of always preferring the first response; 1 if every row names the winner first
    over_longer_wins    accuracy - longer_wins; over_always_first: accuracy - always_first
    log_loss            cross-entropy of the predicted probability against the label, nats
    ece                 expected calibration error, over 10 bins of confidence
    length_correlation  of the log-odds with the difference of lengths, over both orders of each pair
    order_consistency   share of the pairs asked in both orders for which the model prefers the same response twice
    cycles              triples of responses to a prompt whose labels are cyclic
    cycle_accuracy      share of these in which all three predictions are right; no scalar reward has any

    `_low` and `_high` of accuracy, the baselines and the differences are 95 % intervals over prompts.
    """
    consistency = _order_consistency(verdicts)
    verdicts = _once_each(verdicts)
    label = verdicts.label
    misses = [bin["pairs"] * abs(bin["confidence"] - bin["won"]) for bin in reliability(verdicts)]
    metrics = {
        "pairs": float(label.size),
        "log_loss": float((np.logaddexp(0, -verdicts.odds) + (1 - label) * verdicts.odds).mean()),
        "ece": sum(misses) / label.size,
    }
    size = float(np.sqrt((verdicts.odds**2).sum() * (verdicts.longer.astype(np.float64) ** 2).sum()))
    if size > 0:
        metrics["length_correlation"] = float((verdicts.odds * verdicts.longer).sum()) / size
    decided = label != 0.5
    if decided.any():
        shares = _shares(verdicts)
        _, prompt = np.unique(verdicts.prompt[decided], return_inverse=True)
        pairs = np.bincount(prompt).astype(np.float64)  # of each prompt
        for name, share in shares.items():
            interval = difference_with_interval if name.startswith("over_") else share_with_interval
            metrics |= interval(name, np.bincount(prompt, weights=share[decided]), pairs)
    if consistency is not None:
        metrics["order_consistency"] = consistency
    if cycles := list(_cycles(verdicts)):
        metrics |= {"cycles": float(len(cycles)), "cycle_accuracy": float(np.mean(cycles))}
    return metrics


def reliability(verdicts: Verdicts) -> list[dict[str, float]]:
    """The reliability curve: per bin of confidence its bounds, pairs, mean confidence and share of wins."""
    verdicts = _once_each(verdicts)
    confidence, won = _confidence(verdicts)
    place = np.minimum((2 * (confidence - 0.5) * BINS).astype(np.int64), BINS - 1)
    return [
        {
            "from": 0.5 + bin / (2 * BINS),
            "to": 0.5 + (bin + 1) / (2 * BINS),
            "pairs": float((place == bin).sum()),
            "confidence": float(confidence[place == bin].mean()),
            "won": float(won[place == bin].mean()),
        }
        for bin in np.unique(place).tolist()
    ]


def _shares(verdicts: Verdicts) -> dict[str, np.ndarray]:
    """Per pair [P]: the accuracies of the model and of both baselines, and the differences."""
    longer = _agreement(verdicts.longer, verdicts.label)
    first = _agreement(np.ones_like(verdicts.label), verdicts.label)
    return {
        "accuracy": verdicts.correct,
        "longer_wins": longer,
        "always_first": first,
        "over_longer_wins": verdicts.correct - longer,
        "over_always_first": verdicts.correct - first,
    }


def _once_each(verdicts: Verdicts) -> Verdicts:
    """Every comparison once, with the log-odds of the mean predicted probability."""
    if verdicts.comparison is None:
        return verdicts
    _, at, group = np.unique(verdicts.comparison, return_index=True, return_inverse=True)
    won, lost = np.full((2, len(at)), -np.inf)  # log sum P(first beats second), log sum P(second beats first)
    np.logaddexp.at(won, group, -np.logaddexp(0, -verdicts.odds))
    np.logaddexp.at(lost, group, -np.logaddexp(0, verdicts.odds))
    return Verdicts(
        won - lost,
        verdicts.label[at],
        verdicts.longer[at],
        [verdicts.answers[p] for p in at.tolist()],
        verdicts.prompt[at],
    )


def _order_consistency(verdicts: Verdicts) -> float | None:
    if verdicts.comparison is None:
        return None
    _, group, asked = np.unique(verdicts.comparison, return_inverse=True, return_counts=True)
    votes = np.bincount(group, weights=np.sign(verdicts.odds))  # 2 or -2 if both orders agree
    twice = asked == 2
    return float((np.abs(votes[twice]) == 2).mean()) if twice.any() else None


def _agreement(odds: np.ndarray, label: np.ndarray) -> np.ndarray:
    agreement: np.ndarray = np.where(label == 0.5, np.nan, (1 + np.sign(odds) * np.sign(label - 0.5)) / 2)
    return agreement


def _confidence(verdicts: Verdicts) -> tuple[np.ndarray, np.ndarray]:
    """[P] each: the predicted probability of the preferred response, and its label; 1/2 if the model ties."""
    return sigmoid(np.abs(verdicts.odds)), 0.5 + np.sign(verdicts.odds) * (verdicts.label - 0.5)


def _cycles(verdicts: Verdicts) -> Iterator[bool]:
    """For every three responses to a prompt with cyclic labels: whether all three predictions are right."""
    by_prompt: dict[int, dict[tuple[str, str], tuple[float, float]]] = {}
    pairs = zip(verdicts.prompt.tolist(), verdicts.answers, verdicts.label, verdicts.odds, strict=True)
    for prompt, (first, second), label, odds in pairs:
        known = by_prompt.setdefault(prompt, {})
        known[first, second], known[second, first] = (label - 0.5, odds), (0.5 - label, -odds)
    for known in by_prompt.values():
        for a, b, c in combinations(sorted({first for first, _ in known}), 3):
            edges = [known.get(edge) for edge in ((a, b), (b, c), (c, a))]
            found = [edge for edge in edges if edge is not None]
            if len(found) == 3 and abs(sum(np.sign(label) for label, _ in found)) == 3:
                yield all(label * odds > 0 for label, odds in found)
