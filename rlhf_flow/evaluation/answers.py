"""The answers of contestants to the same prompts, kept in a folder so that none is generated twice."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pyarrow.parquet as pq

from rlhf_flow.capacity.cluster_needs import sized
from rlhf_flow.cluster.ray_persistent import OpenClusters
from rlhf_flow.config.schema import RunConfig
from rlhf_flow.evaluation.contestants import Contestant
from rlhf_flow.prompts.jsonl import Jsonl
from rlhf_flow.prompts.layout import AS_NAMED
from rlhf_flow.prompts.parse import Columns
from rlhf_flow.report.format import slug
from rlhf_flow.seeds import derive
from rlhf_flow.specs import Cluster, Model
from rlhf_flow.storage import parquet as rows
from rlhf_flow.types import Policy, Prompt, Rollouts
from rlhf_flow.weights.model_sizes import read_sizes

OWN = Columns(id="id")  # of files that an evaluation writes


@dataclass(frozen=True)
class Answers:
    """One answer of a contestant to each prompt."""

    name: str
    rollouts: Rollouts  # [B][1]; response ids begin with the name

    @property
    def texts(self) -> list[str]:
        return [group[0].text for group in self.rollouts.responses]


def answers(
    contestants: Sequence[Contestant], config: RunConfig, *, prompts: Path | Mapping[str, Path] | None, out: Path
) -> list[Answers]:
    """The answers of each contestant, read from its run or `out`/answers, or generated and written there.

    All get the same decoding (`evaluate.draw`) and seed. `prompts`: a file, or one for each name with the columns
    `prompt` and `id`; None: the held-out prompts of `config`, which a run has already answered if its keys are the
    same. A file of answers is used again if policy, decoding, seed and prompts, as tokenised, are the same. Raises
    ValueError if the prompts cannot be read.
    """
    found: dict[str, Answers] = {}
    if prompts is None:
        for one in contestants:
            if one.recorded is not None and one.recorded.answers(config):
                found[one.name] = Answers(one.name, _named(one.name, _read(one.recorded.path)))
    for model in _distinct(contestants):
        same = [one for one in contestants if one.model == model and one.name not in found]
        held_out = read_prompts(config, model, prompts) if same and not isinstance(prompts, Mapping) else ()
        asked = {
            one.name: _of_file(config, model, prompts[one.name], OWN) if isinstance(prompts, Mapping) else held_out
            for one in same
        }
        found |= {each.name: each for each in _of_model(model, same, asked, config, out / "answers")}
    return [found[one.name] for one in contestants]


def read_prompts(config: RunConfig, model: Model, file: Path | None) -> tuple[Prompt, ...]:
    """The prompts of the file, or the held-out ones of the configuration, as tokens of the model.

    Raises ValueError if there are none, or one does not fit.
    """
    spec = config.prompts
    if file is None:
        held_out: tuple[Prompt, ...] = spec.open(model.tokenizer(), config.seed).held_out()
        if not held_out:
            raise ValueError("prompts.held_out: the run holds out no prompts. Fix: --prompts FILE.")
        return held_out
    return _of_file(config, model, file, replace(spec.columns, candidates={}))  # a policy's answers need none


def _of_file(config: RunConfig, model: Model, file: Path, columns: Columns) -> tuple[Prompt, ...]:
    names = ("format", "system", "max_tokens", "too_long", "limits")
    same = {name: getattr(config.prompts, name) for name in names}
    same["schema"] = AS_NAMED if columns == OWN else config.prompts.schema
    spec = Jsonl(path=str(file), held_out=0, batch=1, columns=columns, **same)
    return spec.open(model.tokenizer(), config.seed).training


def _distinct(contestants: Sequence[Contestant]) -> list[Model]:
    models: list[Model] = []
    for one in contestants:
        if one.model not in models:
            models.append(one.model)
    return models


def _of_model(
    model: Model,
    contestants: Sequence[Contestant],
    asked: Mapping[str, Sequence[Prompt]],
    config: RunConfig,
    folder: Path,
) -> Iterator[Answers]:
    """The answers of contestants that one engine can generate."""
    files = {
        one.name: folder / f"{slug(one.name)}-{_identity(one, asked[one.name], config)[:12]}.parquet"
        for one in contestants
    }
    missing = [one for one in contestants if not files[one.name].exists()]
    if missing:
        longest = max(len(prompt.tokens) for one in missing for prompt in asked[one.name])
        longest += config.evaluate.draw.max_tokens + 1
        positions = read_sizes(model.path, trust_remote_code=model.trust_remote_code).positions
        engine_spec = config.engine.sized(longest if positions is None else min(longest, positions))
        with _cluster(replace(config, model=model)) as cluster:
            engine = cluster.engine(engine_spec, model)
            cluster.ready()
            seed = derive(config.seed, "evaluate")
            for one in missing:
                print(f"{one.name}: answering {len(asked[one.name])} prompts", flush=True)
                drawn = engine.generate(asked[one.name], _weights(one), config.evaluate.draw, round=0, seed=seed)
                _write(drawn, files[one.name])
    for one in contestants:
        yield Answers(one.name, _named(one.name, _read(files[one.name])))


def _weights(one: Contestant) -> Policy:
    if one.policy is None:
        raise ValueError(
            f"{one.name}: the run has removed the weights of this round, and its recorded answers are to other prompts "
            "or with other decoding. Fix: name a round that is on disk; checkpoint.keep keeps more of them."
        )
    return one.policy


def _read(path: Path) -> Rollouts:
    return rows.to_rollouts(pq.read_table(path))


@contextlib.contextmanager
def _cluster(config: RunConfig) -> Iterator[Cluster]:
    with contextlib.closing(OpenClusters()) as own, own.cluster(sized(config, Path(config.model.path))) as cluster:
        yield cluster


def _identity(one: Contestant, asked: Sequence[Prompt], config: RunConfig) -> str:
    """What the answers depend on, but for the rounding of engines."""
    digest = hashlib.sha256()
    for value in (_weights(one).sha256, one.model.dtype, asdict(config.evaluate.draw), config.seed):
        digest.update(json.dumps(value).encode() + b"\n")
    for prompt in asked:
        digest.update(json.dumps(asdict(prompt), sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def _write(drawn: Rollouts, path: Path) -> None:
    """By one rename: a file that exists is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    pq.write_table(rows.from_rollouts(drawn), temporary)
    temporary.replace(path)


def _named(name: str, drawn: Rollouts) -> Rollouts:
    """With ids of the contestant: engines give equal ids to the answers of all policies."""
    groups = zip(drawn.prompts, drawn.responses, strict=True)
    renamed = tuple((replace(group[0], id=f"{name}/{prompt.id}"),) for prompt, group in groups)
    return replace(drawn, responses=renamed)
