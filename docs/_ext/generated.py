"""Write reference/keys/*.md and reference/python.md before Sphinx reads the sources: both come from the code."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from textwrap import dedent

from sphinx.application import Sphinx

import rlhf_flow
from rlhf_flow import protocols, specs, types, verify
from rlhf_flow.cli.meanings import meanings
from rlhf_flow.config.compose import CONFIGS
from rlhf_flow.config.schema import GROUPS, RunConfig, parts
from rlhf_flow.scorer import shipped
from rlhf_flow.specs import Model
from rlhf_flow.verify import objective_check

Row = tuple[str, str, str, str]  # key, type, default, meaning
EXTENSION = ("Objective", "Sampler", "Selector", "Schedule", "Engine", "Learner", "Scorer", "PromptSource", "Observer")
SPECS = ("EngineSpec", "LearnerSpec", "ScorerSpec", "Cluster")


def write(app: Sphinx) -> None:
    """Write all generated pages below the source folder."""
    reference = Path(app.srcdir) / "reference"
    (reference / "keys").mkdir(exist_ok=True)
    pages = {"keys/run.md": run_page(), **{f"keys/{group}.md": group_page(group) for group in GROUPS}}
    for name, text in (pages | {"python.md": python_page()}).items():
        path = reference / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:  # unchanged pages are not read again
            path.write_text(text, encoding="utf-8")


# -- configuration keys -----------------------------------------------------------------------------------------------


def run_page() -> str:
    """The keys that belong to no part."""
    lines = ["# Keys of a run", "", "Keys that belong to no part: `rlhf-flow run rounds=8 answers.n=4 ...`.", ""]
    inner = {**_inner(RunConfig), "model": Model}
    own = [field for field in fields(RunConfig) if field.name not in {*GROUPS, *inner}]
    lines += _table(_rows("", RunConfig, own))
    for name, part in inner.items():
        lines += _section(name, part, 2)
    return "\n".join(lines)


def group_page(group: str) -> str:
    """All choices of an extension point, and their keys."""
    lines = [f"# `{group}=`", "", f"{GROUPS[group][0].upper()}{GROUPS[group][1:]}.", ""]
    for name, part in parts(group).items():
        lines += [f"## `{group}={name}`", "", *_about(part), *_table(_rows(f"{group}.", part, fields(part)))]
        for key, inner in _inner(part).items():
            lines += _section(f"{group}.{key}", inner, 3)
    files = sorted((CONFIGS / group).glob("*.yaml"))
    if files:
        lines += ["## Choices that are files", ""]
    for file in files:
        lines += [f"`{group}={file.stem}`", "", "```yaml", file.read_text(encoding="utf-8").rstrip(), "```", ""]
    return "\n".join(lines)


def _section(key: str, part: type, level: int) -> list[str]:
    lines = [f"{'#' * level} `{key}`", "", *_about(part), *_table(_rows(f"{key}.", part, fields(part)))]
    for name, inner in _inner(part).items():
        lines += _section(f"{key}.{name}", inner, level + 1)
    return lines


def _about(part: type) -> list[str]:
    return [*(inspect.getdoc(part) or "").splitlines(), ""]


def _rows(prefix: str, part: type, listed: tuple[Field[object], ...] | list[Field[object]]) -> Iterator[Row]:
    about = meanings(part)
    inner = _inner(part)
    for field in listed:
        if field.name not in inner:
            yield f"{prefix}{field.name}", str(field.type), _default(field), about.get(field.name, "")


def _table(rows: Iterator[Row]) -> list[str]:
    lines = [f"| `{key}` | `{_cell(kind)}` | {_cell(default)} | {_cell(text)} |" for key, kind, default, text in rows]
    return ["| key | type | default | meaning |", "|---|---|---|---|", *lines, ""] if lines else []


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _default(field: Field[object]) -> str:
    if field.default is MISSING and field.default_factory is MISSING:
        return "required"
    value = field.default if field.default_factory is MISSING else field.default_factory()
    if isinstance(value, str) and ("\n" in value or len(value) > 60):
        return "a text"
    if value == "???":
        return "required"
    return f"`{'null' if value is None else value}`" if value != "" else '`""`'


def _inner(part: type) -> Mapping[str, type]:
    """The keys that hold keys of their own; of a list of such, key.0."""
    found: dict[str, type] = {}
    for field in fields(part):
        made = None if field.default_factory is MISSING else field.default_factory()
        one = made[0] if isinstance(made, list) and made else made
        if is_dataclass(one):
            found[f"{field.name}.0" if isinstance(made, list) else field.name] = type(one)
    return found


# -- Python -----------------------------------------------------------------------------------------------------------


def python_page() -> str:
    """The names that users import."""
    lines = ["# Python names", "", "Names that stay: everything else may move between minor versions.", ""]
    lines += ["## `rlhf_flow`", "", "[How to use it](../how-to/python.md).", ""]
    lines += [
        *_documented("run", rlhf_flow.run),
        *_documented("resume", rlhf_flow.resume),
        *_class("Run", rlhf_flow.Run),
    ]
    lines += _documented("verify", objective_check.verify)
    lines += ["## `rlhf_flow.scorer.shipped`", "", "Functions for `scorer=rule` and `scorer=rules`.", ""]
    for name, one in sorted(vars(shipped).items()):
        if inspect.isfunction(one) and not name.startswith("_"):
            lines += _documented(name, one)
    lines += ["## `rlhf_flow.verify`", "", *_text(verify), ""]
    lines += ["## `rlhf_flow.protocols`", "", "What each extension point promises.", ""]
    for name in EXTENSION:
        if name in vars(protocols):
            lines += _protocol(vars(protocols)[name])
    lines += ["## `rlhf_flow.specs`", "", "Configuration of a worker, which a cluster opens.", ""]
    for name in SPECS:
        lines += _protocol(vars(specs)[name])
    lines += ["## `rlhf_flow.types`", "", "The values that parts exchange.", ""]
    for name, one in vars(types).items():
        if inspect.isclass(one) and one.__module__ == types.__name__:
            lines += [f"### `{name}`", "", *_source(one)]
    return "\n".join(lines)


def _documented(name: str, function: object) -> list[str]:
    assert callable(function)
    return [f"### `{name}`", "", "```python", f"{name}{inspect.signature(function)}", "```", "", *_text(function), ""]


def _class(name: str, one: type) -> list[str]:
    """The docstring of a class, and of its public methods and properties."""
    lines = [f"### `{name}`", "", *_text(one), ""]
    for member, value in vars(one).items():
        if not member.startswith("_") and inspect.getdoc(value):
            lines += [f"#### `{name}.{member}{_signature(value)}`", "", *_text(value), ""]
    return lines


def _signature(value: object) -> str:
    return str(inspect.signature(value)).replace("self, ", "").replace("self", "") if callable(value) else ""


def _protocol(one: type) -> list[str]:
    return [f"### `{one.__name__}`", "", *_source(one)]


def _source(one: type) -> list[str]:
    return ["```python", dedent(inspect.getsource(one)).rstrip(), "```", ""]


def _text(one: object) -> list[str]:
    return (inspect.getdoc(one) or "").splitlines()


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
