"""What judges behind an endpoint are asked, and what that may cost against their budget."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rlhf_flow.capacity.worker_memory import with_inner
from rlhf_flow.capacity.workload import Work
from rlhf_flow.config.schema import RunConfig
from rlhf_flow.scorer.llm.judge import Judge
from rlhf_flow.scorer.llm.rubric import Rubric
from rlhf_flow.scorer.pair_schedule import PairSchedule

QUESTION = 200  # tokens of a question besides conversation and answers


@dataclass(frozen=True)
class Calls:
    """Of one slot, over the whole run, at most: equal answers are asked about once, and known ones not again."""

    slot: str
    round: int
    run: int
    tokens_in: int
    tokens_out: int
    cost: float  # in the unit of the prices
    over: tuple[str, ...]  # the caps that all of it would pass, each in words


def calls(config: RunConfig, work: Work) -> list[Calls]:
    slots = {"scorer": config.scorer, "evaluate.scorer": config.evaluate.scorer}
    if config.evaluate.scorer is None and config.evaluate.by == "answers":
        slots["evaluate.scorer"] = config.scorer
    found = []
    for slot, part in with_inner(slots):
        if isinstance(part, Judge | Rubric):
            found.append(_of(config, slot, part, work))
    return found


def matches(spec: PairSchedule, answers: int) -> int:
    """Of one prompt, between answers that all differ. `rlhf_flow.scorer.pair_schedule` says who meets whom."""
    every = answers * (answers - 1) // 2
    if spec.pairs == "all" or answers < 2:
        return every
    if spec.pairs == "knockout":
        return min(every, answers - 1 + max(0, math.ceil(answers / 2) - 1) + 1)
    rounds = spec.rounds or math.ceil(math.log2(answers))
    return min(every, rounds * (answers // 2) + 1)  # and the best meets the worst


def _of(config: RunConfig, slot: str, spec: Judge | Rubric, work: Work) -> Calls:
    evaluates = slot.startswith("evaluate")
    prompts, answers = (work.held_out, 2) if evaluates else (work.prompts * work.pages, work.answers)
    rounds = -(-config.rounds // config.evaluate.every) if evaluates else config.rounds
    pairwise = isinstance(spec, Judge)
    of_a_prompt = 2 * matches(spec, answers) if isinstance(spec, Judge) else answers
    if evaluates and not pairwise:  # the start's own answers are marked once
        of_a_prompt = 1
    per_round = prompts * of_a_prompt
    run = rounds * per_round + (0 if not evaluates or pairwise else prompts)
    question = QUESTION + work.longest_prompt + (2 if pairwise else 1) * work.longest_answer
    budget = spec.budget
    tokens_in, tokens_out = run * question, run * spec.reply_tokens
    price = tokens_in * budget.price_per_million_in + tokens_out * budget.price_per_million_out
    spent = (("max_calls", run), ("max_tokens", tokens_in + tokens_out), ("max_cost", price / 1e6))
    caps = {"max_calls": budget.max_calls, "max_tokens": budget.max_tokens, "max_cost": budget.max_cost}
    over = tuple(
        f"{slot}.budget.{name}={cap:g}, and the run may take {amount:g}"
        for name, amount in spent
        if (cap := caps[name]) is not None and amount > cap
    )
    return Calls(slot, per_round, run, tokens_in, tokens_out, price / 1e6, over)
