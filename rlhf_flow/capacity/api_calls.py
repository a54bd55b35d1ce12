"""Calls of scorers behind an API, and their cost against the scorer's budget."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rlhf_flow.capacity.worker_memory import with_inner
from rlhf_flow.capacity.workload import Work
from rlhf_flow.config.schema import RunConfig
from rlhf_flow.scorer.llm.judge import Judge
from rlhf_flow.scorer.llm.rubric import Rubric
from rlhf_flow.scorer.pair_schedule import PairSchedule

INSTRUCTIONS = 200  # tokens of a request besides conversation and answers


@dataclass(frozen=True)
class Calls:
    """Calls of one scorer, at most: equal answers are asked about once, and cached ones not again."""

    slot: str
    round: int
    run: int
    tokens_in: int  # of the run
    tokens_out: int  # of the run
    cost: float  # of the run, in the currency of the prices
    over: tuple[str, ...]  # a sentence for each limit of the budget that may be exceeded


def calls(config: RunConfig, work: Work) -> list[Calls]:
    slots = {"scorer": config.scorer, "evaluate.scorer": config.evaluate.scorer}
    if config.evaluate.scorer is None and config.evaluate.by == "answers":
        slots["evaluate.scorer"] = config.scorer
    scorers = with_inner({slot: spec for slot, spec in slots.items() if spec is not None})
    return [_calls_of(config, slot, spec, work) for slot, spec in scorers if isinstance(spec, Judge | Rubric)]


def matches(spec: PairSchedule, answers: int) -> int:
    """Comparisons among the answers to one prompt, at most; see `rlhf_flow.scorer.pair_schedule`."""
    every = answers * (answers - 1) // 2
    if spec.pairs == "all" or answers < 2:
        return every
    return min(every, answers - 1 + max(0, math.ceil(answers / 2) - 1) + 1)  # and the best meets the worst


def _calls_of(config: RunConfig, slot: str, spec: Judge | Rubric, work: Work) -> Calls:
    evaluates, pairwise = slot.startswith("evaluate"), isinstance(spec, Judge)
    prompts, answers = (work.held_out, 2) if evaluates else (work.prompts * work.pages, work.answers)
    rounds = -(-config.rounds // config.evaluate.every) if evaluates else config.rounds
    of_a_prompt = 2 * matches(spec, answers) if isinstance(spec, Judge) else answers
    if evaluates and not pairwise:  # the answers of the start are rated once
        of_a_prompt = 1
    per_round = prompts * of_a_prompt
    run = rounds * per_round + (0 if not evaluates or pairwise else prompts)
    request = INSTRUCTIONS + work.longest_prompt + (2 if pairwise else 1) * work.longest_answer
    budget = spec.budget
    tokens_in, tokens_out = run * request, run * spec.reply_tokens
    cost = (tokens_in * budget.price_per_million_in + tokens_out * budget.price_per_million_out) / 1e6
    spent = (
        ("max_calls", budget.max_calls, run),
        ("max_tokens", budget.max_tokens, tokens_in + tokens_out),
        ("max_cost", budget.max_cost, cost),
    )
    over = tuple(
        f"{slot}.budget.{name}={limit:g}, but the run may use {amount:g}"
        for name, limit, amount in spent
        if limit is not None and amount > limit
    )
    return Calls(slot, per_round, run, tokens_in, tokens_out, cost, over)
