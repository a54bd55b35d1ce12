"""From overrides to the parts of a run and back.

`compose` and `build` make a `RunConfig`; `as_yaml` writes it and `from_yaml` reads it again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import FrozenInstanceError, fields, is_dataclass, replace
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeAlias, cast

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, ListConfig, OmegaConf

from rlhf_flow.config import renamed
from rlhf_flow.config.answers import Answers, children
from rlhf_flow.config.choices import Choices, choices, without_hydra
from rlhf_flow.config.compatibility import check
from rlhf_flow.config.overrides import given_keys
from rlhf_flow.config.own_objective import check_importable
from rlhf_flow.config.resolvers import RESOLVERS
from rlhf_flow.config.schema import GROUPS, RunConfig, part_name, parts
from rlhf_flow.protocols import Objective
from rlhf_flow.system import redact

CONFIGS = Path(__file__).parents[1] / "configs"
OPTIONAL = ("evaluate.scorer", "refresh.scorer", "refresh.objective", "given.prompts")  # slots that may be empty
SLOTS = (*GROUPS, *OPTIONAL)  # keys that hold a part; a part may hold another one of its group in its field INNER
INNER = "base"
DRAWS = ("sampler", "evaluate.draw")  # where the draws are that `answers` sets
Adjust: TypeAlias = Callable[[str, DictConfig], None]  # changes the node of a slot before its part is made


@cache
def register() -> None:
    """Register all parts with Hydra, and the resolvers of configurations with OmegaConf."""
    store = ConfigStore.instance()
    ConfigStore.__deepcopy__ = lambda store, memo: store  # type: ignore[attr-defined]  # copied to compose, and only read
    store.store("schema", _writable(RunConfig), provider="rlhf_flow")
    for group in GROUPS:
        for name, part in parts(group).items():
            store.store(name, _writable(part), group=group, provider="rlhf_flow")
    for name, resolver in RESOLVERS.items():
        OmegaConf.register_new_resolver(name, resolver, replace=True)


def compose(
    *overrides: str, name: str = "run", folders: Sequence[str] = (), objective: Objective | None = None
) -> RunConfig:
    """The checked configuration that `rlhf-flow run <overrides>` runs. Raises the errors of Hydra and of the parts.

    `folders` are those of --config-dir, `name` is that of --config-name. `objective` replaces the composed one.
    """
    return with_choices(*overrides, name=name, folders=folders, objective=objective)[0]


def with_choices(
    *overrides: str, name: str = "run", folders: Sequence[str] = (), objective: Objective | None = None
) -> tuple[RunConfig, Choices]:
    """As `compose`, with the names that were chosen; `objective` replaces those of algorithm and objective."""
    register()
    if missing := [folder for folder in folders if not Path(folder).is_dir()]:
        raise ValueError(f"--config-dir={missing[0]}: no such folder. Fix: name the folder of your experiment/.")
    with initialize_config_dir(str(CONFIGS.resolve()), version_base="1.3"):
        search_path = [f"hydra.searchpath={[f'file://{Path(each).absolute()}' for each in folders]}"] if folders else []
        composed = hydra_compose(name, overrides=[*overrides, *search_path], return_hydra_config=True)
    chosen = choices(composed.hydra.runtime.choices)
    config = build(without_hydra(composed), overrides)
    if objective is not None:
        check_importable(objective)
        config = replace(config, objective=objective)
        chosen = {group: name for group, name in chosen.items() if group not in ("algorithm", "objective")}
    check(config)
    return config, chosen


def build(composed: DictConfig, overrides: Sequence[str] = ()) -> RunConfig:
    """The configuration with its parts, which check their values. Raises ValueError or an OmegaConf error.

    `overrides`: those of the command line. A key of one draw in them takes precedence over `answers`.
    """
    if OmegaConf.get_type(composed) is not RunConfig:  # a file that `as_yaml` wrote
        composed = _merged(_writable(RunConfig), composed)
    answers = instance(composed.answers)
    assert isinstance(answers, Answers)
    typed = frozenset(given_keys(overrides))

    def spread(slot: str, node: DictConfig) -> None:
        if slot in DRAWS:
            answers.spread(slot, node, typed)

    for slot in DRAWS:
        spread(slot, OmegaConf.select(composed, slot, throw_on_missing=True))
    return _with_parts(composed, spread)


def _with_parts(composed: DictConfig, adjust: Adjust | None = None) -> RunConfig:
    config = instance(composed)
    assert isinstance(config, RunConfig)
    made: dict[str, Any] = {slot: part_of(slot, attrgetter(slot)(config), adjust) for slot in SLOTS}
    for slot in OPTIONAL:
        group, _, name = slot.partition(".")
        made[group] = replace(made.get(group, getattr(config, group)), **{name: made.pop(slot)})
    config = replace(config, **made)
    redact.check(leaves(config))
    return config


# -- writing ----------------------------------------------------------------------------------------------------------


def plain(value: object) -> object:
    """A configuration as dicts, lists and scalars. Each part names its class as `_target_`."""
    if is_dataclass(value):
        written = {field.name: plain(getattr(value, field.name)) for field in fields(value)}
        if isinstance(value, RunConfig):
            for slot, part in _parts_by_slot(value):
                _at(written, slot)["_target_"] = f"{type(part).__module__}.{type(part).__qualname__}"
        return written
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def leaves(value: object) -> dict[str, object]:
    """Every value of a configuration by its full key."""
    return dict(_leaves("", plain(value)))


def flat(config: RunConfig) -> dict[str, object]:
    """Every value by its full key (`sampler.draws.0.n`), and the name of each part by its slot, without secrets."""
    keys = dict(_leaves("", redact.redact(plain(config))))
    for slot, part in _parts_by_slot(config):
        del keys[f"{slot}._target_"]
        keys[slot] = part_name(group_of(slot), part)
    return keys


def as_yaml(config: RunConfig) -> str:
    """As YAML, in which `[secret:NAME]` replaces the values of environment variables that hold secrets."""
    return yaml.safe_dump(redact.redact(plain(config)), sort_keys=False, allow_unicode=True)


def from_yaml(text: str) -> RunConfig:
    return from_plain(renamed.configuration(yaml.safe_load(text)))


def from_plain(written: object) -> RunConfig:
    register()
    return _with_parts(_merged(_writable(RunConfig), OmegaConf.create(cast("dict[str, object]", written))))


# -- keys and slots ---------------------------------------------------------------------------------------------------


def _leaves(key: str, value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict | list) and value:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for name, item in items:
            yield from _leaves(f"{key}.{name}" if key else str(name), item)
    else:
        yield key, value


def _parts_by_slot(config: RunConfig) -> Iterator[tuple[str, object]]:
    """Every slot that is not empty, and its part; the parts inside of a part included."""
    for slot in SLOTS:
        part = attrgetter(slot)(config)
        while part is not None:
            yield slot, part
            slot, part = f"{slot}.{INNER}", getattr(part, INNER) if _has_inner(part) else None


def _at(written: dict[str, object], slot: str) -> dict[str, object]:
    node: object = written
    for name in slot.split("."):
        assert isinstance(node, dict)
        node = node[name]
    assert isinstance(node, dict)
    return node


def group_of(slot: str) -> str:
    """The group whose parts a slot takes: evaluate.scorer.base takes a scorer."""
    return next(word for word in reversed(slot.split(".")) if word in GROUPS)


def is_slot(key: str) -> bool:
    """Whether a key holds a part without being named like a group."""
    return key in OPTIONAL or key.endswith(f".{INNER}")


# -- OmegaConf --------------------------------------------------------------------------------------------------------


def part_of(slot: str, value: object, adjust: Adjust | None = None) -> object:
    """The part of a slot. `value` is a registered part, or a dict with the `_target_` of a user's class."""
    if value is None and slot in OPTIONAL:
        return None
    part: Any = value if is_dataclass(value) else _made(slot, value, adjust)
    if _has_inner(part):
        (field,) = (field for field in fields(part) if field.name == INNER)
        inner = getattr(part, INNER)
        if inner is not None or "optional" not in field.metadata:
            part = replace(part, **{INNER: part_of(f"{slot}.{INNER}", inner)})
    return part


