"""CPU threads of each worker process.

Roles that take turns get all cores of a machine. Under lag=1 sampling and scoring get half of them and training the
other half. The processes of a role on a machine share its cores.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from rlhf_flow.config import renamed
from rlhf_flow.config.first_start import of_first_start
from rlhf_flow.config.schema import RunConfig

Part = TypeVar("Part")


@dataclass(frozen=True)
class Threads:
    """CPU threads per process of each role."""

    engine: int
    scorer: int
    learner: int


def shares(config: RunConfig, cores: int) -> Threads:
    """The threads of each role on machines with so many cores. OMP_NUM_THREADS is the most that a process gets."""
    most = os.environ.get("OMP_NUM_THREADS", "")
    limit = int(most) if most.isdecimal() else cores
    cluster, ahead = config.cluster, config.lag == 1 and config.cluster.disaggregated
    sampling = cores // 2 if ahead else cores
    training = cores - sampling if ahead else cores

    def each(cores: int, processes: int) -> int:
        on_a_node = -(-processes // cluster.nodes)
        return max(1, min(limit, cores // on_a_node))

    return Threads(
        each(sampling, cluster.engines), each(sampling, cluster.scorers), each(training, config.learner.ranks)
    )


def threaded(config: RunConfig, cores: int) -> RunConfig:
    """The configuration with a number of threads for every process that loads a model.

    A learner keeps the number of the run's first start, because other sums of rounded numbers give other weights.
    """
    threads = shares(config, cores)
    begun = of_first_start(Path(config.run_dir))
    learner = threads.learner if begun is None else begun.get("threads") or renamed.THREADS
    if config.cluster.in_process:  # torch has one number of threads per process
        threads = Threads(learner, learner, learner)
    return replace(
        config,
        engine=_filled(config.engine, threads.engine),
        learner=_filled(config.learner, learner),
        refresh=replace(
            config.refresh,
            training=_filled(config.refresh.training, learner),
            scorer=_filled(config.refresh.scorer, threads.scorer),
        ),
        scorer=_filled(config.scorer, threads.scorer),
        evaluate=replace(config.evaluate, scorer=_filled(config.evaluate.scorer, threads.scorer)),
    )


def overlap(config: RunConfig, cores: int, *, gpus: float) -> bool:
    """Whether engines and scorers work at the same time. On CPUs only if each thread has a core of its own.

    Processes that share cores take several times longer, because threads wait for each other.
    """
    cluster = config.cluster
    if not cluster.disaggregated:
        return False
    scorers = cluster.scorers * _most(config.scorer)
    return gpus > 0 or not scorers or cluster.engines * _most(config.engine) + scorers <= cores * cluster.nodes


def _most(part: object) -> int:
    """The largest `threads` in a part and the parts inside; 0 if there is none, as it loads no model."""
    if isinstance(part, list):
        return max(map(_most, part), default=0)
    if not is_dataclass(part):
        return 0
    inner = {one.name: vars(part)[one.name] for one in fields(part)}
    return max([inner.pop("threads", 0) or 0, *map(_most, inner.values())])


def _filled(part: Part, threads: int) -> Part:
    """The part with this number in each `threads` that is None, also in the parts inside."""
    changed: Any = part
    if isinstance(part, list):
        changed = [_filled(each, threads) for each in part]
    elif is_dataclass(part) and not isinstance(part, type):
        inner = {one.name: vars(part)[one.name] for one in fields(part)}
        new = {name: _filled(value, threads) for name, value in inner.items()}
        if inner.get("threads", threads) is None:
            new["threads"] = threads
        if new != inner:
            changed = replace(part, **new)
    return changed  # type: ignore[no-any-return]  # same type as `part`
