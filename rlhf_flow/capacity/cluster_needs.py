"""What a run needs from its cluster: GPUs, an object store for its policies, and time to load its checkpoints."""

from __future__ import annotations

from pathlib import Path

from rlhf_flow.capacity import worker_memory as workers
from rlhf_flow.capacity.learner_memory import trained
from rlhf_flow.capacity.model_shape import shape_of
from rlhf_flow.config.compatibility import colocated
from rlhf_flow.config.learning_rate import adapts, parameters_of
from rlhf_flow.config.schema import RunConfig
from rlhf_flow.specs import ClusterSpec


def gpus(config: RunConfig) -> float:
    """The GPUs that all roles take together, on a cluster with GPUs."""
    cluster = config.cluster
    if cluster.in_process:
        return 1
    scorers = [spec for spec in workers.scorers(config).values() if spec.loads_model]
    learners = config.learner.ranks * (1 if config.refresh.every is None else 2)
    if colocated(config):
        return float(max(learners, cluster.engines, cluster.scorers if scorers else 0))
    engines = cluster.engines * config.engine.gpus
    return float((learners + engines + cluster.scorers * len(scorers)) * cluster.gpu_share)


def sized(config: RunConfig, start: Path) -> ClusterSpec:
    """The cluster with an object store and a patience for the run's models, where its keys are null.

    `start`: the folder of the checkpoint that the run starts from.
    """
    cluster: ClusterSpec = config.cluster
    if cluster.in_process:
        return cluster
    if adapts(config):
        shape = shape_of(str(start), trust_remote_code=config.model.trust_remote_code)
        published = trained(config, shape)
    else:
        published = parameters_of(start)
    known, _ = workers.model_scorers(config)
    weights = max(_bytes(start), sum(_bytes(Path(one.spec.path)) for one in known))
    return cluster.sized(policies=int(workers.object_store(config, published)), weights=weights)


def _bytes(folder: Path) -> int:
    """Of the weights in a folder; 0 for the name of a model on the hub."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))
