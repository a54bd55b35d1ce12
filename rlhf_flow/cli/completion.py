"""Shell completion of commands, options, keys and choices."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlhf_flow.cli import pages
from rlhf_flow.cli.help import KINDS, config_dirs
from rlhf_flow.cli.meanings import values
from rlhf_flow.config.choices import without_hydra
from rlhf_flow.config.compose import CONFIGS, parts
from rlhf_flow.config.group_files import found_files
from rlhf_flow.config.schema import GROUPS
from rlhf_flow.serve.config import register

BASH = """\
_rlhf_flow() {
    local IFS=$'\\n'
    COMPREPLY=($("$1" completion words "${COMP_LINE:0:COMP_POINT}" "$COMP_WORDBREAKS" 2>/dev/null))
}
complete -o nospace -o default -F _rlhf_flow rlhf-flow
"""
ZSH = """\
#compdef rlhf-flow
_rlhf_flow() {
    local -a found
    found=("${(@f)$(rlhf-flow completion words "${(j: :)words[1,CURRENT-1]} $PREFIX" "" 2>/dev/null)}")
    if [[ -n "$found[1]" ]]; then
        compadd -Q -- "${(@)${(@M)found:#* }% }"
        compadd -Q -S '' -- "${(@)found:#* }"
    else
        compset -P 1 '*='
        _files
    fi
}
if [[ "$zsh_eval_context[-1]" == (loadautofunc|shfunc) ]]; then
    _rlhf_flow "$@"
else
    compdef _rlhf_flow rlhf-flow
fi
"""
FISH = """\
function __rlhf_flow_words
    set -l found (rlhf-flow completion words (commandline -cp | string collect) "" 2>/dev/null | string trim -r)
    if set -q found[1]
        printf '%s\\n' $found
    else
        set -l key (commandline -ct | string match -r '^[^=]*=')
        __fish_complete_path (commandline -ct | string replace -r '^[^=]*=' '') | string replace -r '^' "$key"
    end
end
complete -c rlhf-flow -f -a "(__rlhf_flow_words)"
"""
SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}
COMMAND_ENDS = re.compile(r"[;&|]")
OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")
COMPOSING = {  # commands that take keys, and the configuration of the keys
    **dict.fromkeys(("run", "resume", "doctor", "plan", "compare", "eval"), "run"),
    **{command: command for command in ("sft", "train-reward", "serve")},
}
BENCHMARKS = ("alpaca_eval", "mt_bench", "arena_hard")
FOLLOWING: dict[str, Sequence[str]] = {  # what may follow a command, or one of its options
    "completion": (*SCRIPTS,),
    "export": ("pairs", "sft", "labels", "model"),
    "export --dtype": ("bfloat16", "float16", "float32"),
    "eval --export": BENCHMARKS,
    "eval --import": BENCHMARKS,
    "compare --recipes": (*found_files([CONFIGS], "algorithm"),),
    "compare --world": ("sandbox", "cyclic"),
    "judgements": ("list", "prune", "export"),
    "ls": (*KINDS,),
}
SEVERAL = ("ls", "compare --recipes")  # take more than one of them


def words(line: str, breaks: str, commands: Sequence[str]) -> list[str]:
    """Completions of the last word of `line`, from its last break on, as bash expects them.

    `breaks`: the characters at which the shell splits words; empty for zsh and fish, which take whole words.
    """
    *before, word = COMMAND_ENDS.split(line)[-1].split(" ")
    before = [one for one in before if one]
    names = [Path(one).name for one in before]
    before = before[names.index("rlhf-flow") + 1 if "rlhf-flow" in names else 1 :]  # after `sudo`, `and`, `NAME=value`
    found = [one for one in _candidates(before, word, commands) if one.startswith(word)]
    cut = max((word.rfind(at) for at in breaks if at in "=:@"), default=-1) + 1
    return sorted(one[cut:] for one in dict.fromkeys(found))


def _candidates(before: Sequence[str], word: str, commands: Sequence[str]) -> Iterator[str]:
    if not before:
        yield from (f"{command} " for command in commands)
        return
    option, equals, _ = word.partition("=")
    if word.startswith("-"):
        given = FOLLOWING.get(f"{before[0]} {option}", ()) if equals else ()
        yield from [f"{option}={value} " for value in given] or [f"{each} " for each in _options(before[0])]
        return
    yield from (f"{each} " for each in _following(before))
    if before[0] in COMPOSING and f"{before[0]} {before[-1]}" not in FOLLOWING:
        yield from _choices(before, word) if equals else _keys(before, word)


def _following(before: Sequence[str]) -> Sequence[str]:
    """The words that may follow the command, or its last option."""
    at = max((at for at, word in enumerate(before) if word.startswith("--")), default=0)
    asked = " ".join((before[0], before[at])) if at else before[0]
    return FOLLOWING.get(asked, ()) if at == len(before) - 1 or asked in SEVERAL else ()


def _keys(before: Sequence[str], word: str) -> Iterator[str]:
    composed, groups = _composed(before)
    yield from (f"{group}=" for group in groups)
    parent = word.rpartition(".")[0]
    node = OmegaConf.select(composed, parent) if parent else composed
    prefix = f"{parent}." if parent else ""
    names: list[Any] = []
    if isinstance(node, DictConfig | ListConfig):
        names = list(node) if isinstance(node, DictConfig) else list(range(len(node)))
    for name in names:
        child = node._get_node(name)
        yield f"{prefix}{name}{'.' if isinstance(child, DictConfig | ListConfig) else '='}"


def _choices(before: Sequence[str], word: str) -> Iterator[str]:
    """The words that complete a value, or the last one of the values that a sweep takes."""
    key, _, typed = word.partition("=")
    first = f"{key}={typed[: typed.rfind(',') + 1]}"
    yield from (f"{first}{choice} " for choice in _values(before, key))


def _values(before: Sequence[str], key: str) -> Sequence[str]:
    group = key.partition("@")[0]
    if group in KINDS:
        files = found_files([CONFIGS, *map(Path, config_dirs(before))], group)
        return [*(parts(group) if group in GROUPS else ()), *files]
    composed, _ = _composed(before)
    if isinstance(OmegaConf.select(composed, key, throw_on_resolution_failure=False), bool):
        return ("true", "false")
    parent, _, name = key.rpartition(".")
    section = OmegaConf.select(composed, parent) if parent else composed
    part = OmegaConf.get_type(section) if isinstance(section, DictConfig) else None
    return () if part is None else values(part, name)


def _options(command: str) -> list[str]:
    """The options on the help page of a command."""
    text = pages.OF.get(command, "")
    return [*dict.fromkeys([*OPTION.findall(text), "--help"])]


def _composed(before: Sequence[str]) -> tuple[DictConfig, list[str]]:
    """The configuration with the overrides before the word, or without overrides if these do not compose; its groups.

    A group is scorer, or scorer@evaluate.scorer.
    """
    register()
    command, *given = before
    typed = [one for one in given if "=" in one and not one.startswith("-")]
    with initialize_config_dir(str(CONFIGS.resolve()), version_base="1.3"):
        for overrides in (typed, []):
            try:
                composed = compose(COMPOSING[command], overrides=overrides, return_hydra_config=True)
            except (HydraException, OmegaConfBaseException, ValueError):
                continue
            slots = [str(slot) for slot in composed.hydra.runtime.choices]
            return without_hydra(composed), [slot for slot in slots if slot.partition("@")[0] in KINDS]
    return OmegaConf.create({}), []
