"""The default learning rate, by the size of the model."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from pathlib import Path

from rlhf_flow.config.schema import RunConfig
from rlhf_flow.learner.optimizer import RATE
from rlhf_flow.weights.start_checkpoint import header

LARGE = 7e9  # weights of the models for which RATE is usual
POWER = 2 / 3  # gives 2e-4 for the sandbox model of 1 M weights
ADAPTER = 10  # times the rate of full training
LEAST = 2  # steps at the default rate; with fewer, the policy hardly moves


def rate_for(parameters: int, *, adapter: bool = False, usual: float = 1.0) -> float:
    """5e-7 * (7e9 / parameters)^(2/3), ten times that for an adapter; rounded to one significant digit.

    `usual`: the factor of the objective, by which its paper's rate differs from that of DPO.
    """
    rate = RATE * usual * (LARGE / parameters) ** POWER * (ADAPTER if adapter else 1)
    digits = -math.floor(math.log10(rate))
    return round(rate, digits)


def rated(config: RunConfig, parameters: int) -> RunConfig:
    """The configuration with the default rate filled in, unless it has a rate or its learner needs none."""
    learner = config.learner
    if not trains(config) or learner.training.optimizer.lr is not None:
        return config
    optimizer = replace(learner.training.optimizer, lr=_usual(config, parameters))
    return replace(config, learner=replace(learner, training=replace(learner.training, optimizer=optimizer)))


def stands_still(config: RunConfig, parameters: int, steps: int) -> str | None:
    """A warning if the `steps` of all rounds together are too few or too small to move the policy."""
    if not trains(config) or config.learner.training.optimizer.name != "adamw" or not steps:
        return None
    rate, usual = config.learner.training.optimizer.rate, _usual(config, parameters)
    if rate >= usual or steps * rate >= LEAST * usual:
        return None
    return (
        f"learner.training.optimizer.lr={rate:g}: the run can hardly move the policy, since {steps} steps change no "
        f"weight by more than about {steps * rate:.1g}. Fix: learner.training.optimizer.lr={usual:g}, which is usual "
        f"for {parameters / 1e6:,.0f} M weights, or more prompts, epochs or rounds."
    )


def _usual(config: RunConfig, parameters: int) -> float:
    factor = vars(type(config.objective)).get("usual_rate", 1.0)
    return rate_for(parameters, adapter=adapts(config), usual=factor)


def trains(config: RunConfig) -> bool:
    return "training" in {field.name for field in fields(config.learner)}


def adapts(config: RunConfig) -> bool:
    return "lora" in {field.name for field in fields(config.learner)} and config.learner.lora.rank > 0


def parameters_of(folder: Path) -> int:
    """The number of weights in a checkpoint, by the headers of its files."""
    files = sorted(folder.glob("*.safetensors"))
    return sum(math.prod(tensor["shape"]) for file in files for tensor in header(file).values())