def _has_inner(part: object) -> bool:
    return is_dataclass(part) and INNER in (field.name for field in fields(part))


def _made(slot: str, value: object, adjust: Adjust | None) -> object:
    group = group_of(slot)
    target = value.pop("_target_", None) if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(target, str):
        choices = [value] if value in [*parts(group)] else parts(group)
        raise ValueError(
            f"{slot} needs a part, but got {value!r}. Fix: {slot if slot == group else f'{group}@{slot}'}="
            f"{'|'.join(choices)}, or a file with `_target_: module.Class` of your own."
        )
    schema = OmegaConf.create({slot: _writable(_import(slot, target))})  # under its slot, so that errors name full keys
    merged = _merged(schema, OmegaConf.create({slot: value}))
    if adjust is not None:
        adjust(slot, merged[slot])
    made = instance(merged)
    assert isinstance(made, dict)
    return made[slot]


def instance(node: DictConfig) -> object:
    """The node as an instance of its class. Raises ValueError for a key that `+key=value` added."""
    try:
        return OmegaConf.to_object(node)
    except FrozenInstanceError as error:
        raise ValueError(_added(node, str(error).rpartition(" ")[2].strip("'"))) from error


def _added(node: DictConfig, name: str) -> str:
    """The error message for a key that was added, with the key that may have been meant."""
    holders = [(str(key), child) for key, child in node.items() if isinstance(child, DictConfig) and name in child]
    for slot, part in holders or [("", node)]:
        kind = OmegaConf.get_type(part)
        keys = [field.name for field in fields(kind)] if is_dataclass(kind) else []
        if name not in keys:
            near = get_close_matches(name, keys, n=1, cutoff=0.5)
            key = f"{slot}.{name}" if slot else name
            remedy = f"{slot}.{near[0]}=…" if near else f"leave it out; the keys are {', '.join(keys)}"
            return f"+{key}: there is no such key, and + cannot add one. Fix: {remedy}."
    return f"+{name}: there is no such key, and + cannot add one. Fix: leave it out."


