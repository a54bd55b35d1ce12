"""The recipes of games, with the constants that they ship with.

Each yaml in `configs/algorithm` is composed and played with exact expectations, every round to the minimum of its loss;
policy gradients take one step a round. A recipe that had other constants is played with these, too. `sppo`,
`gpo` and `inpo` are missing: their papers' constants are for rounds that end long before the minimum, which a claim
below shows for INPO. At the minimum of a round of `gpo` an answer's log-ratio is 1000 times its score.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np

from rlhf_flow.config.compose import compose
from rlhf_flow.config.schema import RunConfig
from rlhf_flow.games.equilibrium import gap
from rlhf_flow.games.game import Game
from rlhf_flow.games.solvers import Descent, Fit, Method
from rlhf_flow.objective.inpo import INPO
from rlhf_flow.protocols import Selector
from rlhf_flow.selector.all_pairs import AllPairs
from rlhf_flow.selector.only_pair import OnlyPair
from rlhf_flow.verify.claim import Claim, Finding, above, below
from rlhf_flow.verify.games import CYCLE, cyclic_game, random_game
from rlhf_flow.verify.play import play

FIT = Fit()


def families(seed: int) -> dict[str, tuple[Game, ...]]:
    """Seven games of each kind."""
    seeds = range(7 * seed, 7 * seed + 7)
    return {
        "rings of 3": tuple(cyclic_game(3, each) for each in seeds),
        "rings of 5": tuple(cyclic_game(5, each) for each in seeds),
        "games of 6 random answers": tuple(random_game(6, each) for each in seeds),
    }


@dataclass(frozen=True)
class Recipe:
    """A recipe, the game whose Nash policy it seeks, how it is played, and constants that it had before."""

    name: str
    tau: Callable[[RunConfig], float]  # the strength of that game's regulariser
    rounds: int = 60
    method: Method = FIT
    replaced: tuple[str, ...] = ()  # overrides
    hard: tuple[str, Game] = ("the cycle", CYCLE)  # a game on which the replaced constants do not
    every: bool = True  # whether every game must do so, or most and their mean


def _own(config: RunConfig) -> float:
    return float(config.objective.tau)


def _beta(config: RunConfig) -> float:
    return float(config.objective.beta)


def _none(config: RunConfig) -> float:
    return 0.0


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("online_ipo", _own, rounds=30),
        Recipe("ipo_md", _own, rounds=30),
        Recipe("nash_md_exact", _own, replaced=("objective.eta=0.1", "objective.tau=0.03")),
        Recipe("egpo", _own, replaced=("objective.eta=0.1", "objective.tau=0.03")),
        Recipe("mpo", _none, replaced=("objective.eta=0.1", "objective.tau=0.03", "schedule.k=3"), every=False),
        Recipe("dno", _none, replaced=("objective.eta=0.1",), hard=("a ring of 5", cyclic_game(5, 2)), every=False),
        Recipe("nash_md", _own, 100, Descent(lr=3.0), replaced=("objective.tau=0.008",), every=False),
        Recipe("nash_ema", _own, 200, Descent(lr=0.7), replaced=("objective.tau=0.008",)),
        Recipe("comal", _none, every=False),
        Recipe("mnpo", _own, rounds=30),
        Recipe(
            "spo", _beta, 60, Descent(lr=5.0), replaced=("objective.beta=0.0",), hard=("a ring of 3", cyclic_game(3, 2))
        ),
    )
}


@cache
def shipped(name: str, *overrides: str) -> RunConfig:
    """The recipe's configuration, with a judge of pairs and paths that nothing reads."""
    paths = ("model.path=.", "prompts.path=.", "scorer=preference_model", "scorer.path=.")
    return compose(f"algorithm={name}", *paths, "engine=huggingface", "rounds=2", *overrides)


def expectation(selector: Selector) -> Selector:
    """The selector whose pairs of enumerated answers are the expectation of those that this one chooses."""
    return AllPairs(label=selector.label, identical=selector.identical) if isinstance(selector, OnlyPair) else selector


@dataclass(frozen=True)
class Gaps:
    """The duality gaps [G] of some games at the start and of the policy that theory returns."""

    start: np.ndarray
    end: np.ndarray

    @property
    def shares(self) -> np.ndarray:
        return np.asarray(self.end / self.start)


