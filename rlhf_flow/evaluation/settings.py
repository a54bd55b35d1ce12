"""How an evaluation is configured: by a run's config.yaml, and by keys of the command line that replace some of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from rlhf_flow.config.compose import CONFIGS, build, from_yaml, instance, part_of, plain, register
from rlhf_flow.config.overrides import expanded, from_mapping
from rlhf_flow.config.schema import GROUPS, RunConfig
from rlhf_flow.config.stored import stored
from rlhf_flow.config.threads import threaded
from rlhf_flow.specs import Model
from rlhf_flow.system import machine

USED = ("scorer", "engine", "cluster", "prompts", "evaluate", "answers", "model", "seed")  # of the keys of a run
UNNAMED = "unnamed"  # a value of a required key that this evaluation does not read


def settings(run: Path | None, arguments: Sequence[str], *, out: Path, prompts: Path | None = None) -> RunConfig:
    """The configuration of an evaluation: that of `run`, or the defaults, changed by `arguments`.

    `arguments`: keys, and YAML files with keys. `scorer` is the scorer that judges: that of the arguments, else the
    run's evaluation scorer. `prompts`: the file of the prompts, if one is named. Of `model`, only the keys that apply
    to models outside of a run count. Raises ValueError, or an error of Hydra, for a mistake in the keys.
    """
    overrides = [each for argument in arguments for each in _used(argument)]
    register()
    config = _alone(overrides, prompts, out) if run is None else _of_run(run, overrides, out)
    return threaded(replace(config, run_dir=str(out)), machine.cores())


def _used(argument: str) -> list[str]:
    """The overrides of an argument. Raises ValueError for a typed key that no evaluation reads."""
    found = [each for override in expanded([argument]) for each in _without_stack(override)]
    used = [override for override in found if _root(override) in USED]
    if found != used and not argument.endswith((".yaml", ".yml")):
        raise ValueError(
            f"{argument}: an evaluation reads only keys of {', '.join(USED)} and stack=. Fix: leave it out."
        )
    return used


def _root(override: str) -> str:
    return override.lstrip("+~").partition("=")[0].partition("@")[0].partition(".")[0]


def _without_stack(override: str) -> list[str]:
    """`stack=local` as the choices that it stands for, which a run's configuration can take."""
    key, _, name = override.partition("=")
    if key != "stack":
        return [override]
    file = CONFIGS / "stack" / f"{name}.yaml"
    if not file.is_file():
        raise ValueError(f"{override} is not a known stack. Fix: stack=local, stack=cpu or stack=gpu.")
    written: Any = yaml.safe_load(file.read_text())
    choices = {key.rpartition("/")[2]: value for each in written["defaults"] for key, value in each.items()}
    return [f"{group}={value}" for group, value in choices.items() if group in USED]


def _alone(overrides: Sequence[str], prompts: Path | None, out: Path) -> RunConfig:
    """The defaults with the overrides. Neither a policy nor prompts need to be named in them."""
    first = {"model.path": UNNAMED, "prompts.path": UNNAMED if prompts is None else str(prompts)}
    last = {"run_dir": str(out)}
    return _judged_by_one(build(_composed([*from_mapping(first), *overrides, *from_mapping(last)]), overrides))


def _judged_by_one(config: RunConfig) -> RunConfig:
    """The configuration with the evaluation scorer, if there is one, as its only scorer."""
    evaluate = config.evaluate
    return replace(config, scorer=evaluate.scorer or config.scorer, evaluate=replace(evaluate, scorer=None))


def _of_run(run: Path, overrides: Sequence[str], out: Path) -> RunConfig:
    """A run's configuration with the overrides.

    A part that is chosen by name replaces that of the run, with all of its keys. Other keys replace single values.
    """
    config = _judged_by_one(stored(run))
    config = replace(config, model=Model(UNNAMED, dtype=config.model.dtype))
    parsed = OverridesParser.create().parse_overrides([_of_the_draw(override) for override in overrides])
    chosen = {_slot(each) for each in parsed if _chooses(each)}
    if "evaluate" in chosen:
        raise ValueError("scorer@evaluate.scorer: an evaluation has one scorer. Fix: scorer=NAME.")
    texts = [each.input_line or "" for each in parsed if _slot(each) in chosen]
    if texts:
        composed = _composed([*texts, *from_mapping({"run_dir": str(out)})])
        parts: dict[str, Any] = {slot: part_of(slot, instance(composed[slot])) for slot in sorted(chosen)}
        config = replace(config, **parts)
    values = [each for each in parsed if _slot(each) not in chosen]
    if not values:
        return config
    written: Any = OmegaConf.create(plain(config))  # type: ignore[call-overload]  # a dict
    for each in values:
        OmegaConf.update(written, each.key_or_group, each.value())
    return from_yaml(OmegaConf.to_yaml(written))


def _composed(overrides: Sequence[str]) -> DictConfig:
    with initialize_config_dir(str(CONFIGS.resolve()), version_base="1.3"):
        return hydra_compose("run", overrides=list(overrides))


def _of_the_draw(override: str) -> str:
    """`answers.temperature=0` as the key that it sets in an evaluation."""
    return f"evaluate.draw.{override.removeprefix('answers.')}" if override.startswith("answers.") else override


def _slot(override: Override) -> str:
    return (override.package or override.key_or_group).partition(".")[0]


def _chooses(override: Override) -> bool:
    """Whether it chooses a part by name, as scorer=judge and scorer@scorer.base=rule do."""
    return override.key_or_group in GROUPS
