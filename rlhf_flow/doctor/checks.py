"""All checks, on one configuration and the machine that it is on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from rlhf_flow.capacity import worker_memory as roles
from rlhf_flow.capacity.estimate import plan
from rlhf_flow.capacity.fit import Room
from rlhf_flow.capacity.learner_memory import plans as plans_learner
from rlhf_flow.capacity.process_memory import MIB
from rlhf_flow.capacity.worker_memory import with_inner
from rlhf_flow.config import compatibility as together
from rlhf_flow.config import data_checks as fits
from rlhf_flow.config.schema import RunConfig
from rlhf_flow.doctor import checkpoints, machine, network, packages, storage
from rlhf_flow.doctor import tokenizers as tokens
from rlhf_flow.doctor.checkpoints import Named
from rlhf_flow.doctor.finding import Finding, ok, problem, refusal, warning
from rlhf_flow.scorer.llm.judge import Judge
from rlhf_flow.scorer.llm.rubric import Rubric
from rlhf_flow.scorer.models.classifier import Classifier
from rlhf_flow.scorer.models.preference_model import PreferenceModel
from rlhf_flow.scorer.models.vllm_pooling import Pooled
from rlhf_flow.scorer.remote.remote import Remote
from rlhf_flow.types import SamplingParams


@dataclass(frozen=True)
class Diagnosis:
    findings: list[Finding]
    tokens: list[tokens.Tokens]

    @property
    def broken(self) -> bool:
        """Whether a checkpoint, or what reads it, has a problem."""
        return any(one.level == "problem" and one.subject in ("models", "tokens", "parts") for one in self.findings)

    @property
    def sound(self) -> bool:
        return not any(finding.level == "problem" for finding in self.findings)


def diagnose(config: RunConfig, environment: Mapping[str, str], there: Room) -> Diagnosis:
    """Everything that can be told without a worker. Nothing is fetched; servers are called at their ports alone."""
    found = [*_packages(config), *_machine(config), *_network(config, environment), *_parts(config)]
    named = [*checkpoints_of(config)]
    folders = {one.key: checkpoints.folder_of(one) for one in named}
    rows: list[tokens.Tokens] = []
    for one in named:
        found += (about := [*checkpoints.check(one, folders[one.key])])
        folder = folders[one.key]
        if folder is None or not (folder / "config.json").is_file():
            continue
        row = tokens.read(one, folder)
        if isinstance(row, Finding):
            found.append(row)
            continue
        rows.append(row)
        if not any("trusted" in finding.says for finding in about):
            found += tokens.check(row, one, answers_end=one.kind == "policy")
    found += storage.hub_cache(environment, fetches=_fetches(named, folders))
    joined = not config.cluster.in_process and bool(_address(config) or environment.get("RAY_ADDRESS"))
    found += storage.run_folder(Path(config.run_dir), joined=joined)
    broken = any(finding.level == "problem" and finding.subject in ("models", "tokens", "parts") for finding in found)
    if not broken and folders["model.path"] is not None:
        local = replace(config, model=replace(config.model, path=str(folders["model.path"])))
        found += _planned(local, rows[0], there)
    return Diagnosis(found, rows)


def checkpoints_of(config: RunConfig) -> Iterator[Named]:
    """The policy's, and those of all judges that read one."""
    model = config.model
    chat = vars(config.prompts).get("format") == "chat"
    kind = "start of a reward model" if together.outputs(config) else "policy"
    trust = model.trust_remote_code
    yield Named("model.path", model.path, kind, model.revision, trust, chat, model.chat_template)
    for slot, part in with_inner(_scorers(config)):
        if isinstance(part, Classifier | Pooled | PreferenceModel):
            kind = "language model" if isinstance(part, PreferenceModel) else "classifier"
            chat = part.format == "chat"
            trust = part.trust_remote_code
            yield Named(f"{slot}.path", part.path, kind, part.revision, trust, chat, part.chat_template)


def _packages(config: RunConfig) -> Iterator[Finding]:
    found = packages.installed()
    yield from packages.python()
    yield from packages.versions(found, packages.needed(config))
    yield from packages.together(packages.requirements(), found)
    yield from packages.loading()


