"""What a run asks of its workers: answers, pairs, steps and tokens a round. Upper bounds; nothing is generated."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rlhf_flow.config.schema import RunConfig
from rlhf_flow.protocols import PromptSource
from rlhf_flow.sampler.source import Source
from rlhf_flow.types import Prompt, Response, Rollouts, SamplingParams, Scored

TRIALS = 8  # rounds of random verdicts that one prompt is played through the selector


@dataclass(frozen=True)
class Work:
    """Of one round, but for `rounds`; where it says most, the answers decide how much it will be."""

    rounds: int
    prompts: int  # B, of a page
    pages: int  # most
    answers: int  # N of a prompt, those of a data set included
    drawn: int  # of them, by the engine
    pairs: int  # most, of a prompt
    memory: float  # most pairs that are learned from, in pairs of a round
    longest_prompt: int  # tokens
    longest_answer: int  # tokens; most
    held_out: int  # prompts
    sides: int  # responses that a pair brings to a forward pass: 2, or 3

    @property
    def positions(self) -> int:
        """Tokens of the longest sequence."""
        return self.longest_prompt + self.longest_answer

    @property
    def pairs_learned(self) -> int:
        """Most, with those of earlier rounds that are in memory."""
        return math.floor(self.prompts * self.pages * self.pairs * self.memory)

    @property
    def tokens_drawn(self) -> int:
        """Most."""
        return self.prompts * self.pages * self.drawn * self.longest_answer

    @property
    def answers_scored(self) -> int:
        return self.prompts * self.pages * self.answers


def work_of(config: RunConfig, prompts: PromptSource) -> Work:
    draws = config.sampler.drawn
    longest = [_longest(draw, prompts) for draw in draws.values()]
    if config.evaluate.by == "answers":
        longest.append(config.evaluate.draw.max_tokens)
    return Work(
        rounds=config.rounds,
        prompts=min(config.prompts.batch, prompts.counts["training"]),
        pages=1 if config.resampling.min_pairs is None else config.resampling.max_batches,
        answers=sum(draw.n for draw in draws.values()),
        drawn=sum(draw.n for draw in draws.values() if not _of_data(draw)),
        pairs=pairs_of_a_prompt(config),
        memory=_rounds_in_memory(config),
        longest_prompt=prompts.longest,
        longest_answer=max(longest),
        held_out=prompts.counts["held_out"],
        sides=2 if config.objective.needs.extra is None else 3,
    )


def pairs_of_a_prompt(config: RunConfig) -> int:
    """The most pairs that the run's own selector made of one prompt, whose answers differ and are judged at random."""
    prompt = Prompt("p", (), (0,))
    responses = tuple(
        Response(
            id=f"1/{draw.name}/{k}/p",
            tokens=np.array([at, k, 1], dtype=np.int32),
            text=f"{draw.name} {k}",
            logps=None,
            truncated=False,
            draw=draw,
            seed=k,
            policy="",
            source=config.sampler.sources[draw.name],
        )
        for at, draw in enumerate(config.sampler.drawn.values())
        for k in range(draw.n)
    )
    random, most = np.random.default_rng(0), 0
    for _ in range(TRIALS):
        utility = 10 * random.normal(size=(1, len(responses)))
        wins = 1 / (1 + np.exp(utility[:, None, :] - utility[:, :, None]))
        scored = Scored(Rollouts(1, (prompt,), (responses,)), utility, wins)
        most = max(most, len(config.selector.select(scored).pairs))
    return most


def steps_of(config: RunConfig, work: Work) -> tuple[int, int]:
    """Optimizer steps of a round, at most, and the pairs of the last one of an epoch."""
    batch = config.learner.training.batch
    steps = -(-work.pairs_learned // batch)
    return config.learner.training.epochs * steps, work.pairs_learned - (steps - 1) * batch if steps else 0


def _longest(draw: SamplingParams, prompts: PromptSource) -> int:
    named = draw.candidate if isinstance(draw, Source) else None
    return draw.max_tokens if named is None else prompts.candidates.get(named, draw.max_tokens)


def _of_data(draw: SamplingParams) -> bool:
    return isinstance(draw, Source) and draw.candidate is not None


def _rounds_in_memory(config: RunConfig) -> float:
    """Of the last round, in which there is the most; a share above all that a round had is all of it."""
    return sum(min(share, 1.0) for share in config.replay.rounds(config.rounds).values())
