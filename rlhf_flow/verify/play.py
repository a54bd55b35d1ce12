"""Play a game with the same loop, objective, selector, schedule and replay as a run on a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlhf_flow import loop
from rlhf_flow.games.engine import TabularEngine
from rlhf_flow.games.game import LOGITS, Board, Game
from rlhf_flow.games.learner import TabularLearner
from rlhf_flow.games.scorer import MatrixScorer
from rlhf_flow.games.solvers import Fit, Method
from rlhf_flow.metrics.alarms import Alarms
from rlhf_flow.protocols import Memory, Objective, Sampler, Schedule, Scorer, Selector
from rlhf_flow.replay import Window
from rlhf_flow.schedule import Fixed
from rlhf_flow.stages.context import CheckpointPolicy, Evaluation, RunContext
from rlhf_flow.storage.in_memory import InMemory
from rlhf_flow.types import Policy, Prompt, SamplingParams
from rlhf_flow.verify.setting import EXACT, SELF_PLAY
from rlhf_flow.weights.fingerprint import fingerprint
from rlhf_flow.weights.source import InMemoryWeights


@dataclass(frozen=True)
class Rounds:
    """All prompts of the board in every round, none held out."""

    prompts: tuple[Prompt, ...]
    sha256: str = ""
    summary: str = ""

    @property
    def origin(self) -> dict[str, object]:
        return {}

    @property
    def counts(self) -> dict[str, int]:
        return {"training": len(self.prompts)}

    @property
    def longest(self) -> int:
        return 1

    @property
    def candidates(self) -> dict[str, int]:
        names = set.intersection(*(set(prompt.candidates) for prompt in self.prompts))
        return dict.fromkeys(sorted(names), 1)

    def batch(self, round: int, page: int = 0) -> tuple[Prompt, ...]:
        return self.prompts

    def held_out(self) -> tuple[Prompt, ...]:
        return ()


@dataclass(frozen=True)
class Played:
    """The policies of a run. `of(g)`: those of game g, [rounds + 1, K]; round 0 is the start."""

    board: Board
    policies: Sequence[Sequence[np.ndarray]]  # [rounds + 1][G] of [K]

    def of(self, game: int = 0) -> np.ndarray:
        return np.stack([policies[game] for policies in self.policies])


def play(
    *games: Game,
    objective: Objective,
    rounds: int,
    sampler: Sampler = SELF_PLAY,
    selector: Selector = EXACT,
    schedule: Schedule | None = None,
    memory: Memory | None = None,
    method: Method | None = None,
    exact: bool = True,
    copies: int = 1,
    prompts: tuple[Prompt, ...] | None = None,
    judge: Scorer | None = None,
    seed: int = 0,
) -> Played:
    """Run `rounds` rounds on the games and return all published policies.

    exact: every draw enumerates the answers with their probabilities, so the loss is an exact expectation. Otherwise it
    samples `n` answers for `copies` prompts per game; `prompts` replaces these, to add candidates. `method` trains the
    policy, by default to the minimum of each round's loss. `judge` scores the answers, by default as the games' `wins`
    say, with utilities that are mean wins. Raises ValueError if the games differ in size.
    """
    if len({game.size for game in games}) != 1:
        raise ValueError(
            f"games that are played together must have equally many answers, got {[game.size for game in games]}. "
            "Fix: play them one after another."
        )
    board = Board(tuple(games))
    logits = board.reference
    learner = TabularLearner(board, method or Fit())
    learner.published[0] = board.probabilities(logits)
    state = {LOGITS: logits}
    scorer = judge or MatrixScorer(board)
    store = InMemory()
    asked = prompts or board.prompts(copies)
    context = RunContext(
        seed=seed,
        rounds=rounds,
        prompts_per_commit=len(asked),
        start=Policy("policy", 0, fingerprint(state), InMemoryWeights(state), stateless=True),
        trust_remote_code=False,
        prompts=Rounds(asked),
        sampler=sampler,
        engine=TabularEngine(board, enumerates=exact),
        scorer=scorer,
        selector=selector,
        objective=objective,
        replay=memory or Window(),
        schedule=schedule or Fixed(),
        learner=learner,
        evaluation=Evaluation(scorer, draw=SamplingParams(name="held-out", n=1), every=rounds),
        checkpoints=CheckpointPolicy(every=rounds + 1, steps=None, keep=1),
        ledger=store,
        observers=(),
        alarms=Alarms(no_pairs=None),  # a few sampled answers may all be equal
    )
    try:
        loop.run(context)
    finally:
        store.close()
    published = learner.published
    for round in range(1, rounds + 1):  # a round without pairs publishes what it started from
        if round not in published:
            published[round] = published[context.schedule.at(round, store.records).init]
    return Played(board, [published[round] for round in range(rounds + 1)])
