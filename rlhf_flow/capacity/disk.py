"""Disk space of a run: per round, at most at once with `checkpoint.keep`, and at the end.

A checkpoint of the policy is d P bytes (its dtype), one of the learner 4 P and 4 m T: float32 weights and moments.
Checkpoints within a round (`checkpoint.steps`) stay until the round's training is committed.
"""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_flow.capacity.learner_memory import DTYPES, trained
from rlhf_flow.capacity.model_shape import Shape
from rlhf_flow.capacity.workload import Work, steps_of
from rlhf_flow.config.schema import RunConfig

ROW = 300  # bytes of an answer's row besides its tokens: ids, messages, hashes


@dataclass(frozen=True)
class Disk:
    """Bytes. Rows are an upper bound, since files are compressed."""

    policy: int  # one checkpoint
    learner: int
    rows: int  # one round
    round: int  # everything that one round writes
    most: int  # the peak
    end: int  # after the run


def disk(config: RunConfig, shape: Shape, work: Work) -> Disk:
    policy = DTYPES[config.model.dtype] * shape.parameters
    moments = len(config.learner.training.optimizer.moments)
    learner = 4 * (shape.parameters + moments * trained(config, shape))
    tokens = 4 * work.longest_prompt + 12 * work.longest_answer  # tokens, text, log-probs
    rows = work.answers_scored * (tokens + ROW + 16 * work.answers)
    held = [_held(config, round) for round in range(1, config.rounds + 1)]
    averages = len(config.timeline.at(1, ()).averages)
    kept = [policies * (1 + averages) * policy + states * learner for policies, states in held]
    new = (1 + averages) * policy + learner
    between = 0
    if config.checkpoint.steps is not None:
        steps, _ = steps_of(config, work)
        between = max(0, -(-steps // config.checkpoint.steps) - 1) * learner
    return Disk(
        policy=policy,
        learner=learner,
        rows=rows,
        round=rows + new + between,
        most=max([0, *kept[:-1]]) + new + between + config.rounds * rows,
        end=kept[-1] + config.rounds * rows,
    )


def _held(config: RunConfig, done: int) -> tuple[int, int]:
    """How many policies and learner states are kept after `done` rounds; the best policy so far is one of them."""
    every, keep = config.checkpoint.every, config.checkpoint.keep
    written = [round for round in range(1, done + 1) if round % every == 0 or round == config.rounds]
    newest = set(written[-keep:])
    plans = [config.timeline.at(round, ()) for round in (done + 1, done + 2)]
    starts = {plan.init for plan in plans} & set(written)
    anchors = {plan.anchors[name] for plan in plans for name in config.objective.needs.anchors if name in plan.anchors}
    sampled = {plan.samplers[role] for plan in plans for role in config.sampler.roles}
    policies = newest | starts | ((anchors | sampled) & set(written))
    return len(policies) + (len(written) > len(policies)), len(newest | starts)
