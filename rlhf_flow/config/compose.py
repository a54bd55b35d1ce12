"""From what was typed to the parts that were meant, and back: Hydra composes, the parts check themselves.

`compose` and `build` make a `RunConfig`, `as_yaml` writes it down and `from_yaml` reads it
again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import FrozenInstanceError, fields, is_dataclass, replace
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, TypeAlias

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, ListConfig, OmegaConf

from rlhf_flow.config import renamed
from rlhf_flow.config.answers import Answers
from rlhf_flow.config.compatibility import check
from rlhf_flow.config.overrides import given_keys
from rlhf_flow.config.schema import GROUPS, RunConfig, part_name, parts
from rlhf_flow.system import redact

CONFIGS = Path(__file__).parents[1] / "configs"
OPTIONAL = ("evaluate.scorer", "refresh.scorer", "refresh.objective")  # slots that may be empty
DRAWING = ("sampler", "evaluate.draw")  # where the draws are that `answers` speaks of
Adjust: TypeAlias = Callable[[str, DictConfig], None]  # what is done to a part, given its slot, before it is made
WORLD = "rlhf_flow.sandbox.world"
INNER = "base"  # the field in which a part may hold another of its group, as a judge that is seen through noise does


@cache
def register() -> None:
    """Tell Hydra of every part and OmegaConf of `${sandbox:...}`."""
    store = ConfigStore.instance()
    store.store("schema", _writable(RunConfig), provider="rlhf_flow")
    for group in GROUPS:
        for name, part in parts(group).items():
            store.store(name, _writable(part), group=group, provider="rlhf_flow")
    OmegaConf.register_new_resolver("sandbox", _sandbox, replace=True)


def compose(*overrides: str, name: str = "run", folders: Sequence[str] = ()) -> RunConfig:
    """The checked configuration that `rlhf-flow run <overrides>` would run. Raises what Hydra and the parts raise.

    `folders` are those of --config-dir, `name` is that of --config-name.
    """
    register()
    with initialize_config_dir(str(CONFIGS.resolve()), version_base="1.3"):
        found = [f"file://{Path(folder).absolute()}" for folder in folders]
        searched = [f"hydra.searchpath={found}"] if found else []
        composed = hydra_compose(name, overrides=[*overrides, *searched])
    config = build(composed, overrides)
    check(config)
    return config


def build(composed: DictConfig, overrides: Sequence[str] = ()) -> RunConfig:
    """The parts themselves; each checks its values as it is made. Raises ValueError or an OmegaConf error.

    `overrides`: what was typed. What is said there of one draw has the last word over `answers`.
    """
    if OmegaConf.get_type(composed) is not RunConfig:  # a file that `as_yaml` wrote, not composed
        composed = _merged(_writable(RunConfig), composed)
    answers = instance(composed.answers)
    assert isinstance(answers, Answers)
    typed = frozenset(given_keys(overrides))

    def spread(slot: str, node: DictConfig) -> None:
        if slot in DRAWING:
            answers.spread(slot, node, typed)

    for slot in DRAWING:
        spread(slot, OmegaConf.select(composed, slot, throw_on_missing=True))
    return _parts(composed, spread)


def _parts(composed: DictConfig, adjust: Adjust | None = None) -> RunConfig:
    config = instance(composed)
    assert isinstance(config, RunConfig)
    evaluate = replace(config.evaluate, scorer=part_of("evaluate.scorer", config.evaluate.scorer))
    refresh = replace(
        config.refresh,
        scorer=part_of("refresh.scorer", config.refresh.scorer),
        objective=part_of("refresh.objective", config.refresh.objective),
    )
    slots: dict[str, Any] = {group: part_of(group, getattr(config, group), adjust) for group in GROUPS}
    built = replace(config, evaluate=evaluate, refresh=refresh, **slots)
    redact.check(leaves(built))
    return built


# -- writing it down --------------------------------------------------------------------------------------------------


def plain(value: object) -> object:
    """A configuration in dicts, lists and scalars. Each part names its class as `_target_`, to be read again."""
    if isinstance(value, RunConfig):
        written = {field.name: plain(getattr(value, field.name)) for field in fields(value)}
        for slot, part in _slots(value):
            if part is not None:
                _at(written, slot)["_target_"] = f"{type(part).__module__}.{type(part).__qualname__}"
        return written
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def leaves(value: object) -> dict[str, object]:
    """Every value of a configuration by its full key, as it is."""
    return dict(_leaves("", plain(value)))


def flat(config: RunConfig) -> dict[str, object]:
    """Every value by its full key (`sampler.draws.0.n`), and the name of each part by its slot; no secrets."""
    keys = dict(_leaves("", redact.redact(plain(config))))
    for slot, part in _slots(config):
        if part is not None:
            del keys[f"{slot}._target_"]
            keys[slot] = part_name(group_of(slot), part)
    return keys


def as_yaml(config: RunConfig) -> str:
    """Without secrets: `[secret:NAME]` stands for what an environment variable holds."""
    return yaml.safe_dump(redact.redact(plain(config)), sort_keys=False, allow_unicode=True)


def from_yaml(text: str) -> RunConfig:
    register()
    written = renamed.configuration(yaml.safe_load(text))
    assert isinstance(written, dict)
    composed = OmegaConf.create(written)
    assert isinstance(composed, DictConfig)
    return _parts(_merged(_writable(RunConfig), composed))


# -- keys and slots ---------------------------------------------------------------------------------------------------


def _leaves(key: str, value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict | list) and value:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for name, item in items:
            yield from _leaves(f"{key}.{name}" if key else str(name), item)
    else:
        yield key, value


def _slots(config: RunConfig) -> Iterator[tuple[str, object]]:
    """Every slot and its part; what is inside a part comes after it."""
    found = [(group, getattr(config, group)) for group in GROUPS]
    found += [("evaluate.scorer", config.evaluate.scorer)]
    found += [("refresh.scorer", config.refresh.scorer), ("refresh.objective", config.refresh.objective)]
    for slot, part in found:
        yield slot, part
        if _holds_another(part):
            found.append((f"{slot}.{INNER}", getattr(part, INNER)))


def _at(written: dict[str, object], slot: str) -> dict[str, object]:
    node: object = written
    for name in slot.split("."):
        assert isinstance(node, dict)
        node = node[name]
    assert isinstance(node, dict)
    return node


# -- OmegaConf ---------------------------------------------------------------------------------------------------------


def part_of(slot: str, value: object, adjust: Adjust | None = None) -> object:
    """The part itself. `value` is one already where it is registered, and a dict where a file names its `_target_`."""
    if value is None and slot in OPTIONAL:
        return None
    part = value if is_dataclass(value) else _made(slot, value, adjust)
    if _holds_another(part):
        (inner,) = (field for field in fields(part) if field.name == INNER)  # type: ignore[arg-type]  # a dataclass
        value = getattr(part, INNER)
        if value is not None or "optional" not in inner.metadata:
            part = replace(part, **{INNER: part_of(f"{slot}.{INNER}", value)})  # type: ignore[type-var]
    return part


def _holds_another(part: object) -> bool:
    return is_dataclass(part) and INNER in (field.name for field in fields(part))


def group_of(slot: str) -> str:
    """Which parts a slot takes: those of the last group in its name, so that evaluate.scorer.base takes a scorer."""
    return next(word for word in reversed(slot.split(".")) if word in GROUPS)


def is_slot(key: str) -> bool:
    """Whether a part may stand there that is not called as its group is."""
    return key in OPTIONAL or key.endswith(f".{INNER}")


def _made(slot: str, value: object, adjust: Adjust | None) -> object:
    group = group_of(slot)
    target = value.pop("_target_", None) if isinstance(value, dict) else None
    if not isinstance(value, dict) or not isinstance(target, str):
        choices = [value] if value in [*parts(group)] else parts(group)
        raise ValueError(
            f"{slot} needs a part, but got {value!r}. Try {slot if slot == group else f'{group}@{slot}'}="
            f"{'|'.join(choices)}, or a file with `_target_: module.Class` of your own."
        )
    own = OmegaConf.create({slot: _writable(_import(slot, target))})  # under its slot, so that errors name the full key
    merged = _merged(own, OmegaConf.create({slot: value}))
    if adjust is not None:
        adjust(slot, merged[slot])
    made = instance(merged)
    assert isinstance(made, dict)
    return made[slot]


def instance(node: DictConfig) -> object:
    try:
        return OmegaConf.to_object(node)
    except FrozenInstanceError as error:  # Hydra's +key=value went past the schema
        raise ValueError(_added(node, str(error).rpartition(" ")[2].strip("'"))) from error


def _added(node: DictConfig, name: str) -> str:
    """What is wrong with a key that was added, and what it may have been meant to be."""
    parts = [(str(key), child) for key, child in node.items() if isinstance(child, DictConfig) and name in child]
    for slot, part in parts or [("", node)]:
        kind = OmegaConf.get_type(part)
        keys = [field.name for field in fields(kind)] if is_dataclass(kind) else []
        if name not in keys:
            near = get_close_matches(name, keys, n=1, cutoff=0.5)
            where = f"{slot}.{name}" if slot else name
            way_out = f"{slot}.{near[0]}=…" if near else f"leave it out; the keys are {', '.join(keys)}"
            return f"+{where}: there is no such key, and + cannot add one. Fix: {way_out}."
    return f"+{name}: there is no such key, and + cannot add one. Fix: leave it out."


def _import(slot: str, target: str) -> type:
    module, _, name = renamed.target(target).rpartition(".")
    try:
        part = vars(import_module(module))[name]
    except (ImportError, KeyError, ValueError) as error:
        raise ValueError(
            f"{slot}._target_ must be the dotted name of a class, got {target!r}, which cannot be imported: {error!r}. "
            "Try PYTHONPATH=<the folder that holds the module>."
        ) from error
    if not (isinstance(part, type) and is_dataclass(part)):
        raise ValueError(f"{slot}._target_ must name a dataclass, got {target!r}. Try @dataclass(frozen=True) on it.")
    return part


def _writable(part: type) -> DictConfig:
    """The schema of a frozen dataclass, open to overrides: parts are frozen once made, not while they are composed."""
    node = OmegaConf.structured(part)
    assert isinstance(node, DictConfig)
    _thaw(node)
    return node


def _thaw(node: DictConfig | ListConfig) -> None:
    OmegaConf.set_readonly(node, None)
    if OmegaConf.get_type(node) is dict:  # a mapping, and no class: its keys are the user's
        OmegaConf.set_struct(node, False)
    keys: list[Any] = list(node.keys()) if isinstance(node, DictConfig) else list(range(len(node)))
    for child in map(node._get_node, keys):
        if isinstance(child, DictConfig | ListConfig) and not child._is_missing() and not child._is_none():
            _thaw(child)


def _merged(old: DictConfig, new: DictConfig) -> DictConfig:
    merged = OmegaConf.merge(old, new)
    assert isinstance(merged, DictConfig)
    return merged


def _sandbox(name: str) -> str:
    """`${sandbox:policy}`. What builds the world is above this package, and is looked up when it is asked for."""
    return str(vars(import_module(WORLD))["resolve"](name))