def _import(slot: str, target: str) -> type:
    module, _, name = renamed.target(target).rpartition(".")
    try:
        part = vars(import_module(module))[name]
    except (ImportError, KeyError, ValueError) as error:
        raise ValueError(
            f"{slot}._target_ must be the dotted name of a class, got {target!r}, which cannot be imported: {error!r}. "
            "Fix: PYTHONPATH=<the folder that holds the module>."
        ) from error
    if not (isinstance(part, type) and is_dataclass(part)):
        raise ValueError(f"{slot}._target_ must name a dataclass, got {target!r}. Fix: @dataclass(frozen=True) on it.")
    return part


def _writable(part: type) -> DictConfig:
    """The schema of a frozen dataclass, open to overrides: parts are frozen after they are composed."""
    node = OmegaConf.structured(part)
    assert isinstance(node, DictConfig)
    _thaw(node)
    return node


def _thaw(node: DictConfig | ListConfig) -> None:
    OmegaConf.set_readonly(node, None)
    if OmegaConf.get_type(node) is dict:  # a mapping, whose keys the user chooses
        OmegaConf.set_struct(node, False)
    for _, child in children(node):
        if isinstance(child, DictConfig | ListConfig):
            _thaw(child)


def _merged(old: DictConfig, new: DictConfig) -> DictConfig:
    merged = OmegaConf.merge(old, new)
    assert isinstance(merged, DictConfig)
    return merged
