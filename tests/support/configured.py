"""Configurations of the tiny policy, for plans of them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from rlhf_flow.capacity.model_shape import Shape
from rlhf_flow.capacity.workload import Work
from rlhf_flow.config import compose as config
from rlhf_flow.config.schema import RunConfig
from tests.support import tiny

LLAMA_8B = Shape(
    parameters=8_030_261_248,
    linear=7_504_658_432,
    largest=525_336_576,
    ends=2_621_440,
    layers=32,
    width=4096,
    inner=14336,
    queries=4096,
    keys=1024,
    heads=32,
    vocabulary=128256,
    positions=8192,
    gated=True,
    experts=False,
    stored=2,
)
WORK = Work(
    rounds=3,
    prompts=512,
    pages=1,
    answers=8,
    drawn=8,
    pairs=1,
    memory=1.0,
    longest_prompt=512,
    longest_answer=1024,
    held_out=128,
    sides=2,
)


def configured(**keys: object) -> RunConfig:
    """Without files: nothing is opened."""
    return _composed(*tiny.overrides(Path("model"), Path("prompts"), Path("run"), **keys))


@cache
def _composed(*asked: str) -> RunConfig:
    return config.compose(*asked)


def training(configuration: RunConfig, **keys: Any) -> RunConfig:
    learner: Any = configuration.learner
    return replace(configuration, learner=replace(learner, training=replace(learner.training, **keys)))
