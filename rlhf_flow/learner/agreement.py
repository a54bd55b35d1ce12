"""How far a reward model agrees with labels that it has not seen: pure functions of pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

BINS = 10  # of the confidence, from 1/2 to 1
RESAMPLES = 2000  # of the prompts


@dataclass(frozen=True)
class Verdicts:
    """What is said of P pairs of answers, and what was recorded. Which of a pair comes first changes no measure."""

    odds: np.ndarray  # float64 [P]: log P(first beats second) - log P(second beats first), in nats
    label: np.ndarray  # float64 [P]: P(first beats second), recorded
    longer: np.ndarray  # float64 [P]: tokens of first less those of second
    answers: Sequence[tuple[str, str]]  # [P]: the texts of both
    prompt: np.ndarray  # int64 [P]: pairs with the same number answer the same messages

    @property
    def correct(self) -> np.ndarray:
        """[P]: 1 where the side that won is said to, 1/2 where neither is; NaN where neither won."""
        return _agreement(self.odds, self.label)


def measure(verdicts: Verdicts, *, seed: int) -> dict[str, float]:
    """The metrics by name. What cannot be measured is absent.

    pairs               pairs with a label
    accuracy            share of the pairs with a winner where it is said to win, 1/2 for a tie of the model; `_low` and
                        `_high`: 95 % bootstrap interval over prompts
    log_loss            cross-entropy of the said probability against the label, nats
    ece                 expected calibration error, over 10 bins of confidence
    length_correlation  of the log-odds with the difference of lengths, over both orders of each pair
    longer_wins         what the accuracy would be if the longer answer always won
    cycles              triples of answers to a prompt whose labels go round
    cycle_accuracy      share of these where all three pairs are right; never by a number for each answer
    """
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
        correct = verdicts.correct[decided]
        low, high = _interval(correct, verdicts.prompt[decided], seed=seed)
        metrics |= {"accuracy": float(correct.mean()), "accuracy_low": low, "accuracy_high": high}
        metrics["longer_wins"] = float(_agreement(verdicts.longer, label)[decided].mean())
    if cycles := list(_cycles(verdicts)):
        metrics |= {"cycles": float(len(cycles)), "cycle_accuracy": float(np.mean(cycles))}
    return metrics


def reliability(verdicts: Verdicts) -> list[dict[str, float]]:
    """The reliability curve: for each bin of confidence its bounds, pairs, mean confidence, and how often it won."""
    confidence, won = _towards_the_likelier(verdicts)
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


def _agreement(said: np.ndarray, label: np.ndarray) -> np.ndarray:
    agreement: np.ndarray = np.where(label == 0.5, np.nan, (1 + np.sign(said) * np.sign(label - 0.5)) / 2)
    return agreement


def _towards_the_likelier(verdicts: Verdicts) -> tuple[np.ndarray, np.ndarray]:
    """Of the side that is said to be likelier: P(it wins) as said [P], and as recorded [P]; 1/2 where neither is."""
    sign = np.sign(verdicts.odds)
    return 1 / (1 + np.exp(-np.abs(verdicts.odds))), 0.5 + sign * (verdicts.label - 0.5)


def _interval(values: np.ndarray, prompt: np.ndarray, *, seed: int) -> tuple[float, float]:
    """A 95 % percentile interval of the mean; prompts are resampled, with all their pairs."""
    _, group = np.unique(prompt, return_inverse=True)
    sums, counts = np.bincount(group, weights=values), np.bincount(group)
    generator = np.random.default_rng(seed)
    means = []
    for _ in range(RESAMPLES):
        picks = generator.integers(0, len(sums), size=len(sums))
        means.append(sums[picks].sum() / counts[picks].sum())
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def _cycles(verdicts: Verdicts) -> Iterator[bool]:
    """Whether all three pairs are right, for every three answers to a prompt whose labels go round."""
    by_prompt: dict[int, dict[tuple[str, str], tuple[float, float]]] = {}
    pairs = zip(verdicts.prompt.tolist(), verdicts.answers, verdicts.label, verdicts.odds, strict=True)
    for prompt, (first, second), label, odds in pairs:
        known = by_prompt.setdefault(prompt, {})
        known[first, second], known[second, first] = (label - 0.5, odds), (0.5 - label, -odds)
    for known in by_prompt.values():
        for a, b, c in combinations(sorted({first for first, _ in known}), 3):
            edges = [known.get(edge) for edge in ((a, b), (b, c), (c, a))]
            found = [edge for edge in edges if edge is not None]
            if len(found) == 3 and _go_round(found):
                yield all(label * odds > 0 for label, odds in found)


def _go_round(edges: Sequence[tuple[float, float]]) -> bool:
    return all(label > 0 for label, _ in edges) or all(label < 0 for label, _ in edges)
