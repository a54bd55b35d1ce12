"""Two judges of style for the embedded world: one whose preferences have a cycle, and one whose have none.

The style of an answer is the tone that more of its parts have than any other. What the prompt asks for is not read.
Nothing of the world is made by them, so a change here leaves a built one as it is.
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

OTHER = "other"  # not well-formed, or without one tone that is the most frequent
STYLES = ("polite", "cheerful", "formal", "grumpy", OTHER)

# P(row beats column). Polite beats cheerful, cheerful beats formal, formal beats polite, each by another margin, so
# that the equilibrium is no even mixture and no style is the best answer to itself; the other two lose to all three.
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

# What the duality gap charges for a nat of KL to the start. The cycle's preferences are up to 0.4 from even, 4 nats at
# this tau: enough that the equilibrium is the cycle's own (the two losing styles have 1 % of it, nearly 9 % at 0.2),
# and so little freedom that a policy of one style pays twice, for what beats it and for its distance from the start.
TAU = 0.1
SMOOTHED = 0.5  # answers that each style is counted as having at the start, so that none is out of reach


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
    """P(first beats second), by style alone; within a style 1/2."""
    return float(CYCLIC[STYLES.index(style(first)), STYLES.index(style(second))])


def transitive(messages: Sequence[Message], first: str, second: str, meta: Mapping[str, object]) -> float:
    """The same, of a Bradley-Terry judge: polite over cheerful over formal over grumpy."""
    return float(TRANSITIVE[STYLES.index(style(first)), STYLES.index(style(second))])


def measure(rollouts: Rollouts) -> dict[str, float]:
    """The share of each style among the last answers to the prompts, and the `gap` of these shares under `cyclic`.

    The reference of the game are the shares among the first answers: in evaluation those of the start. All prompts are
    one game there, so a policy that gives different prompts different styles counts as one that mixes them;
    `gap_by_tone` is the mean over the tones that prompts ask for of the gap on these prompts alone.
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
    apart = sum(len(groups) * _gap(groups, wins) for groups in by_tone.values()) / len(rollouts.prompts)
    shares = _counted([group[-1] for group in rollouts.responses]) / len(rollouts.prompts)
    return {
        "gap": _gap(rollouts.responses, wins),
        "gap_by_tone": apart,
        **{f"style/{name}": float(share) for name, share in zip(STYLES, shares, strict=True)},
    }


def _gap(groups: Sequence[Sequence[Response]], wins: np.ndarray) -> float:
    """Of the shares of styles alone: what else tells two answers apart does not count as distance."""
    start = _counted([group[0] for group in groups]) + SMOOTHED
    now = _counted([group[-1] for group in groups])
    return gap(Game(wins, start / start.sum()), now / now.sum(), TAU)


def _counted(answers: Sequence[Response]) -> np.ndarray:
    """How many answers have each style: [len(STYLES)]."""
    found = Counter(style(answer.text) for answer in answers)
    return np.array([found[name] for name in STYLES], dtype=np.float64)