def _machine(config: RunConfig) -> Iterator[Finding]:
    yield from machine.gpus(machine.gpus_here(), ranks=config.learner.ranks)
    yield from machine.clock()
    if not config.cluster.in_process:
        yield from machine.limits()
        if _address(config) is None:
            yield from machine.shared_memory(int(vars(config.cluster).get("object_store_mib", 0)) * MIB)


def _network(config: RunConfig, environment: Mapping[str, str]) -> Iterator[Finding]:
    yield from network.interfaces(environment)
    if not config.cluster.in_process:
        nodes = int(vars(config.cluster).get("nodes", 1))
        yield from network.ray_cluster(_address(config), environment, nodes=nodes)
    yield from network.wandb(config.observe.wandb, environment)
    for slot, part in with_inner(_scorers(config)):
        if isinstance(part, Remote | Pooled):
            yield from network.servers(part.urls, key=f"{slot}.urls")
        elif isinstance(part, Judge | Rubric):
            yield from network.servers([part.endpoint.base_url], key=f"{slot}.endpoint.base_url")


def _parts(config: RunConfig) -> Iterator[Finding]:
    """What a run refuses before it starts."""
    specs = [("engine", config.engine), ("learner", config.learner), *_scorers(config).items()]
    for slot, spec in specs:
        if spec is not None and not str(vars(spec).get("path", "")):  # checkpoints are looked at by themselves
            with _refusals(slot) as refused:
                spec.check()  # type: ignore[attr-defined]  # a specification
            yield from refused
    with _refusals("refresh") as refused:
        fits.check_refresh(config)
    yield from refused
    for line in together.warnings(config):
        yield warning("parts", line, "decode as the policy itself, or keep it in mind")


def _planned(config: RunConfig, policy: tokens.Tokens, there: Room) -> Iterator[Finding]:
    """Prompts, lengths, memory and disk."""
    with _refusals("models") as refused:
        fits.check_start(config, config.model)
    yield from refused
    if refused:
        return
    with _refusals("prompts") as refused:
        tokenizer = config.model.tokenizer()
        source = config.prompts.open(tokenizer, seed=config.seed)
        fits.check(config, config.model, source, tokenizer)
    yield from refused
    if refused:
        return
    draws: list[SamplingParams] = [*config.sampler.drawn.values(), config.evaluate.draw]
    limit = config.engine.max_sequence(policy.longest)
    answer = max(draw.max_tokens for draw in draws)
    if source.longest + answer > (limit or source.longest + answer):
        yield from tokens.room(policy, prompt=source.longest, answer=answer, limit=limit)
    yield ok("prompts", source.summary)
    if not (plans_learner(config) and roles.plans(config)):
        yield ok("plan", "parts without a model of their own: there is no memory to plan")
        return
    try:
        planned = plan(config, there)
    except ValueError as error:
        yield refusal("plan", error)
        return
    for line in planned.problems:
        says, _, way_out = line.partition(". ")
        yield problem("plan", says, way_out or "see rlhf-flow plan")
    if not planned.problems:
        yield ok("plan", "memory and calls fit: rlhf-flow plan tells all")
    yield from storage.enough(Path(config.run_dir), planned.disk.most)


@contextmanager
def _refusals(subject: str) -> Iterator[list[Finding]]:
    """A ValueError of the block as a finding; the last sentences of one are its way out."""
    found: list[Finding] = []
    try:
        yield found
    except ValueError as error:
        found.append(refusal(subject, error))


def _scorers(config: RunConfig) -> dict[str, object]:
    slots = {
        "scorer": config.scorer,
        "evaluate.scorer": config.evaluate.scorer,
        "refresh.scorer": config.refresh.scorer,
    }
    return {slot: part for slot, part in slots.items() if part is not None}


def _fetches(named: list[Named], folders: Mapping[str, Path | None]) -> bool:
    return any(
        folders[one.key] is None and one.path.count("/") == 1 and not one.path.startswith((".", "~", "/"))
        for one in named
    )


def _address(config: RunConfig) -> str | None:
    address = vars(config.cluster).get("address")
    return None if address is None else str(address)