def gaps(recipe: Recipe, games: tuple[Game, ...], *overrides: str, rounds: int | None = None) -> Gaps:
    """Play the recipe; `Needs.returns` says whether the last policy counts or the average of all."""
    config = shipped(recipe.name, *overrides)
    played = play(
        *games,
        objective=config.objective,
        sampler=config.sampler,
        selector=expectation(config.selector),
        schedule=config.schedule,
        memory=config.replay,
        method=recipe.method,
        rounds=recipe.rounds if rounds is None else rounds,
    )
    tau, average = recipe.tau(config), config.objective.needs.returns == "average"
    ends = [played.of(g).mean(0) if average else played.of(g)[-1] for g in range(len(games))]
    return Gaps(
        np.array([gap(game, game.reference, tau) for game in games]),
        np.array([gap(game, end, tau) for game, end in zip(games, ends, strict=True)]),
    )


def converges(name: str) -> Callable[[int], Iterator[Finding]]:
    """Its gap falls below half of the start's, and that of the replaced constants does not.

    A start that happens to be near the Nash policy can be left for a while. Recipes that do so are held to the mean gap
    of the games and to most of them.
    """
    recipe = RECIPES[name]

    def check(seed: int) -> Iterator[Finding]:
        after, halved, (where, hard) = f"after {recipe.rounds} rounds as a share of the start's", 0, recipe.hard
        for family, games in families(seed).items():
            found = gaps(recipe, (*games, hard) if family == f"rings of {hard.size}" else games)
            if len(found.shares) > 7:
                yield below(f"gap {after}, {where}", found.shares[7], 0.5)
            halved += int((found.shares[:7] < 0.5).sum())
            if recipe.every:
                yield below(f"largest gap {after}, seven {family}", found.shares[:7].max(), 0.5)
            else:
                mean = found.end[:7].mean() / found.start[:7].mean()
                yield below(f"mean gap {after}, seven {family}", mean, 0.5)
        if not recipe.every:
            yield above("games of these 21 whose gap more than halves", halved, 13)
        if recipe.replaced:
            constants = ", ".join(each.partition(".")[2] for each in recipe.replaced)
            before = gaps(recipe, (hard,), *recipe.replaced)
            yield above(f"gap {after}, {where}, with {constants}", before.shares[0], 0.5)

    return check


def magnet(seed: int) -> Iterator[Finding]:
    yield from converges("mpo")(seed)
    found = gaps(RECIPES["mpo"], (CYCLE,), rounds=200)
    what = f"gap without a regulariser after 200 rounds on the cycle, {found.start[0]:.3f} at the start"
    yield below(what, found.end[0], 0.005)


def paper_constants(seed: int) -> Iterator[Finding]:
    """INPO with random pairs instead of the tournament's, on whose expectation its theory rests."""
    for eta, tau in ((0.3, 0.1), (0.005, 0.005 / 3)):
        worst = 0.0
        for games in families(seed).values():
            played = play(*games, objective=INPO(eta, tau), rounds=60)
            ends = [gap(game, played.of(g)[-1], tau) for g, game in enumerate(games)]
            worst = max(worst, *(end / gap(game, game.reference, tau) for end, game in zip(ends, games, strict=True)))
        what = f"largest gap after 60 rounds as a share of the start's, 21 games, eta={eta:g}"
        yield below(what, worst, 0.5) if eta > 0.1 else above(what, worst, 1.0)


SAYS = "the shipped recipe converges"
CLAIMS = (
    Claim("R1", "online IPO", SAYS, "Calandriello et al. 2024", converges("online_ipo"), seconds=5),
    Claim("R2", "IPO-MD", SAYS, "Calandriello et al. 2024", converges("ipo_md"), seconds=4),
    Claim("R3", "exact Nash-MD", SAYS, "Munos et al. 2023", converges("nash_md_exact"), seconds=6),
    Claim("R4", "EGPO", SAYS, "Zhou et al. 2025", converges("egpo"), seconds=6),
    Claim("R5", "MPO", SAYS, "Wang et al. 2024", magnet, seconds=11),
    Claim(
        "R6",
        "DNO",
        "the average iterate of the shipped recipe converges",
        "Rosset et al. 2024",
        converges("dno"),
        seconds=14,
    ),
    Claim("R7", "Nash-MD-PG", SAYS, "Munos et al. 2023, sec. 7", converges("nash_md"), seconds=8),
    Claim("R8", "Nash-EMA-PG", SAYS, "Munos et al. 2023, sec. 7", converges("nash_ema"), seconds=16),
    Claim(
        "R9",
        "INPO",
        "converges if its step is small; the paper's is for rounds that end early",
        "Zhang et al. 2024",
        paper_constants,
        seconds=8,
    ),
    Claim("R10", "COMAL", SAYS, "Liu et al. 2024", converges("comal"), seconds=5),
    Claim("R11", "MNPO", SAYS, "Wu et al. 2025", converges("mnpo"), seconds=4),
    Claim("R12", "SPO", SAYS, "Swamy et al. 2024", converges("spo"), seconds=4),
)
