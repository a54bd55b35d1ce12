"""The message for a value that is not of its key's kind, in place of OmegaConf's."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass

from omegaconf import BooleanNode, DictConfig, FloatNode, IntegerNode, ListConfig, OmegaConf, StringNode
from omegaconf.errors import OmegaConfBaseException

from rlhf_flow.config.overrides import literal

EXPECTED: dict[type, str] = {  # the node of a key -> its kind
    BooleanNode: "true or false",
    IntegerNode: "a whole number",
    FloatNode: "a number",
    StringNode: "a text",
    ListConfig: "a list, as [a,b]",
    DictConfig: "a mapping, as {name: value}",
}


def wrong_value(error: OmegaConfBaseException, override: str) -> str:
    """Key, value, the kind that the key expects, and the fix. `override`: the one that failed; empty if unknown."""
    key = re.sub(r"\[(\d+)\]", r".\1", str(error.full_key or error.key))
    outer = override.partition("=")[0].lstrip("+")
    # inside of a value with keys of its own, as in a list, OmegaConf names the last key alone
    where = "" if key.startswith(outer) or outer.startswith(key) else f"{outer}: "
    node, value = error.child_node, _shown(error.value)
    if node is None:  # the value is merged as a whole: a mapping into a list
        node, value = error.parent_node, override.partition("=")[2]
    kind = OmegaConf.get_type(node) if isinstance(node, DictConfig) else None
    if kind is not None and is_dataclass(kind):
        return f"{where}{key}={value}: {key} has keys of its own. Fix: {_inner(key, kind, error.value)}."
    now = _now(node)
    fix = f"{key}={now}" if now else "give one, or leave the key out"
    return f"{where}{key}={value}: expected {EXPECTED.get(type(node), 'another value')}. Fix: {fix}."


def _inner(key: str, kind: type, value: object) -> str:
    """`model.path=x` for model=x; else the keys of the section."""
    names = [field.name for field in fields(kind)]
    if isinstance(value, str) and "path" in names:
        return f"{key}.path={literal(value)}"
    return f"one of {', '.join(f'{key}.{name}' for name in names)}"


def _now(node: object) -> str:
    """The value that a key has without the override; empty if there is none."""
    if not isinstance(node, BooleanNode | IntegerNode | FloatNode | StringNode) or node._is_missing():
        return ""
    value = node._value()
    return "" if value is None else literal(value)


def _shown(value: object) -> str:
    plain = OmegaConf.to_container(value) if isinstance(value, DictConfig | ListConfig) else value
    return literal(plain) if plain is None or isinstance(plain, bool | int | float | list | dict) else str(plain)
