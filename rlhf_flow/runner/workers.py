"""The workers of a run: opened side by side, and those that come later."""

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
from rlhf_flow.storage.in_memory import HeldShard
from rlhf_flow.storage.store import Store
from rlhf_flow.storage.tables import Table
from rlhf_flow.types import Policy, Probe, Rollouts
from rlhf_flow.weights.source import Checkpoint

PROBED = 32  # tokens of the prompt by which an engine's first weights are proven


@dataclass(frozen=True)
class Workers:
    """What a run asks to do the work. `judge` is the scorer of evaluation, perhaps that of training."""

    engine: Engine
    learner: Learner
    scorer: Scorer
    judge: Scorer
    refreshing: RewardUpdates | None

    @classmethod
    def open(cls, config: RunConfig, model: Model, cluster: Cluster, store: Store, *, longest: int) -> Workers:
        """All of them, ready; `longest`: tokens of the longest sequence."""
        engine = cluster.engine(config.engine.sized(longest), model, mixes=config.sampler.needs_mixture)
        learner = cluster.learner(config.learner, model)
        refreshed = config.refresh.every is not None
        scorer = _refreshed(config, cluster, store) if refreshed else cluster.scorer(config.scorer)
        judge = scorer if config.evaluate.scorer is None else cluster.scorer(config.evaluate.scorer)
        refreshing = _refreshing(config, cluster) if refreshed else None
        cluster.ready()
        return cls(engine, learner, scorer, judge, refreshing)


def proven(start: Policy, learner: Learner, prompts: PromptSource) -> Policy:
    """The start with the learner's log-probs of a prompt, by which an engine finds out that it reads other weights."""
    tokens = max((prompt.tokens for prompt in prompts.batch(1)), key=len)[:PROBED]
    if len(tokens) < 2:
        return start
    row = {"response": ["start"], "prompt_tokens": [tokens[:1]], "tokens": [tokens[1:]]}
    types = {"response": pa.string(), "prompt_tokens": pa.list_(pa.int32()), "tokens": pa.list_(pa.int32())}
    table = Table((HeldShard(pa.table({name: pa.array(row[name], type) for name, type in types.items()})),))
    (logps,) = learner.logps([table], ["start"], start)["logps"].to_pylist()
    return replace(start, probe=Probe(tuple(tokens), 1, tuple(logps)))


def _refreshed(config: RunConfig, cluster: Cluster, store: Store) -> Scorer:
    def opened(folder: Path | None) -> Scorer:
        scorer = cluster.scorer(config.scorer if folder is None else replace(config.scorer, path=str(folder)))
        cluster.ready()
        return scorer

    return RefreshedScorer(store, opened)


def _refreshing(config: RunConfig, cluster: Cluster) -> RewardUpdates:
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
        start=Policy(
            name="scorer",
            round=0,
            sha256=spec.fingerprint(),
            weights=Checkpoint(Path(spec.path), spec.trust_remote_code),
        ),
        learner=learner,
        read=_in_tokens_of(spec),
    )


def _in_tokens_of(spec: Classifier) -> Callable[[Rollouts], pa.Table]:
    """Answers as the judge reads them, but for what its template writes behind an answer: its learner adds that."""
    reader, tail = spec.reader(), tail_of(spec.tokenizer())

    def read(rollouts: Rollouts) -> pa.Table:
        groups = zip(rollouts.prompts, rollouts.responses, strict=True)
        views, _ = reader.views((prompt, response) for prompt, group in groups for response in group)
        return as_read(list(views), [view[: len(view) - len(tail)] for view in views.values()])

    return read
