"""The work of a run: answers, pairs, optimizer steps and tokens of a round. Upper bounds; nothing is generated."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rlhf_flow.config.schema import RunConfig
from rlhf_flow.protocols import PromptSource
from rlhf_flow.sampler.source import Source
from rlhf_flow.types import SamplingParams


@dataclass(frozen=True)
class Work:
    """The work of one round, except `rounds`. Upper bounds if the answers decide."""

    rounds: int
    prompts: int  # B, of one batch
    pages: int  # batches, at most
    answers: int  # N per prompt, including those of the data set
    drawn: int  # answers per prompt that the engine generates
    pairs: int  # per prompt, at most
    memory: float  # pairs learned from, in units of one round's pairs, at most
    longest_prompt: int  # tokens
    longest_answer: int  # tokens, at most
    held_out: int  # prompts
    sides: int  # responses per pair in a forward pass: 2, or 3

    @property
    def positions(self) -> int:
        """Tokens of the longest sequence."""
        return self.longest_prompt + self.longest_answer

    @property
    def pairs_learned(self) -> int:
        """Pairs that the learner sees in a round, at most; replayed ones included."""
        return math.floor(self.prompts * self.pages * self.pairs * self.memory)

    @property
    def tokens_drawn(self) -> int:
        """Tokens that the engine generates, at most."""
        return self.prompts * self.pages * self.drawn * self.longest_answer

    @property
    def answers_scored(self) -> int:
        return self.prompts * self.pages * self.answers


def work_of(config: RunConfig, prompts: PromptSource) -> Work:
    draws = list(config.sampler.drawn.values())
    lengths = [_max_tokens(draw, prompts) for draw in draws]
    if config.held_out_samples:
        lengths.append(config.evaluate.draw.max_tokens)
    return Work(
        rounds=config.rounds,
        prompts=min(config.prompts.batch, prompts.counts["training"]),
        pages=1 if config.resampling.min_pairs is None else config.resampling.max_batches,
        answers=sum(draw.n for draw in draws),
        drawn=sum(draw.n for draw in draws if _candidate(draw) is None),
        pairs=config.selector.max_pairs({draw.name: draw.n for draw in draws}),
        # the last round replays the most, and a share above 1 is all of a round's pairs
        memory=sum(min(share, 1.0) for share in config.replay.rounds(config.rounds).values()),
        longest_prompt=prompts.longest,
        longest_answer=max(lengths),
        held_out=prompts.counts["held_out"],
        sides=_answers_of(config, draws),
    )


def _answers_of(config: RunConfig, draws: Sequence[SamplingParams]) -> int:
    """The answers of a training example, at most."""
    if config.objective.needs.examples == "groups":
        return sum(draw.n for draw in draws)
    return 2 if config.objective.needs.extra is None else 3


def steps_of(config: RunConfig, work: Work) -> tuple[int, int]:
    """The optimizer steps of a round, at most, and the number of pairs in the last step of an epoch."""
    steps = -(-work.pairs_learned // config.learner.training.batch)
    return config.learner.training.epochs * steps, work.pairs_learned // steps if steps else 0


def _max_tokens(draw: SamplingParams, prompts: PromptSource) -> int:
    candidate = _candidate(draw)
    if candidate is not None:
        return prompts.candidates.get(candidate, draw.max_tokens)
    begun = draw.continues if isinstance(draw, Source) else None
    return draw.max_tokens + (0 if begun is None else prompts.candidates.get(begun, 0))


def _candidate(draw: SamplingParams) -> str | None:
    """The name of the data set's answer that a draw takes; None if the engine generates it."""
    return draw.candidate if isinstance(draw, Source) else None
