"""The learning rate of a run that names none: by the size of the model, and recorded as the number that it is."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from pathlib import Path

from rlhf_flow.config.schema import RunConfig
from rlhf_flow.learner.optimizer import RATE
from rlhf_flow.weights.start_checkpoint import header

LARGE = 7e9  # weights of the models for which preference optimisation usually takes RATE
POWER = 2 / 3  # so that a model of 1 M weights gets 2e-4, which the embedded world's takes
ADAPTER = 10  # times the rate of whole weights
LEAST = 2  # steps at the default rate: less leaves the policy about where it was


def rate_for(parameters: int, *, adapter: bool = False) -> float:
    """5e-7 for 7 B weights, more for fewer with the power 2/3, ten times that for an adapter; one significant digit."""
    rate = RATE * (LARGE / parameters) ** POWER * (ADAPTER if adapter else 1)
    digits = -math.floor(math.log10(rate))
    return round(rate, digits)


def rated(config: RunConfig, parameters: int) -> RunConfig:
    """The configuration with the rate as a number; as it is if it has one, or a learner without a rate."""
    learner = config.learner
    if not trains(config) or learner.training.optimizer.lr is not None:
        return config
    optimizer = replace(learner.training.optimizer, lr=rate_for(parameters, adapter=adapts(config)))
    return replace(config, learner=replace(learner, training=replace(learner.training, optimizer=optimizer)))


def stands_still(config: RunConfig, parameters: int, steps: int) -> str | None:
    """What to say of a run whose `steps`, all rounds together, are too few or too small to move the policy."""
    if not trains(config) or config.learner.training.optimizer.name != "adamw" or not steps:
        return None
    rate, usual = config.learner.training.optimizer.rate, rate_for(parameters, adapter=adapts(config))
    if rate >= usual or steps * rate >= LEAST * usual:
        return None
    return (
        f"the run can hardly move the policy: {steps} steps at learner.training.optimizer.lr={rate:g} change no weight "
        f"by more than about {steps * rate:.1g}. Fix: learner.training.optimizer.lr={usual:g}, which is usual for "
        f"{parameters / 1e6:,.0f} M weights, or more prompts, epochs or rounds."
    )


def trains(config: RunConfig) -> bool:
    return "training" in {field.name for field in fields(config.learner)}


def adapts(config: RunConfig) -> bool:
    return "lora" in {field.name for field in fields(config.learner)} and config.learner.lora.rank > 0


def parameters_of(folder: Path) -> int:
    """The weights in a checkpoint, by the headers of its files; a tied one is stored once."""
    files = sorted(folder.glob("*.safetensors"))
    return sum(math.prod(tensor["shape"]) for file in files for tensor in header(file).values())
