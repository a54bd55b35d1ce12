"""Two scorers of style for the sandbox world: one with cyclic preferences, one with transitive ones.

The style of an answer is the most frequent tone of its parts; the request of the prompt does not matter. The build of
the world does not use this module.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

from rlhf_flow.games.equilibrium import gap
from rlhf_flow.games.game import Game, bradley_terry
from rlhf_flow.sandbox.grammar import parse
from rlhf_flow.sandbox.request import understand
from rlhf_flow.types import Message, Response, Rollouts

OTHER = "other"  # not well-formed, or without a single most frequent tone
STYLES = ("polite", "cheerful", "formal", "grumpy", OTHER)

# P(row beats column). Polite beats cheerful, cheerful beats formal, formal beats polite, by different margins, so that
# the equilibrium is not uniform and no pure style is an equilibrium; the other two lose to all three.
CYCLIC = np.array(
    [
        [0.50, 0.90, 0.30, 0.90, 0.95],
        [0.10, 0.50, 0.80, 0.90, 0.95],
        [0.70, 0.20, 0.50, 0.90, 0.95],
        [0.10, 0.10, 0.10, 0.50, 0.95],
        [0.05, 0.05, 0.05, 0.05, 0.50],
    ]
)
WORTH = (1.5, 0.75, 0.0, -2.0, -4.0)  # of each style, in nats: P(i beats j) = sigma(worth_i - worth_j)
TRANSITIVE = bradley_terry(WORTH, [1 / len(STYLES)] * len(STYLES)).wins

# Weight of the KL to the start in the duality gap. The cycle's preferences are up to 0.4 from even, which is 4 nats at
# this tau. So the equilibrium is close to that of the cycle alone (the two losing styles have 1 % of it, nearly 9 % at
# tau=0.2), and a policy of one style pays both for the style that beats it and for its distance from the start.
TAU = 0.1
SMOOTHED = 0.5  # pseudo-count of each style at the start, so that none has probability 0


@lru_cache(maxsize=1 << 16)
def style(answer: str) -> str:
    """One of `STYLES`."""
    tree = parse(answer)
    if tree is None:
        return OTHER
    tones = Counter(part.tone for part in (tree.opening, *tree.sentences, tree.closing) if part is not None)
    (most, often), *others = tones.most_common(2)
    return OTHER if others and others[0][1] == often else most


def cyclic(messages: Sequence[Message], first: str, second: str, meta: Mapping[str, object]) -> float:
    """P(first beats second), by style; 1/2 within a style."""
    return float(CYCLIC[STYLES.index(style(first)), STYLES.index(style(second))])


def transitive(messages: Sequence[Message], first: str, second: str, meta: Mapping[str, object]) -> float:
    """P(first beats second) of a Bradley-Terry scorer: polite over cheerful over formal over grumpy."""
    return float(TRANSITIVE[STYLES.index(style(first)), STYLES.index(style(second))])


def measure(rollouts: Rollouts) -> dict[str, float]:
    """The share of each style among the last answers to the prompts, and the duality `gap` of these shares.

    The reference policy of the game is the shares among the first answers, in evaluation those of the start. `gap`
    treats all prompts as one game, so a policy with different styles for different prompts counts as a mixture;
    `gap_by_tone` is the mean over requested tones of the gap on the prompts that request the tone.
    """
    return _measured(rollouts, CYCLIC)


def measure_transitive(rollouts: Rollouts) -> dict[str, float]:
    """As `measure`, under `transitive`."""
    return _measured(rollouts, TRANSITIVE)


def _measured(rollouts: Rollouts, wins: np.ndarray) -> dict[str, float]:
    by_tone: dict[str | None, list[Sequence[Response]]] = {}
    for prompt, group in zip(rollouts.prompts, rollouts.responses, strict=True):
        asked = [message.content for message in prompt.messages if message.role == "user"]
        by_tone.setdefault(understand(asked[-1] if asked else "").tone, []).append(group)
    by_tone_gap = sum(len(groups) * _gap(groups, wins) for groups in by_tone.values()) / len(rollouts.prompts)
    shares = _counts([group[-1] for group in rollouts.responses]) / len(rollouts.prompts)
    return {
        "gap": _gap(rollouts.responses, wins),
        "gap_by_tone": by_tone_gap,
        **{f"style/{name}": float(share) for name, share in zip(STYLES, shares, strict=True)},
    }


def _gap(groups: Sequence[Sequence[Response]], wins: np.ndarray) -> float:
    """The duality gap of the style shares, with the first answers as reference and the last as policy."""
    start = _counts([group[0] for group in groups]) + SMOOTHED
    now = _counts([group[-1] for group in groups])
    return gap(Game(wins, start / start.sum()), now / now.sum(), TAU)


def _counts(answers: Sequence[Response]) -> np.ndarray:
    """The number of answers of each style: [len(STYLES)]."""
    found = Counter(style(answer.text) for answer in answers)
    return np.array([found[name] for name in STYLES], dtype=np.float64)
