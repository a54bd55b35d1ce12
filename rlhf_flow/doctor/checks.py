"""All checks of one configuration on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from rlhf_flow.capacity import worker_memory
from rlhf_flow.capacity.estimate import plan
from rlhf_flow.capacity.fit import Room
from rlhf_flow.capacity.learner_memory import plans as plans_learner
from rlhf_flow.capacity.process_memory import MIB
from rlhf_flow.capacity.worker_memory import scorers, with_inner
from rlhf_flow.cluster.joining import store_mib
from rlhf_flow.config import compatibility, data_checks
from rlhf_flow.config.schema import RunConfig
from rlhf_flow.doctor import checkpoints, machine, network, packages, storage, tokenizers
from rlhf_flow.doctor.checkpoints import Named
from rlhf_flow.doctor.finding import Finding, from_error, ok, warning
from rlhf_flow.scorer.llm.judge import Judge
from rlhf_flow.scorer.llm.rubric import Rubric
from rlhf_flow.scorer.models.classifier import Classifier
from rlhf_flow.scorer.models.preference_model import PreferenceModel
from rlhf_flow.scorer.models.vllm_pooling import Pooled
from rlhf_flow.scorer.remote.remote import Remote

FROM_CHECKPOINT = Classifier | Pooled | PreferenceModel  # scorers whose files `checkpoints` checks


@dataclass(frozen=True)
class Diagnosis:
    findings: list[Finding]
    tokens: list[tokenizers.Tokens]

    @property
    def broken(self) -> bool:
        """Whether a checkpoint, or a part that reads it, has a problem."""
        return any(one.level == "problem" and one.subject in ("models", "tokens", "parts") for one in self.findings)

    @property
    def sound(self) -> bool:
        return not any(finding.level == "problem" for finding in self.findings)


def diagnose(config: RunConfig, environment: Mapping[str, str], room: Room) -> Diagnosis:
    """Run the checks that need no worker. Nothing is downloaded; servers are only asked to accept a connection."""
    findings = [*_packages(config), *_machine(config), *_network(config, environment), *_parts(config)]
    named = [*checkpoints_of(config)]
    folders = {one.key: checkpoints.folder_of(one) for one in named}
    rows: list[tokenizers.Tokens] = []
    for one in named:
        folder = folders[one.key]
        findings += checkpoints.check(one, folder)
        if folder is None or not (folder / "config.json").is_file():
            continue
        row = tokenizers.read(one, folder)
        if isinstance(row, Finding):
            findings.append(row)
            continue
        rows.append(row)
        if not checkpoints.untrusted_code(one, folder):
            findings += tokenizers.check(row, one, generates=one.kind == "policy")
    downloads = any(one.on_hub and folders[one.key] is None for one in named)
    findings.append(storage.hub_cache(environment, downloads=downloads))
    joined = not config.cluster.in_process and bool(config.cluster.address or environment.get("RAY_ADDRESS"))
    findings.append(storage.run_folder(Path(config.run_dir), joined=joined))
    diagnosis = Diagnosis(findings, rows)
    if not diagnosis.broken and folders["model.path"] is not None:
        local = replace(config, model=replace(config.model, path=str(folders["model.path"])))
        findings += _plan(local, rows[0], room)
    return diagnosis


def checkpoints_of(config: RunConfig) -> Iterator[Named]:
    """The checkpoint of the policy, and those of all scorers that load one."""
    model = config.model
    kind = "start of a reward model" if compatibility.outputs(config) else "policy"
    chat = config.prompts.format == "chat"
    yield Named("model.path", model.path, kind, model.revision, model.trust_remote_code, chat, model.chat_template)
    for slot, spec in with_inner(scorers(config)):
        if isinstance(spec, FROM_CHECKPOINT):
            kind = "language model" if isinstance(spec, PreferenceModel) else "classifier"
            chat, trust = spec.format == "chat", spec.trust_remote_code
            yield Named(f"{slot}.path", spec.path, kind, spec.revision, trust, chat, spec.chat_template)


def _packages(config: RunConfig) -> Iterator[Finding]:
    found = packages.installed()
    yield packages.python()
    yield from packages.versions(found, packages.needed(config))
    yield from packages.compatible(packages.requirements(), found)
    yield from packages.importable()


def _machine(config: RunConfig) -> Iterator[Finding]:
    found = machine.gpus_here()
    yield machine.gpus(found, ranks=config.learner.ranks)
    yield from machine.precision(
        found,
        {"model.dtype": config.model.dtype}
        | {
            f"{slot}.dtype": spec.dtype
            for slot, spec in with_inner(scorers(config))
            if isinstance(spec, Classifier | PreferenceModel)
        },
    )
    yield machine.clock()
    if not config.cluster.in_process:
        yield from machine.limits()
        yield from machine.rdma()
        if config.cluster.address is None and config.cluster.object_store_mib is not None:
            yield from machine.shared_memory(config.cluster.object_store_mib * MIB, given=True)


def _network(config: RunConfig, environment: Mapping[str, str]) -> Iterator[Finding]:
    yield from network.interfaces(environment)
    if not config.cluster.in_process:
        yield from network.ray_cluster(config.cluster.address, environment, nodes=config.cluster.nodes)
    yield from network.wandb(config.observe.wandb, environment)
    for slot, spec in with_inner(scorers(config)):
        if isinstance(spec, Remote | Pooled):
            yield from network.servers(spec.urls, key=f"{slot}.urls")
        elif isinstance(spec, Judge | Rubric):
            yield from network.servers([spec.endpoint.base_url], key=f"{slot}.endpoint.base_url")


def _parts(config: RunConfig) -> Iterator[Finding]:
    """The checks with which a run refuses to start."""
    parts = {"engine": config.engine, "learner": config.learner, "observe": config.observe, **scorers(config)}
    for slot, spec in parts.items():
        if not isinstance(spec, FROM_CHECKPOINT):
            with _errors(slot) as errors:
                spec.check()
            yield from errors
    with _errors("refresh") as errors:
        data_checks.check_refresh(config)
    yield from errors
    for line in compatibility.warnings(config):
        yield warning("parts", line, "")


def _plan(config: RunConfig, policy: tokenizers.Tokens, room: Room) -> Iterator[Finding]:
    """Prompts, lengths, memory and disk."""
    with _errors("models") as errors:
        data_checks.check_start(config, config.model)
    if errors:
        yield from errors
        return
    with _errors("prompts") as errors:
        tokenizer = config.model.tokenizer()
        source = config.prompts.open(tokenizer, seed=config.seed)
        data_checks.check(config, config.model, source, tokenizer)
    if errors:
        yield from errors
        return
    limit = config.engine.max_sequence(policy.longest)
    longest = data_checks.longest_answer(config, source)
    yield from tokenizers.room(policy, prompt=source.longest, answer=longest, limit=limit)
    yield ok("prompts", source.summary)
    if not (plans_learner(config) and worker_memory.plans(config)):
        yield ok("plan", "engine or learner have no model: there is no memory to plan")
        return
    with _errors("plan") as errors:
        planned = plan(config, room)
    if errors:
        yield from errors
        return
    yield from (from_error("plan", error) for error in planned.problems)
    if not planned.problems:
        yield ok("plan", "memory and calls fit; rlhf-flow plan shows the numbers")
    yield storage.enough(Path(config.run_dir), planned.disk.most)
    if not config.cluster.in_process and config.cluster.address is None and config.cluster.object_store_mib is None:
        yield from machine.shared_memory(store_mib(planned.object_store) * MIB, given=False)


@contextmanager
def _errors(subject: str) -> Iterator[list[Finding]]:
    """A list that receives the ValueError of the block as a problem."""
    found: list[Finding] = []
    try:
        yield found
    except ValueError as error:
        found.append(from_error(subject, error))
