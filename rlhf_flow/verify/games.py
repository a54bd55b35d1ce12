"""The games of the claims."""

from __future__ import annotations

import numpy as np

from rlhf_flow.games.game import Game, bradley_terry

# An asymmetric cycle with a biased reference: the methods differ on it.
CYCLE = Game(np.array([[0.5, 0.9, 0.3], [0.1, 0.5, 0.8], [0.7, 0.2, 0.5]]), np.array([0.6, 0.3, 0.1]))
# Rock, paper, scissors. The reference is biased: with a uniform one online DPO would find the Nash policy too.
ROCK_PAPER_SCISSORS = Game(np.array([[0.5, 0.9, 0.1], [0.1, 0.5, 0.9], [0.9, 0.1, 0.5]]), np.array([0.6, 0.3, 0.1]))
TWO_ARMS = Game(np.array([[0.5, 0.7], [0.3, 0.5]]), np.array([0.5, 0.5]))
NUMBERS = bradley_terry([0.0, 0.5, 1.2], [0.6, 0.3, 0.1])  # transitive
# The cycle with answers of one, two and three tokens, so that sums and means over tokens differ.
LONGER = Game(CYCLE.wins, CYCLE.reference, answers=((0,), (1, 0), (1, 1, 0)))


def cyclic_game(size: int, seed: int) -> Game:
    """An odd number K of answers in a ring, each better than the next (K - 1) / 2, with random probabilities.

    A random game often has an answer that beats all others, on which every method converges fast; a ring has none.
    """
    random = np.random.default_rng(seed)
    wins = np.full((size, size), 0.5)
    for i in range(size):
        for ahead in range(1, (size - 1) // 2 + 1):
            j = (i + ahead) % size
            wins[i, j] = random.uniform(0.6, 0.95)
            wins[j, i] = 1 - wins[i, j]
    return Game(wins, random.dirichlet(np.ones(size) * 3))


def random_game(size: int, seed: int) -> Game:
    """K answers with random preferences and a random reference."""
    random = np.random.default_rng(seed)
    upper = np.triu(random.uniform(size=(size, size)), 1)
    wins = upper + np.tril(1 - upper.T, -1)
    np.fill_diagonal(wins, 0.5)
    return Game(wins, random.dirichlet(np.ones(size) * 3))
