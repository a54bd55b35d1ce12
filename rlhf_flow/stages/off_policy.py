"""The stage that measures how far a round's answers are from the policy that learns: `rlhf_flow.metrics.off_policy`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pyarrow as pa

from rlhf_flow.metrics.off_policy import GateError, distance, measures
from rlhf_flow.seeds import derive
from rlhf_flow.stages.context import RunContext
from rlhf_flow.stages.policies import PolicyRegistry
from rlhf_flow.storage.store import StageFacts, StageRecord, StageWriter
from rlhf_flow.storage.tables import Table
from rlhf_flow.types import RoundPlan, Scored

SHARE = 8  # of so many answers one is measured, FEW at least: it costs a forward pass, and a mean needs no more
FEW, USUAL = 16, 64


def mismatch(parts: RunContext, plan: RoundPlan, library: PolicyRegistry) -> StageRecord | None:
    """Measure the mismatch of some of the round's answers, or of all; None where nobody wants to know.

    Raises GateError where one is beyond a bound that is to stop the run.
    """
    everything = parts.off_policy.max_mismatch is not None
    if parts.off_policy.measured == 0 and not everything:
        return None

    def write(shelf: StageWriter) -> StageFacts:
        drawn = _drawn_by_the_policy(parts, plan.round)
        ids = list(drawn)
        most = _most(parts.off_policy.measured, len(ids))
        if not everything and len(ids) > most:
            chance = np.random.default_rng(derive(parts.seed, "mismatch", plan.round))
            ids = [ids[at] for at in sorted(chance.permutation(len(ids))[:most])]
        learned = _learned(parts, plan, library, ids)
        found = {id: distance(drawn[id], learned[id]) for id in ids}
        shelf.table(
            "mismatch/answers",
            pa.table(
                {
                    "response": pa.array(ids, pa.string()),
                    "mismatch": pa.array([found[id].mismatch for id in ids], pa.float64()),
                }
            ),
        )
        facts = measures([found[id] for id in ids])
        _refuse(parts, plan, {id: each.mismatch for id, each in found.items()})
        return facts

    parts.progress(plan.round, "mismatch", 0, 1, "rounds")
    entry = parts.ledger.commit(plan.round, "mismatch", write)
    parts.progress(plan.round, "mismatch", 1, 1, "rounds")
    return entry


def _most(asked: int, answers: int) -> int:
    """How many answers are measured; a number above the usual one was asked for on purpose, and is taken as it is."""
    return asked if asked > USUAL else min(asked, max(FEW, math.ceil(answers / SHARE)))


def excluded(parts: RunContext, round: int, scored: Scored, *, known: Mapping[str, float]) -> Scored:
    """What was said of answers of `scored.rollouts.round`, for a round that learns from them: without those beyond.

    `known`: the mismatch of answers, where it was measured.
    """
    late = round - scored.rollouts.round  # by so many rounds they were labelled, and are staler than when drawn
    out = {}
    for group in scored.rollouts.responses:
        for answer in group:
            stale = None if answer.staleness is None else answer.staleness + late
            if bucket := parts.off_policy.bucket(stale, known.get(answer.id)):
                out[answer.id] = bucket
    return replace(scored, excluded=out) if out else scored


def known(parts: RunContext, round: int) -> dict[str, float]:
    """The mismatch of the answers of a round, as far as it was measured."""
    entry = parts.ledger.entry(round, "mismatch")
    if entry is None:
        return {}
    rows = parts.ledger.table(round, entry).read()
    return dict(zip(rows["response"].to_pylist(), rows["mismatch"].to_pylist(), strict=True))


def _drawn_by_the_policy(parts: RunContext, round: int) -> dict[str, np.ndarray]:
    """The log-probs [T] that answers were drawn with. Of others it is no mismatch that the policy gives them others."""
    columns = _sampled(parts, round).read(["response", "source", "logps"])
    rows = zip(*(columns[name].to_pylist() for name in ("response", "source", "logps")), strict=True)
    return {id: np.asarray(logps, np.float32) for id, source, logps in rows if source == "policy" and logps}


def _learned(parts: RunContext, plan: RoundPlan, library: PolicyRegistry, ids: list[str]) -> dict[str, np.ndarray]:
    """Log-probs [T] of the answers, under what the round starts from."""
    if not ids:
        return {}
    library.begin(plan.init)
    table = parts.learner.logps([_sampled(parts, plan.round)], ids, library[plan.init])
    return {id: np.asarray(logps) for id, logps in zip(ids, table["logps"].to_pylist(), strict=True)}


def _sampled(parts: RunContext, round: int) -> Table:
    sampled = parts.ledger.entry(round, "sample")
    assert sampled is not None, f"round {round} has no responses"
    return parts.ledger.table(round, sampled)


def _refuse(parts: RunContext, plan: RoundPlan, found: Mapping[str, float]) -> None:
    beyond = {id: off for id, off in found.items() if parts.off_policy.bucket(None, off) is not None}
    if parts.off_policy.exceeding == "drop" or not beyond:
        return
    most, worst = max((off, answer) for answer, off in beyond.items())
    raise GateError(
        f"off_policy.max_mismatch={parts.off_policy.max_mismatch}: {len(beyond)} of {len(found)} answers of round "
        f"{plan.round} are farther than that many nats a token from the policy that learns from them, {worst} by "
        f"{most:.3g}. The run stopped, and everything committed is kept. Fix: a higher off_policy.max_mismatch, after "
        "looking at what makes engine and learner disagree: model.dtype and lag first."
    )
