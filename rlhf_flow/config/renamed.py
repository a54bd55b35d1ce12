"""Names of version 0.1, which old run folders hold and users may still type, and today's names."""

from __future__ import annotations

import re
from collections.abc import Mapping

SCORERS = {
    "functions": ("rule", "rules", "comparison"),
    "human": ("human",),
    "llm": ("judge", "rubric"),
    "models": ("reward_model", "ensemble", "gpm", "preference_model"),
    "remote": ("remote",),
    "wrappers": ("cached", "simulated"),
}
MODULES = {  # old -> new
    "rlhf_flow.engine.idle": "rlhf_flow.engine.none",
    "rlhf_flow.engine.tabular": "rlhf_flow.games.engine",
    "rlhf_flow.engine.vllm": "rlhf_flow.engine.vllm.spec",
    "rlhf_flow.learner.reward": "rlhf_flow.learner.reward_model",
    "rlhf_flow.learner.tabular": "rlhf_flow.games.learner",
    "rlhf_flow.memory": "rlhf_flow.replay",
    "rlhf_flow.objective.gpm": "rlhf_flow.objective.general_preference",
    "rlhf_flow.objective.rating": "rlhf_flow.objective.rating_regression",
    "rlhf_flow.sampler.plan": "rlhf_flow.sampler.draws",
    "rlhf_flow.scorer.matrix": "rlhf_flow.games.scorer",
    "rlhf_flow.scorer.pooled": "rlhf_flow.scorer.models.vllm_pooling",
    **{
        f"rlhf_flow.scorer.{name}": f"rlhf_flow.scorer.{kind}.{name}"
        for kind, names in SCORERS.items()
        for name in names
    },
}
CLASSES = {"Idle": "NoEngine", "Kept": "PersistentRay", "PlanSampler": "DrawsSampler"}  # of a `_target_`
KEYS = (  # pattern of an old key, or of its beginning -> new name
    (re.compile(r"^memory(?=$|[.@])"), "replay"),
    (re.compile(r"^gate(?=\.)"), "off_policy"),
    (re.compile(r"^paging\.pairs$"), "resampling.min_pairs"),
    (re.compile(r"^paging\.pages$"), "resampling.max_batches"),
    (re.compile(r"\bscorer\.of(?=$|\.)"), "scorer.base"),
    (re.compile(r"^checkpoint\.piece$"), "checkpoint.prompts_per_commit"),
    (re.compile(r"^cluster\.piece$"), "cluster.prompts_per_task"),
    (re.compile(r"\bscorer\.(base\.)?piece$"), r"scorer.\1request_size"),
    (re.compile(r"^cluster\.patience(?=\.)"), "cluster.fault_tolerance"),
    (re.compile(r"^(sampler\.draws\.\d+)\.who$"), r"\1.policy"),
)
THREADS = 1  # of a rank
FREED = re.compile(r"^given\.")  # keys that an identity had, and that may change
ADDED: dict[str, object] = {  # keys that a run of an earlier version lacks, with what it did
    "selector.missing_eos_penalty": 0.0,
    "prompts.columns.revisions": False,
    "prompts.columns.every_turn": False,
    "evaluate.samples": 8,
}
CHOICES = {("sampler", "plan"): "draws", ("engine", "idle"): "none", ("cluster", "kept"): "ray_persistent"}


VALUES = {("gradient_checkpointing", "False"): "off", ("gradient_checkpointing", "True"): "full"}  # of a last name
SECTIONS = {"gate": "off_policy", "paging": "resampling", "cluster.patience": "cluster.fault_tolerance"}  # without keys


def key(old: str) -> str:
    """Today's name of a key with dots."""
    for pattern, new in KEYS:
        old = pattern.sub(new, old)
    return old


def choice(group: str, name: object) -> object:
    """Today's name of a part of a group."""
    return CHOICES.get((group, name), name) if isinstance(name, str) else name


def target(dotted: str) -> str:
    """Today's name of the class that a `_target_` names."""
    module, _, name = dotted.rpartition(".")
    found = MODULES.get(module)
    return dotted if found is None else f"{found}.{CLASSES.get(name, name)}"


def identity(written: Mapping[str, object]) -> dict[str, object]:
    """The identity that an earlier version wrote, in today's names, with the threads that its learners had."""
    today = {key(old): choice(old, value) for old, value in written.items() if not FREED.match(old)}
    trained = {name.partition(".training.")[0] for name in today if ".training." in name}
    return {f"{slot}.training.threads": THREADS for slot in trained} | ADDED | today


def configuration(written: object, at: str = "") -> object:
    """A configuration that version 0.1 wrote (mappings, lists and leaves), in today's names."""
    if isinstance(written, list):
        return [configuration(value, f"{at}.{number}") for number, value in enumerate(written)]
    if not isinstance(written, Mapping):
        if at.endswith("._target_") and isinstance(written, str):
            return target(written)
        return VALUES.get((at.rpartition(".")[2], str(written)), written)
    renamed = {}
    for name, value in written.items():
        old = f"{at}.{name}" if at else str(name)
        new = SECTIONS.get(old, key(old))
        renamed[new.rpartition(".")[2]] = configuration(value, old)
    return renamed


def refuse(override: str) -> None:
    """Raise ValueError if the override's key or part had another name before version 0.2."""
    given, equals, value = override.lstrip("+~").partition("=")
    if (new := key(given)) != given:
        raise ValueError(f"{override}: `{given}` is called `{new}` since 0.2. Fix: {new}{equals}{value}.")
    if (part := choice(given, value)) != value:
        raise ValueError(f"{override}: `{value}` is called `{part}` since 0.2. Fix: {given}={part}.")
