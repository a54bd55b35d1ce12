"""The help pages of commands that take keys, which list parts and keys from the classes themselves."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from difflib import get_close_matches
from itertools import pairwise, takewhile
from pathlib import Path
from textwrap import wrap

from hydra.errors import MissingConfigException

from rlhf_flow.cli.arguments import folder, help_wanted, is_key
from rlhf_flow.cli.meanings import meanings
from rlhf_flow.cli.pages import OF, RUN, RUN_EXAMPLES, SERVE
from rlhf_flow.config.compose import CONFIGS, parts
from rlhf_flow.config.group_files import found_files
from rlhf_flow.config.schema import GROUPS, RunConfig
from rlhf_flow.specs import Model

WIDTH = 118
NAME = 36  # characters before a meaning
LONG = 60  # characters of a default that is not shown
FILES = {  # groups whose choices are files only
    "algorithm": "the recipe of a paper (sampler, selector, objective, schedule)",
    "experiment": "a complete run: in the sandbox world, or of a published recipe",
    "stack": "engine, learner and cluster for this kind of machine",
}

KINDS = FILES | {"reward": "what rlhf-flow train-reward trains"} | GROUPS
TAKE_A_VALUE = ("--config-dir", "-cd", "--config-name", "-cn", "--memory", "--gpus", "--like")  # options
MATTERS = (  # the keys of a first run
    "model.path",
    "prompts.path",
    "scorer.path",
    "run_dir",
    "rounds",
    "prompts.batch",
    "answers.n",
    "answers.max_tokens",
    "learner.training.optimizer.lr",
    "objective.beta",
)


def page(command: str, arguments: Sequence[str]) -> str:
    """The page of a command that takes keys: the short one, the whole (--help=all), or the pages of the arguments.

    Pages exist for a part (`scorer=rule`), a group (`scorer`, `algorithm`) and a section of keys (`learner.training`).
    They include files in a `--config-dir` among the arguments. Raises ValueError, or an error of Hydra, for a name that
    is none of these.
    """
    folders = [CONFIGS, *map(folder, config_dirs(arguments))]
    if help_wanted(arguments) == "all":
        return "\n".join(_everything(command, folders))
    named = [page for argument in _named(arguments) if (page := _page_of(argument, folders))]
    return "\n\n".join(named) if named else "\n".join(_short_page(command, folders))


def _named(arguments: Sequence[str]) -> Iterator[str]:
    """The arguments without options and their values, and each value of a sweep."""
    for before, argument in pairwise(["", *arguments]):
        if argument.startswith("-") or (before in TAKE_A_VALUE and "=" not in before):
            continue
        key, equals, names = argument.partition("=")
        yield from (f"{key}{equals}{name}" for name in names.split(","))


def _short_page(command: str, folders: Sequence[Path]) -> Iterator[str]:
    if command == "serve":
        yield SERVE
        yield "Scorers: rlhf-flow ls scorer describes each, rlhf-flow serve scorer=NAME --help has the keys of one"
        yield from wrap(", ".join(parts("scorer")), WIDTH, initial_indent="  ", subsequent_indent="  ")
    elif command != "run":
        yield OF[command]
    else:
        yield from _short_page_of_run(folders)


def _short_page_of_run(folders: Sequence[Path]) -> Iterator[str]:
    yield RUN
    yield "Keys that matter first"
    for key in MATTERS:
        yield from _entry(_key(key.rpartition(".")[0] + "." if "." in key else "", _found(key)[1]), meaning_of(key))
    yield RUN_EXAMPLES
    yield "Choices, and how many: rlhf-flow ls GROUP lists them, rlhf-flow run GROUP=NAME --help has the keys of one"
    for group, sentence in (FILES | GROUPS).items():
        names = len(found_files(folders, group)) + len(parts(group) if group in GROUPS else ())
        yield from _entry(f"{group}=", f"{sentence}: {names}")
    yield ""
    yield "Other keys: rlhf-flow run NAME --help, with NAME one of"
    yield f"  {', '.join(name for name in _sections('', RunConfig) if '.' not in name)}"


def _everything(command: str, folders: Sequence[Path]) -> Iterator[str]:
    yield OF[command]
    if command == "serve":
        yield "Scorers, and their keys with the defaults"
        for name, part in parts("scorer").items():
            yield from _choice("scorer", name, part)
        return
    for group, sentence in FILES.items():
        yield from (f"  {group}=  {sentence}", *_files(folders, group))
    yield "\nParts, and their keys with the defaults"
    for group, sentence in GROUPS.items():
        yield f"  {group}=  {sentence}"
        for name, part in parts(group).items():
            yield from _choice(group, name, part)
        yield from _files(folders, group)
    sections = _all_sections()
    yield "\nOther keys"
    for field in fields(RunConfig):
        if field.name not in sections and field.name not in GROUPS:
            yield from _entry(_key("", field), meanings(RunConfig).get(field.name, ""))
    listed: set[type] = set()  # a class in several places is listed once
    for key, part in sections.items():
        if part not in listed:
            listed.add(part)
            yield from _choice(key, key, part)


def _page_of(argument: str, folders: Sequence[Path]) -> str:
    """The page of one argument; empty for a value. Raises an error for a name that there is not."""
    slot, equals, name = argument.partition("=")
    group = slot.partition("@")[0]
    if group in GROUPS and name in parts(group):
        return "\n".join(_whole(group, f"{argument}:", parts(group)[name]))
    if group in GROUPS and not name:
        lines = [f"{group}=  {GROUPS[group]}"]
        for choice, part in parts(group).items():
            lines += _entry(choice, summary(part))
        return "\n".join([*lines, *_files(folders, group)])
    if group in KINDS and (file := found_files(folders, group).get(name)) is not None:
        return f"{argument}:\n{file.read_text().rstrip()}"
    if group in KINDS and not name:
        return "\n".join([f"{group}=  {KINDS[group]}", *_files(folders, group)])
    if group in KINDS and name != "null":
        known = [*(parts(group) if group in GROUPS else ()), *found_files(folders, group)]
        raise MissingConfigException("", missing_cfg_file=f"{group}/{name}", options=known)
    sections = _all_sections()
    if not equals and slot not in sections and not is_key(argument):
        names = (*KINDS, *sections)
        near = "".join(f" Did you mean {each}?" for each in get_close_matches(slot, names, n=1))
        raise ValueError(f"{slot}: no group and no section of keys has this name.{near} Try rlhf-flow run --help.")
    return "\n".join(_whole(slot, f"{slot}:", sections[slot])) if not name and slot in sections else ""


def _whole(prefix: str, title: str, part: type) -> Iterator[str]:
    """The docstring and the keys of a part."""
    yield title
    yield from (f"  {line}".rstrip() for line in (inspect.getdoc(part) or "").splitlines())
    yield ""
    yield from _keys(prefix, part)
    for key, inner in _sections(f"{prefix}.", part).items():
        yield ""
        yield from _whole(key, f"{key}:", inner)


def meaning_of(key: str) -> str:
    """The comment after the field of a key; empty if there is none."""
    part, field = _found(key)
    return meanings(part).get(field.name, "")


def _found(key: str) -> tuple[type, Field[object]]:
    """The class and the field of a key. For a key of a group, the first part of the group that has it."""
    owner, _, name = key.rpartition(".")
    sections = {"": RunConfig} | _all_sections()
    homes = [sections[owner]] if owner in sections else list(parts(owner).values())
    return next((home, field) for home in homes for field in fields(home) if field.name == name)


def _choice(group: str, name: str, part: type) -> Iterator[str]:
    yield from _entry(name, summary(part), indent=4)
    yield from _keys(group, part)


def _keys(group: str, part: type) -> Iterator[str]:
    """Each key with its default and its meaning: the comment after it, or the docstring of its class."""
    about = meanings(part)
    for field in fields(part):
        inner = _inside(field)
        meaning = about.get(field.name, "") or (summary(inner) if inner else "")
        yield from _entry(_key(f"{group}.", field), meaning, indent=6)


def _entry(name: str, meaning: str, *, indent: int = 2) -> Iterator[str]:
    """A name and its meaning, wrapped to the width of the page; a long name has its own line."""
    lines = wrap(meaning, WIDTH - NAME, break_long_words=False, break_on_hyphens=False)
    first = f"{'':{indent}}{name}"
    if lines and len(first) < NAME - 1:
        first = f"{first:{NAME}}{lines.pop(0)}"
    yield first
    yield from (f"{'':{NAME}}{line}" for line in lines)


def summary(part: type) -> str:
    """The first paragraph of the docstring of a part."""
    return " ".join((inspect.getdoc(part) or "").split("\n\n")[0].split())


def _all_sections() -> dict[str, type]:
    """The classes of all keys with keys of their own, of parts and of the configuration."""
    found: dict[str, type] = {}
    for group in GROUPS:
        for part in parts(group).values():
            found = _sections(f"{group}.", part) | found  # the first part of a group wins
    return found | {"model": Model} | _sections("", RunConfig)


def _sections(prefix: str, part: type) -> dict[str, type]:
    """The classes of all keys of a part that have keys of their own, by full key."""
    found: dict[str, type] = {}
    for field in fields(part):
        if (inner := _inside(field)) is not None:
            key = f"{prefix}{field.name}{'.0' if isinstance(_made(field), list) else ''}"
            found[key] = inner
            found |= _sections(f"{key}.", inner)
    return found


def _inside(field: Field[object]) -> type | None:
    """The class of a key, or of the items of its list, that has keys of its own."""
    made = _made(field)
    one = made[0] if isinstance(made, list) and made else made
    return type(one) if is_dataclass(one) else None


def _made(field: Field[object]) -> object:
    """The default that the factory of a field makes; None without a factory."""
    return None if field.default_factory is MISSING else field.default_factory()


def _key(prefix: str, field: Field[object]) -> str:
    if isinstance(field.default, str) and ("\n" in field.default or len(field.default) > LONG):
        return f"{prefix}{field.name}"
    if field.default is not MISSING:
        return f"{prefix}{field.name}={'null' if field.default is None else field.default}"
    if _inside(field) is not None:
        return f"{prefix}{field.name}.*"
    return f"{prefix}{field.name}{'=...' if field.default_factory is MISSING else ''}"


def _files(folders: Sequence[Path], group: str) -> Iterator[str]:
    """The choices that are files, with their comments."""
    for name, file in found_files(folders, group).items():
        yield from _entry(name, about(file), indent=4)


def about(file: Path) -> str:
    """The comments of a file at the beginning of a line, up to its sources."""
    comments = [line[1:].strip() for line in file.read_text().splitlines() if line.startswith("#")]
    told = takewhile(lambda comment: not comment.startswith("source:"), comments)
    return " ".join(comment for comment in told if not comment.startswith("@package"))


def config_dirs(arguments: Sequence[str]) -> Iterator[str]:
    """The folders of --config-dir."""
    for flag, value in pairwise([*arguments, ""]):
        if flag in ("--config-dir", "-cd"):
            yield value
        elif flag.startswith("--config-dir="):
            yield flag.partition("=")[2]
