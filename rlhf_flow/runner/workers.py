"""Opens the workers of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from rlhf_flow.config.schema import RunConfig
from rlhf_flow.learner.readout import tail_of
from rlhf_flow.learner.reward_head import Head
from rlhf_flow.protocols import Engine, Learner, PromptSource, Scorer
from rlhf_flow.scorer.models.classifier import Classifier
from rlhf_flow.specs import Cluster, Model
from rlhf_flow.stages.context import RewardUpdates
from rlhf_flow.stages.update_reward import RefreshedScorer, as_read
from rlhf_flow.storage.in_memory import InMemoryShard
from rlhf_flow.storage.store import Store
from rlhf_flow.storage.tables import Table
from rlhf_flow.types import Policy, Probe, Rollouts
from rlhf_flow.weights.fingerprint import checkpoint_fingerprint
from rlhf_flow.weights.source import Checkpoint

PROBE_TOKENS = 32  # of the longest prompt of round 1


@dataclass(frozen=True)
class Workers:
    """The opened workers. `evaluation_scorer` is `scorer` if evaluate.scorer is not set."""

    engine: Engine
    learner: Learner
    scorer: Scorer
    evaluation_scorer: Scorer
    reward_updates: RewardUpdates | None

    @classmethod
    def open(cls, config: RunConfig, model: Model, cluster: Cluster, store: Store, *, longest: int) -> Workers:
        """Open all workers and wait for them. `longest`: tokens of the longest sequence."""
        engine = cluster.engine(config.engine.sized(longest), model, mixes=config.sampler.needs_mixture)
        learner = cluster.learner(config.learner, model)
        updates = config.refresh.every is not None
        scorer = _refreshed_scorer(config, cluster, store) if updates else cluster.scorer(config.scorer)
        evaluation = scorer if config.evaluate.scorer is None else cluster.scorer(config.evaluate.scorer)
        reward_updates = _reward_updates(config, cluster) if updates else None
        cluster.ready()
        return cls(engine, learner, scorer, evaluation, reward_updates)


def with_probe(start: Policy, learner: Learner, prompts: PromptSource) -> Policy:
    """The start with a probe: the learner's log-probs of a prompt, by which engines verify its weights."""
    tokens = max((prompt.tokens for prompt in prompts.batch(1)), key=len)[:PROBE_TOKENS]
    if len(tokens) < 2:
        return start
    table = Table((InMemoryShard(as_read(["start"], [tokens])),))
    (logps,) = learner.logps([table], ["start"], start)["logps"].to_pylist()
    return replace(start, probe=Probe(tuple(tokens), 1, tuple(logps)))


def _refreshed_scorer(config: RunConfig, cluster: Cluster, store: Store) -> Scorer:
    def opened(folder: Path | None) -> Scorer:
        scorer = cluster.scorer(config.scorer if folder is None else replace(config.scorer, path=str(folder)))
        cluster.ready()
        return scorer

    return RefreshedScorer(store, opened)


def _reward_updates(config: RunConfig, cluster: Cluster) -> RewardUpdates:
    spec, refresh = config.scorer, config.refresh
    assert refresh.every is not None
    trained = replace(config.learner, head=Head(outputs=spec.outputs), training=refresh.training)
    model = Model(
        path=spec.path,
        revision=spec.revision,
        trust_remote_code=spec.trust_remote_code,
        chat_template=spec.chat_template,
    )

    def learner() -> Learner:
        opened = cluster.learner(trained, model)
        cluster.ready()
        return opened

    return RewardUpdates(
        every=refresh.every,
        prompts=refresh.prompts,
        labeller=cluster.scorer(refresh.scorer),
        objective=refresh.objective,
        start=Policy("scorer", 0, spec.fingerprint(), Checkpoint(Path(spec.path), spec.trust_remote_code)),
        learner=learner,
        read=_reader(spec),
    )


def _reader(spec: Classifier) -> Callable[[Rollouts], pa.Table]:
    """Responses in the scorer's tokens, without those that its template adds at the end: its learner adds them."""
    reader, tail = spec.reader(), tail_of(spec.tokenizer())

    def read(rollouts: Rollouts) -> pa.Table:
        groups = zip(rollouts.prompts, rollouts.responses, strict=True)
        views, _ = reader.views((prompt, response) for prompt, group in groups for response in group)
        return as_read(list(views), [view[: len(view) - len(tail)] for view in views.values()])

    return read


def anchor_policies(config: RunConfig) -> dict[str, Policy]:
    """The policies of `anchors.policies`. Raises ValueError if one is no folder of a checkpoint."""
    found = {}
    for name, path in sorted(config.anchors.policies.items()):
        if not (Path(path) / "config.json").is_file():
            raise ValueError(
                f"anchors.policies.{name}={path} is no folder of a checkpoint. Fix: a folder with the policy of a run, "
                "of the same model as model.path."
            )
        weights = Checkpoint(Path(path), config.model.trust_remote_code)
        found[name] = Policy(name, 0, checkpoint_fingerprint(Path(path)), weights, stateless=True)
    return found
