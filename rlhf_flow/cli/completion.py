"""Shell completion of commands, keys and choices."""

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
from rlhf_flow.cli.help import FILES, found_files
from rlhf_flow.cli.ls import KINDS
from rlhf_flow.config.compose import CONFIGS, parts, register
from rlhf_flow.config.schema import GROUPS

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
COMPOSING = {
    "run": "run",
    "doctor": "run",
    "plan": "run",
    "compare": "run",
    "sft": "sft",
    "train-reward": "train-reward",
}


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
    if word.startswith("-"):
        yield from (f"{option} " for option in _options(before[0]))
        return
    if before[0] == "ls":
        yield from (f"{kind} " for kind in KINDS)
    if before[0] not in COMPOSING:
        return
    key, equals, _ = word.partition("=")
    if equals:
        yield from (f"{key}={choice} " for choice in _choices(key, before))
        return
    yield from (f"{group}=" for group in (*GROUPS, *FILES))
    parent = key.rpartition(".")[0]
    node = OmegaConf.select(_composed(before), parent) if parent else _composed(before)
    prefix = f"{parent}." if parent else ""
    names: list[Any] = []
    if isinstance(node, DictConfig | ListConfig):
        names = list(node) if isinstance(node, DictConfig) else list(range(len(node)))
    for name in names:
        child = node._get_node(name)
        yield f"{prefix}{name}{'.' if isinstance(child, DictConfig | ListConfig) else '='}"


def _options(command: str) -> list[str]:
    """The options on the help page of a command."""
    text = {"run": pages.RUN + pages.RUN_EXAMPLES, "serve": pages.SERVE, **pages.OF}.get(command, "")
    return [*dict.fromkeys([*OPTION.findall(text), "--help"])]


def _choices(key: str, before: Sequence[str]) -> list[str]:
    group = key.partition("@")[0]
    if group in (*GROUPS, *FILES):
        return [*(parts(group) if group in GROUPS else ()), *found_files([CONFIGS], group)]
    value = OmegaConf.select(_composed(before), key, throw_on_resolution_failure=False)
    return ["true", "false"] if isinstance(value, bool) else []


def _composed(before: Sequence[str]) -> DictConfig:
    """The configuration with the overrides before the word, or without overrides if these do not compose."""
    register()
    command, *given = before
    typed = [one for one in given if "=" in one and not one.startswith("-")]
    with initialize_config_dir(str(CONFIGS.resolve()), version_base="1.3"):
        for overrides in (typed, []):
            try:
                return compose(COMPOSING[command], overrides=overrides)
            except (HydraException, OmegaConfBaseException, ValueError):
                continue
    return OmegaConf.create({})
