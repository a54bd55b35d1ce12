"""The model FLOP/s of the optimizer steps that a run took, by the pairs and lengths that it trained on."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median

from rlhf_flow.capacity.flops import Rate, of_step, peak_here
from rlhf_flow.capacity.learner_memory import plans
from rlhf_flow.capacity.model_shape import Shape, shape_of
from rlhf_flow.config.schema import RunConfig
from rlhf_flow.config.stored import stored
from rlhf_flow.learner.batching import Row, global_batches, named, read_pairs, read_rows
from rlhf_flow.learner.packing import pack_groups
from rlhf_flow.protocols import RoundTables
from rlhf_flow.stages.policies import PAIRS, responses_of
from rlhf_flow.storage.ledger import Ledger
from rlhf_flow.storage.run_policies import check_run


def measured_rate(run: Path) -> Rate | None:
    """The median over the rounds of a run; None if it trained no model, or its rounds or its start are gone.

    Seconds are those of the stage `learn`, its checkpoint included. Raises ValueError if `run` holds no configuration.
    """
    config = stored(run)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    trained = [line for line in lines if line.get("train/steps") and line.get("seconds/learn")]
    if not plans(config) or not trained:
        return None
    model = config.model
    try:
        ledger = check_run(run)
        shape = shape_of(model.path, revision=model.revision, trust_remote_code=model.trust_remote_code)
    except ValueError:
        return None
    flops = [_of_round(config, shape, ledger, line) for line in trained]
    rates = [each / line["seconds/learn"] for each, line in zip(flops, trained, strict=True) if each]
    return Rate(median(rates), peak_here(config.learner.ranks)) if rates else None


def _of_round(config: RunConfig, shape: Shape, ledger: Ledger, line: dict[str, float]) -> float:
    """The model FLOPs of a round's steps; 0 if it selected no pairs. A replayed pair counts as much as the mean one."""
    round, training = int(line["round"]), config.learner.training
    examples, weight = _examples(config, ledger, round)
    steps = global_batches(len(examples), batch=training.batch, epochs=training.epochs, seed=config.seed, round=round)
    rows = ([row for i in step for row in examples[i]] for step in steps)
    flops = sum(of_step(shape, pack_groups(step).groups or ()) for step in rows)
    return flops * line["train/pairs"] / (weight * training.epochs) if examples else 0.0


def _examples(config: RunConfig, ledger: Ledger, round: int) -> tuple[list[list[Row]], float]:
    """The responses of each pair that a round selected, and the weight of all pairs."""
    responses = responses_of(ledger, round)
    pairs = read_pairs(RoundTables(round, responses, ledger.table(round, "select", PAIRS)))
    third = config.objective.needs.extra is not None
    ids = [[id for id in named(pair) if third or id != pair.extra] for pair in pairs]
    rows = read_rows([responses], {id for each in ids for id in each})
    return [[rows[id] for id in each] for each in ids], sum(pair.weight for pair in pairs)
