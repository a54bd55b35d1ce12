"""The stage mismatch: how far a round's responses are from the policy that trains on them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rlhf_flow.metrics.off_policy import GateError, distance, measures
from rlhf_flow.protocols import Sampler
from rlhf_flow.seeds import derive
from rlhf_flow.stages.context import RunContext
from rlhf_flow.stages.policies import PolicyRegistry
from rlhf_flow.storage.parquet import views
from rlhf_flow.storage.store import StageFacts, StageRecord, StageWriter
from rlhf_flow.types import RoundPlan, Scored

ONE_IN = 8  # responses are measured, since each costs a forward pass,
LEAST = 16  # but at least so many
USUAL = 64  # a setting above this is taken as it is


def measure_mismatch(context: RunContext, plan: RoundPlan, policies: PolicyRegistry) -> StageRecord | None:
    """Measure the mismatch of a sample of the round's responses, or of all if it is bounded. None if it is off.

    Raises GateError if off_policy.exceeding=stop and a response is beyond the bound.
    """
    bounded = context.off_policy.max_mismatch is not None
    if context.off_policy.measured == 0 and not bounded:
        return None

    def write(writer: StageWriter) -> StageFacts:
        ids = _sampled_by_policy(context, plan.round)
        number = _number_measured(context.off_policy.measured, len(ids))
        if not bounded and len(ids) > number:
            order = np.random.default_rng(derive(context.seed, "mismatch", plan.round)).permutation(len(ids))
            ids = [ids[at] for at in sorted(order[:number])]
        sampled = _engine_logps(context, plan.round, ids)
        ids = list(sampled)
        learned = _learner_logps(context, plan, policies, ids)
        found = {id: distance(sampled[id], learned[id]) for id in ids}
        columns = {
            "response": pa.array(ids, pa.string()),
            "mismatch": pa.array([found[id].mismatch for id in ids], pa.float64()),
        }
        writer.table("mismatch/answers", pa.table(columns))
        _check_bound(context, plan, {id: each.mismatch for id, each in found.items()})
        return measures([found[id] for id in ids], on_policy=_on_policy(context.sampler))

    return context.commit(plan.round, "mismatch", write)


def _on_policy(sampler: Sampler) -> bool:
    """Whether the policy's draws follow its own distribution."""
    own = (draw for draw in sampler.drawn.values() if sampler.sources[draw.name] == "policy")
    return all(draw.is_on_policy for draw in own)


def _number_measured(setting: int, responses: int) -> int:
    return setting if setting > USUAL else min(setting, max(LEAST, math.ceil(responses / ONE_IN)))


def exclude(context: RunContext, round: int, scored: Scored, mismatch: Mapping[str, float]) -> Scored:
    """`scored`, which `round` trains on, with the responses excluded that are beyond a bound.

    `mismatch`: of the responses that were measured, by id.
    """
    delay = round - scored.rollouts.round  # late labels: the responses are older than when they were sampled
    excluded = {}
    for group in scored.rollouts.responses:
        for response in group:
            staleness = None if response.staleness is None else response.staleness + delay
            if bucket := context.off_policy.bucket(staleness, mismatch.get(response.id)):
                excluded[response.id] = bucket
    return replace(scored, excluded=excluded) if excluded else scored


def known(context: RunContext, round: int) -> dict[str, float]:
    """The mismatch of the round's responses that were measured, by id."""
    if context.ledger.committed(round, "mismatch") is None:
        return {}
    rows = context.ledger.table(round, "mismatch").read()
    return dict(zip(rows["response"].to_pylist(), rows["mismatch"].to_pylist(), strict=True))


def _sampled_by_policy(context: RunContext, round: int) -> list[str]:
    """The ids of the responses that the policy alone sampled."""
    rows = context.ledger.table(round, "sample").read(["response", "source"])
    return rows.filter(pc.equal(rows["source"], "policy"))["response"].to_pylist()


def _engine_logps(context: RunContext, round: int, ids: list[str]) -> dict[str, np.ndarray]:
    """The engine's log-probs [T] of those of these responses that have some, by id."""
    found: dict[str, np.ndarray] = {}
    for shard in context.ledger.table(round, "sample").read_shards(["response", "logps"]) if ids else ():
        part = shard.filter(pc.is_in(shard["response"], pa.array(ids, pa.string())))
        found |= dict(zip(part["response"].to_pylist(), views(part["logps"]), strict=True))
    return {id: found[id] for id in ids if found[id].size}


def _learner_logps(
    context: RunContext, plan: RoundPlan, policies: PolicyRegistry, ids: list[str]
) -> dict[str, np.ndarray]:
    """Log-probs [T] of the responses under the policy that the round starts from, by id."""
    if not ids:
        return {}
    policies.begin(plan.init)
    table = context.learner.logps([context.ledger.table(plan.round, "sample")], ids, policies[plan.init])
    return dict(zip(ids, views(table["logps"]), strict=True))


def _check_bound(context: RunContext, plan: RoundPlan, found: Mapping[str, float]) -> None:
    beyond = {id: mismatch for id, mismatch in found.items() if context.off_policy.bucket(None, mismatch) is not None}
    if context.off_policy.exceeding == "drop" or not beyond:
        return
    most, worst = max((mismatch, id) for id, mismatch in beyond.items())
    raise GateError(
        f"off_policy.max_mismatch={context.off_policy.max_mismatch}: {len(beyond)} of {len(found)} responses of round "
        f"{plan.round} differ from the policy by more nats per token, {worst} by {most:.3g}. The run stopped; all "
        "committed stages are kept. Fix: check why engine and learner disagree (model.dtype and lag first), then raise "
        "off_policy.max_mismatch."
    )
