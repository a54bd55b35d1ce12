"""The messages for a name that chooses no part and no file: algorithm=online_dop, reward=x."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches

from rlhf_flow.config.compose import CONFIGS
from rlhf_flow.config.group_files import found_files
from rlhf_flow.config.overrides import literal
from rlhf_flow.config.schema import GROUPS, parts
from rlhf_flow.scorer.functions.loader import is_name

MOST = 3  # suggestions


def no_such_choice(wanted: str, options: list[str]) -> str:
    """For group/name. `options`: the names that Hydra lists, which has none of folders."""
    group, slash, name = wanted.partition("/")
    if not slash:
        return f"there is no configuration {group!r}. Fix: --config-name with one of {', '.join(options) or 'yours'}."
    known = parts(group) if group in GROUPS else ()
    options = list(dict.fromkeys([*options, *known, *found_files([CONFIGS], group)]))
    if meant := _path(group, name):
        return f"{group}={name} is not a known {group}. Fix: {meant}."
    near = nearest(name, options, cutoff=0.5)
    try_this = f"Did you mean {' or '.join(f'{group}={one}' for one in near)}? " if near else ""
    return f"{group}={name} is not a known {group}. {try_this}Try one of {', '.join(options)}."


def not_chosen(message: str) -> str:
    """For Hydra's message about a choice that cannot be made; empty for another message."""
    if message.startswith("Config group override must be"):  # Hydra does not name the group
        value = message.rpartition(" ")[2]
        return f"a part is chosen by its name, and {value} is not one. Fix: group=name, or ~group for no part."
    if listed := re.match(r"Error resolving interpolation '.*\$\{(\w+)\}', possible", message):
        return f"{listed[1]}=[...]: one name is chosen, not a list. Fix: {listed[1]}=name."
    if appended := re.match(r"Could not append to config. An item is already at '(.*)'", message):
        return f"+{appended[1]}: there is such a key, and + is for others. Fix: {appended[1]}=..., without +."
    if folder := re.match(r"Additional config directory '(.*)' not found", message):
        return f"--config-dir={folder[1]}: no such folder. Fix: name the folder of your experiment/."
    if deleted := re.match(r"Could not delete from config. '(.*)' does not exist", message):
        return f"~{deleted[1]}: there is no such key to leave out. Fix: leave ~{deleted[1]} out."
    override = re.search(r"To append to your default list use \+([^=]+)=(.*)", message)
    if override is None:
        return ""
    key, value = override.groups()
    group, _, slot = key.partition("@")
    if slots := re.search(r"Did you mean to override (?:one of )?(.*)\?", message):
        near = nearest(key, slots[1].split(", "), cutoff=0.8)
        try_this = f"Did you mean {near[0]}? " if near else ""
        return f"{key}={value}: {slot} takes no {group}. {try_this}Try one of {slots[1]}."
    if group == "reward":  # as of `rlhf_flow.run(reward=...)`
        return (
            f"{key}={value}: it chooses what rlhf-flow train-reward trains. A run has a scorer. Fix: {_scorer(value)}."
        )
    return f"{key}={value}: no {group} is chosen here. Fix: leave it out."


def nearest(name: str, options: Sequence[str], *, cutoff: float) -> list[str]:
    """The options that a name may mean: those that it is the beginning of, else the most similar one."""
    begun = [option for option in options if name and option.startswith(name)]
    return begun[:MOST] or get_close_matches(name, options, n=1, cutoff=cutoff)


def _path(group: str, name: str) -> str:
    """The key that holds a path or a function, if one was given in place of the name of a part."""
    if not set(name) & set("/."):
        return ""
    return {"prompts": f"prompts.path={literal(name)}", "scorer": _scorer(name)}.get(group, "")


def _scorer(value: str) -> str:
    if is_name(value):
        return f"scorer=rule scorer.function={value}"
    if "/" in value:
        return f"scorer.path={literal(value)}, of a reward model"
    return "scorer=rule scorer.function=module.function, or scorer.path=... of a reward model"
