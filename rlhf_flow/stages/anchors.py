"""The stage anchor: log-probs of the responses in pairs under the policies that the loss compares with."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from rlhf_flow.protocols import TrainingRound
from rlhf_flow.stages.context import RunContext
from rlhf_flow.stages.policies import PolicyRegistry, training_round
from rlhf_flow.storage.parquet import ANCHORS, OTHERS, SIDES
from rlhf_flow.storage.store import StageFacts, StageRecord, StageWriter
from rlhf_flow.types import Policy, RoundPlan


def anchor(context: RunContext, plan: RoundPlan, policies: PolicyRegistry) -> StageRecord:
    """Commit the log-probs under each anchor of responses in pairs, unless an earlier round or the step has them."""

    def write(writer: StageWriter) -> StageFacts:
        training = training_round(context, plan, policies)
        rows = training.anchors.read(["response", "policy"]).to_pylist() if training.anchors.shards else []
        known = {(row["response"], row["policy"]) for row in rows}
        ids = _responses_in_pairs(training)
        scored = read = in_step = 0
        of_rounds = {name: policies[round] for name, round in plan.anchors.items()}
        policies.begin(plan.init)  # the learner may have trained the round of an anchor again
        needed = context.objective.at(plan.round).needs.anchors
        others = {name: policy for name, policy in context.anchor_policies.items() if name in needed}
        for name, policy in sorted((of_rounds | others).items()):
            wanted = [response for response in ids if (response, policy.sha256) not in known]
            known |= {(response, policy.sha256) for response in wanted}
            found = _of_engines(context, plan.round, wanted, policy)
            generated = set(found["response"].to_pylist())
            left = [response for response in wanted if response not in generated]
            if left and context.learner.computes_anchor(training, policy.sha256):
                in_step += len(wanted)
                continue
            if left:
                responses = [tables.responses for tables in training.tables]
                computed = context.learner.logps(responses, left, policy)
                found = pa.concat_tables([found, computed.cast(ANCHORS)]) if found.num_rows else computed
            if wanted:
                writer.table(f"anchors/{name}", found)
            scored, read = scored + len(left), read + len(generated)
        return {"anchors/scored": scored, "anchors/read": read, "anchors/in_step": in_step}

    # The learner starts first: if an anchor is the policy that it starts from, it needs no second copy of the weights.
    if context.ledger.committed(plan.round, "anchor") is None:
        policies.begin(plan.init)
    return context.commit(plan.round, "anchor", write)


def _of_engines(context: RunContext, round: int, wanted: list[str], policy: Policy) -> pa.Table:
    """The log-probs with which engines generated those of these responses that the policy itself generated."""
    mismatch = context.ledger.committed(round, "mismatch")
    largest = None if mismatch is None else mismatch.facts.get("mismatch/max")
    if not wanted or not context.anchors.trusts_engines(largest):
        return ANCHORS.empty_table()
    rows = context.ledger.table(round, "sample").read(["response", "policy", "logps"])
    own = pc.and_(pc.equal(rows["policy"], policy.sha256), pc.greater(pc.list_value_length(rows["logps"]), 0))
    return rows.filter(pc.and_(own, pc.is_in(rows["response"], pa.array(wanted, pa.string())))).cast(ANCHORS)


def _responses_in_pairs(training: TrainingRound) -> list[str]:
    ids: set[str | None] = set()
    for tables in training.tables:
        pairs = tables.read_pairs()
        ids.update(id for side in SIDES for id in pairs[side].to_pylist())
        if OTHERS in pairs.column_names:
            ids.update(id for others in pairs[OTHERS].to_pylist() for id in others or ())
    return sorted(id for id in ids if id is not None)
