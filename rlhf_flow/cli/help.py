"""The help pages. `run --help` lists every part there is, read from the parts themselves."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from textwrap import wrap

from rlhf_flow.cli.meanings import meanings
from rlhf_flow.cli.pages import RUN, SERVE
from rlhf_flow.config.compose import CONFIGS, parts
from rlhf_flow.config.schema import GROUPS, RunConfig
from rlhf_flow.specs import Model

WIDTH = 118
NAME = 36  # characters before a meaning
FILES = ("algorithm", "experiment", "stack")  # groups whose choices are files alone

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


def run(arguments: Sequence[str]) -> str:
    """The page of `rlhf-flow run`: the short one, all of it (--help=all), or the pages of what is named.

    `scorer=rule` names a part, `scorer` or `algorithm` a group, `learner.training` what has keys of its own. Files in a
    `--config-dir` among the arguments count.
    """
    folders = [CONFIGS, *_config_dirs(arguments)]
    if "--help=all" in arguments:
        return "\n".join(_everything(folders))
    named = [page for argument in arguments if (page := _page_of(argument, folders))]
    return "\n\n".join(named) if named else "\n".join(_short_page(folders))


def _short_page(folders: Sequence[Path]) -> Iterator[str]:
    yield RUN
    yield "Keys that matter first"
    for key in MATTERS:
        yield from _told(_key(key.rpartition(".")[0] + "." if "." in key else "", _found(key)[1]), meaning_of(key))
    yield ""
    yield "Parts: rlhf-flow run GROUP=NAME --help tells the keys of one, rlhf-flow run GROUP --help what each is"
    for group in FILES:
        yield from _told(f"{group}=", ", ".join(_named(folders, group)))
    for group, sentence in GROUPS.items():
        yield from _told(f"{group}=", f"{sentence}: {', '.join([*parts(group), *_named(folders, group)])}")
    yield ""
    beside = ", ".join(name for name in _sections("", RunConfig) if "." not in name)
    yield "Keys beside the parts: rlhf-flow run NAME --help, with NAME one of"
    yield f"  {beside}"


def _everything(folders: Sequence[Path]) -> Iterator[str]:
    yield RUN
    for group in FILES:
        yield from (f"  {group}=", *_files(folders, group))
    yield "\nParts, and their keys with the defaults"
    for group, sentence in GROUPS.items():
        yield f"  {group}=  {sentence}"
        for name, part in parts(group).items():
            yield from _choice(group, name, part)
        yield from _files(folders, group)
    sections: dict[str, type] = {}
    for group in GROUPS:
        for part in parts(group).values():
            sections |= _sections(f"{group}.", part)
    sections |= {"model": Model} | _sections("", RunConfig)
    yield "\nThe rest"
    for field in fields(RunConfig):
        if field.name not in sections and field.name not in GROUPS:
            yield from _told(_key("", field), meanings(RunConfig).get(field.name, ""))
    told: set[type] = set()  # what is in several places is told once
    for key, part in sections.items():
        if part not in told:
            told.add(part)
            yield from _choice(key, key, part)


def _page_of(argument: str, folders: Sequence[Path]) -> str:
    """What is to be said of one argument; nothing of a value."""
    slot, _, name = argument.partition("=")
    group = slot.partition("@")[0]
    if group in GROUPS and name in parts(group):
        return "\n".join(_whole(group, f"{argument}:", parts(group)[name]))
    if group in GROUPS and not name:
        lines = [f"{group}=  {GROUPS[group]}"]
        for choice, part in parts(group).items():
            lines += _told(choice, _summary(part))
        return "\n".join([*lines, *_files(folders, group)])
    if group in (*GROUPS, *FILES) and (file := _file(folders, group, name)) is not None:
        return f"{argument}:\n{file.read_text().rstrip()}"
    if group in FILES and not name:
        return "\n".join([f"{group}=", *_files(folders, group)])
    sections = {
        key: part for one in GROUPS for each in parts(one).values() for key, part in _sections(f"{one}.", each).items()
    }
    sections |= {"model": Model} | _sections("", RunConfig)
    return "\n".join(_whole(slot, f"{slot}:", sections[slot])) if not name and slot in sections else ""


def _whole(prefix: str, title: str, part: type) -> Iterator[str]:
    """All that is said of a part: its docstring and its keys."""
    yield title
    yield from (f"  {line}".rstrip() for line in (inspect.getdoc(part) or "").splitlines())
    yield ""
    yield from _keys(prefix, part)
    for key, inner in _sections(f"{prefix}.", part).items():
        yield ""
        yield from _whole(key, f"{key}:", inner)


def meaning_of(key: str) -> str:
    """What the comment behind the field of a key says; "" if there is none."""
    part, field = _found(key)
    return meanings(part).get(field.name, "")


def _found(key: str) -> tuple[type, Field[object]]:
    """The class and the field of a key; of a key of a part, of the first part of its group that has it."""
    owner, _, name = key.rpartition(".")
    inside = {"": RunConfig, "model": Model} | _sections("", RunConfig)
    for group in GROUPS:
        for part in parts(group).values():
            inside |= {key: inner for key, inner in _sections(f"{group}.", part).items() if key not in inside}
    homes = [inside[owner]] if owner in inside else list(parts(owner).values())
    return next((home, field) for home in homes for field in fields(home) if field.name == name)


def serve() -> str:
    """The page of `rlhf-flow serve`."""
    lines = [SERVE]
    for name, part in parts("scorer").items():
        lines += _choice("scorer", name, part)
    return "\n".join(lines)


def _choice(group: str, name: str, part: type) -> Iterator[str]:
    yield from _told(name, _summary(part), indent=4)
    yield from _keys(group, part)


def _keys(group: str, part: type) -> Iterator[str]:
    """Each key with its default and its meaning: the comment behind it, or what the class inside of it says."""
    about = meanings(part)
    for field in fields(part):
        inner = _inside(field)
        meaning = about.get(field.name, "") or (_summary(inner) if inner else "")
        yield from _told(_key(f"{group}.", field), meaning, indent=6)


def _told(name: str, meaning: str, *, indent: int = 2) -> Iterator[str]:
    """A name and what it means, folded to the width of the page; a long name has a line of its own."""
    first = f"{'':{indent}}{name}"
    space = "" if len(first) >= NAME - 1 else f"{'':{NAME - len(first)}}"
    if not meaning:
        yield first
        return
    folded = wrap(meaning, WIDTH - NAME, break_long_words=False, break_on_hyphens=False)
    if not space:
        yield first
        yield from (f"{'':{NAME}}{line}" for line in folded)
        return
    yield f"{first}{space}{folded[0]}"
    yield from (f"{'':{NAME}}{line}" for line in folded[1:])


def _summary(part: type) -> str:
    return " ".join((inspect.getdoc(part) or "").split("\n\n")[0].split())


def _sections(prefix: str, part: type) -> dict[str, type]:
    """What is inside of a part that has keys of its own, however deep: by its full key."""
    found: dict[str, type] = {}
    for field in fields(part):
        if (inner := _inside(field)) is not None:
            key = f"{prefix}{field.name}{'.0' if isinstance(_made(field), list) else ''}"
            found[key] = inner
            found |= _sections(f"{key}.", inner)
    return found


def _inside(field: Field[object]) -> type | None:
    """The class of a key that has keys of its own, or whose list has such items."""
    made = _made(field)
    one = made[0] if isinstance(made, list) and made else made
    return type(one) if is_dataclass(one) else None


def _made(field: Field[object]) -> object:
    """What the factory of a field makes; None if it has none."""
    return None if field.default_factory is MISSING else field.default_factory()


def _key(prefix: str, field: Field[object]) -> str:
    if isinstance(field.default, str) and "\n" in field.default:  # a page has no room for a page
        return f"{prefix}{field.name}"
    if field.default is not MISSING:
        return f"{prefix}{field.name}={'null' if field.default is None else field.default}"
    if _inside(field) is not None:
        return f"{prefix}{field.name}.*"
    return f"{prefix}{field.name}{'=...' if field.default_factory is MISSING else ''}"


def _files(folders: Sequence[Path], group: str) -> Iterator[str]:
    """The choices that are files; the first comment of a file says what it is."""
    for file in _found_files(folders, group):
        comments = [line[1:].strip() for line in file.read_text().splitlines() if line.startswith("#")]
        about = [comment for comment in comments if not comment.startswith("@package")]
        yield from _told(file.stem, " ".join(about), indent=4)


def _found_files(folders: Sequence[Path], group: str) -> list[Path]:
    return sorted(file for folder in folders for file in (folder / group).glob("*.yaml"))


def _named(folders: Sequence[Path], group: str) -> list[str]:
    return [file.stem for file in _found_files(folders, group)]


def _file(folders: Sequence[Path], group: str, name: str) -> Path | None:
    return next((file for file in _found_files(folders, group) if file.stem == name), None)


def _config_dirs(arguments: Sequence[str]) -> Iterator[Path]:
    for flag, value in zip(arguments, [*arguments[1:], ""], strict=True):
        if flag in ("--config-dir", "-cd"):
            yield Path(value)
        elif flag.startswith("--config-dir="):
            yield Path(flag.partition("=")[2])
