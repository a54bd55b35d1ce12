"""The recipes of games, with the constants that they ship with.

Each yaml in `configs/algorithm` is composed and played with exact expectations, every round to the minimum of its loss;
policy gradients take one step a round. `sppo` and `inpo` are missing: their papers' constants are for rounds that end
long before the minimum, which a claim below shows for INPO.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

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

SEEDS = range(7)
FAMILIES: dict[str, tuple[Game, ...]] = {
    "rings of 3": tuple(cyclic_game(3, seed) for seed in SEEDS),
    "rings of 5": tuple(cyclic_game(5, seed) for seed in SEEDS),
    "6 random answers": tuple(random_game(6, seed) for seed in SEEDS),
}


FIT = Fit()
GRADIENT = Descent(lr=1.0)


@dataclass(frozen=True)
class Recipe:
    """A recipe, what it should reach, and how it is played."""

    name: str
    tau: Callable[[RunConfig], float]  # of the game whose Nash policy it seeks
    rounds: int = 60
    method: Method = FIT
    average: bool = False  # whether theory returns the average of the iterates


def _own(config: RunConfig) -> float:
    return float(config.objective.tau)


def _none(config: RunConfig) -> float:
    return 0.0


RECIPES = (
    Recipe("online_ipo", _own),
    Recipe("ipo_md", _own),
    Recipe("nash_md_exact", _own),
    Recipe("egpo", _own),
    Recipe("mpo", _none),
    Recipe("dno", _none, average=True),
    Recipe("nash_md", _own, rounds=300, method=GRADIENT),
    Recipe("nash_ema", _own, rounds=300, method=GRADIENT),
)


def shipped(name: str, *overrides: str) -> RunConfig:
    """The recipe's configuration, with a judge of pairs and paths that nothing reads."""
    paths = ("model.path=.", "prompts.path=.", "scorer=preference_model", "scorer.path=.")
    return compose(f"algorithm={name}", *paths, "engine=huggingface", "rounds=2", *overrides)


def expectation(selector: Selector) -> Selector:
    """The selector whose pairs of enumerated answers are the expectation of those that this one chooses."""
    return AllPairs(label=selector.label, identical=selector.identical) if isinstance(selector, OnlyPair) else selector


def gaps(recipe: Recipe, games: tuple[Game, ...], *, rounds: int | None = None) -> list[tuple[float, float]]:
    """The duality gap of each game at the start and in the end."""
    config = shipped(recipe.name)
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
    tau, found = recipe.tau(config), []
    for g, game in enumerate(games):
        policies = played.of(g)
        last = policies.mean(0) if recipe.average else policies[-1]
        found.append((gap(game, game.reference, tau), gap(game, last, tau)))
    return found


def converges(recipe: Recipe) -> Callable[[int], Iterator[Finding]]:
    def check(seed: int) -> Iterator[Finding]:
        for name, games in FAMILIES.items():
            worst = max(end / start for start, end in gaps(recipe, games))
            yield below(f"largest gap after {recipe.rounds} rounds as a share of the start's, 7 {name}", worst, 0.5)

    return check


def magnet(seed: int) -> Iterator[Finding]:
    yield from converges(RECIPES[4])(seed)
    (start, end), *_ = gaps(RECIPES[4], (CYCLE,), rounds=200)
    yield below(f"gap without a regulariser after 200 rounds on the cycle, {start:.3f} at the start", end, 0.005)


def paper_constants(seed: int) -> Iterator[Finding]:
    """INPO with random pairs instead of the tournament's, on whose expectation its theory rests."""
    for eta, tau in ((0.3, 0.1), (0.005, 0.005 / 3)):
        worst = 0.0
        for games in FAMILIES.values():
            played = play(*games, objective=INPO(eta, tau), rounds=60)
            ends = [gap(game, played.of(g)[-1], tau) for g, game in enumerate(games)]
            worst = max(worst, *(end / gap(game, game.reference, tau) for end, game in zip(ends, games, strict=True)))
        what = f"largest gap after 60 rounds as a share of the start's, 21 games, eta={eta:g}"
        yield below(what, worst, 0.5) if eta > 0.1 else above(what, worst, 1.0)


SAYS = "the shipped recipe converges"
CLAIMS = (
    Claim("R1", "online IPO", SAYS, "Calandriello et al. 2024", converges(RECIPES[0]), seconds=8),
    Claim("R2", "IPO-MD", SAYS, "Calandriello et al. 2024", converges(RECIPES[1]), seconds=8),
    Claim("R3", "exact Nash-MD", SAYS, "Munos et al. 2023", converges(RECIPES[2]), seconds=6),
    Claim("R4", "EGPO", SAYS, "Zhou et al. 2025", converges(RECIPES[3]), seconds=6),
    Claim("R5", "MPO", SAYS, "Wang et al. 2024", magnet, seconds=9),
    Claim(
        "R6",
        "DNO",
        "the average iterate of the shipped recipe converges",
        "Rosset et al. 2024",
        converges(RECIPES[5]),
        seconds=10,
    ),
    Claim("R7", "Nash-MD-PG", SAYS, "Munos et al. 2023, sec. 7", converges(RECIPES[6]), seconds=15),
    Claim("R8", "Nash-EMA-PG", SAYS, "Munos et al. 2023, sec. 7", converges(RECIPES[7]), seconds=15),
    Claim(
        "R9",
        "INPO",
        "converges if its step is small; the paper's is for rounds that end early",
        "Zhang et al. 2024",
        paper_constants,
        seconds=8,
    ),
)
