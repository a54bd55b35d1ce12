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
    """What is said of P pairs of answers, and what was recorded.

    Which of a pair comes first changes no measure but `always_first`. A judge that compares is asked in both orders:
    verdicts of the same `comparison` are of the same two answers, the same one first here whichever the judge read
    first. What is measured of them is one pair, with the mean of the probabilities that they say.
    """

    odds: np.ndarray  # float64 [P]: log P(first beats second) - log P(second beats first), in nats
    label: np.ndarray  # float64 [P]: P(first beats second), recorded
    longer: np.ndarray  # float64 [P]: length of first less that of second
    answers: Sequence[tuple[str, str]]  # [P]: the texts of both
    prompt: np.ndarray  # int64 [P]: pairs with the same number answer the same messages
    comparison: np.ndarray | None = None  # int64 [P]; None: every verdict is of another

    @property
    def correct(self) -> np.ndarray:
        """[P]: 1 where the side that won is said to, 1/2 where neither is; NaN where neither won."""
        return _agreement(self.odds, self.label)


def measure(verdicts: Verdicts, *, seed: int) -> dict[str, float]:
    """The metrics by name. What cannot be measured is absent.

    pairs               pairs with a label
    accuracy            share of the pairs with a winner where it is said to win, 1/2 for a tie of the model
    longer_wins         what the accuracy would be if the longer answer always won
    always_first        what it would be if the answer always won that was recorded first: 1 where the winner stands
                        first in every row, otherwise what can be known without reading
    over_longer_wins    accuracy less longer_wins; over_always_first: less always_first
    log_loss            cross-entropy of the said probability against the label, nats
    ece                 expected calibration error, over 10 bins of confidence
    length_correlation  of the log-odds with the difference of lengths, over both orders of each pair
    order_consistency   share of the pairs that were asked in both orders where both name the same winner
    cycles              triples of answers to a prompt whose labels go round
    cycle_accuracy      share of these where all three pairs are right; never by a number for each answer

    Of accuracy, the baselines and what it is over them, `_low` and `_high` are a 95 % bootstrap interval over prompts.
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
        values = np.stack([share[decided] for share in shares.values()])  # [K, P]
        low, high = _intervals(values, verdicts.prompt[decided], seed=seed)
        for k, name in enumerate(shares):
            metrics |= {name: float(values[k].mean()), f"{name}_low": float(low[k]), f"{name}_high": float(high[k])}
    if consistency is not None:
        metrics["order_consistency"] = consistency
    if cycles := list(_cycles(verdicts)):
        metrics |= {"cycles": float(len(cycles)), "cycle_accuracy": float(np.mean(cycles))}
    return metrics


def reliability(verdicts: Verdicts) -> list[dict[str, float]]:
    """The reliability curve: for each bin of confidence its bounds, pairs, mean confidence, and how often it won."""
    verdicts = _once_each(verdicts)
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


def _shares(verdicts: Verdicts) -> dict[str, np.ndarray]:
    """What each pair [P] adds to the accuracy, to that of both baselines and to what it is over them."""
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
    """Every comparison once, with the log-odds of the mean of the probabilities that were said of it."""
    if verdicts.comparison is None:
        return verdicts
    _, at, group = np.unique(verdicts.comparison, return_index=True, return_inverse=True)
    won, lost = np.full((2, len(at)), -np.inf)  # log of the sums of P(first beats second) and P(second beats first)
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
    named = np.bincount(group, weights=np.sign(verdicts.odds))  # 2 or -2 where both orders name the same
    twice = asked == 2
    return float((np.abs(named[twice]) == 2).mean()) if twice.any() else None


def _agreement(said: np.ndarray, label: np.ndarray) -> np.ndarray:
    agreement: np.ndarray = np.where(label == 0.5, np.nan, (1 + np.sign(said) * np.sign(label - 0.5)) / 2)
    return agreement


def _towards_the_likelier(verdicts: Verdicts) -> tuple[np.ndarray, np.ndarray]:
    """Of the side that is said to be likelier: P(it wins) as said [P], and as recorded [P]; 1/2 where neither is."""
    sign = np.sign(verdicts.odds)
    return 1 / (1 + np.exp(-np.abs(verdicts.odds))), 0.5 + sign * (verdicts.label - 0.5)


def _intervals(values: np.ndarray, prompt: np.ndarray, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """95 % percentile intervals of the means of values [K, P]; prompts are resampled, with all their pairs."""
    _, group = np.unique(prompt, return_inverse=True)
    sums = np.stack([np.bincount(group, weights=row) for row in values])  # [K, prompts]
    counts = np.bincount(group)
    generator = np.random.default_rng(seed)
    means = []
    for _ in range(RESAMPLES):
        picks = generator.integers(0, len(counts), size=len(counts))
        means.append(sums[:, picks].sum(-1) / counts[picks].sum())
    low, high = np.quantile(means, [0.025, 0.975], axis=0)
    return low, high


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
