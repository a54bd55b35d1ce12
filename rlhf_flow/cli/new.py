"""`rlhf-flow new my_lab`: a working package of one's own: a reward function, prompts, an experiment and a test."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from keyword import iskeyword
from pathlib import Path

REWARDS = '''\
"""Reward functions: (prompt, answer, meta) -> float, higher is better. None abstains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rlhf_flow.types import Message


def short_and_polite(prompt: Sequence[Message], answer: str, meta: Mapping[str, object]) -> float:
    """1 for an answer that says please or thank you, less 0.01 for each word. `meta` has the row's other columns."""
    polite = any(word in answer.lower() for word in ("please", "thank you"))
    return polite - 0.01 * len(answer.split())
'''
EXPERIMENT = """\
# @package _global_
# The experiment of {name}: its prompts and its reward function.
# Run it from the folder that holds {name}: rlhf-flow run --config-dir {name}/conf experiment={name}
defaults:
  - override /scorer: rule
  - override /cluster: local # these three are stack=local: one process; stack=cpu or stack=gpu takes vLLM and Ray
  - override /engine: huggingface
  - override /learner: torch

run_dir: runs/{name}
model: {{path: "${{sandbox:policy}}"}} # the policy of `rlhf-flow sandbox`; put your own here
prompts: {{path: {name}/prompts.jsonl, batch: 16, held_out: 8}}
scorer: {{function: {name}.rewards.short_and_polite}}
answers: {{n: 4, max_tokens: 64}}
rounds: 2
"""
TEST = '''\
"""pytest {name}: the reward prefers what it should, and the experiment fits together."""

from __future__ import annotations

from pathlib import Path

import rlhf_flow as rf
from {name}.rewards import short_and_polite

CONF = Path(__file__).parent / "conf"


def test_the_reward_prefers_short_and_polite_answers() -> None:
    polite, blunt, long = "Of course, thank you.", "No.", "Thank you. " + "And so on. " * 40
    assert short_and_polite((), polite, {{}}) > short_and_polite((), blunt, {{}}) > short_and_polite((), long, {{}})


def test_the_experiment_composes() -> None:
    """Without its model; `rlhf-flow doctor` also opens model and prompts."""
    run = rf.run(model="any/model", keys=["experiment={name}"], config_dir=CONF)
    assert run.config.scorer.function == "{name}.rewards.short_and_polite"
'''
SUBJECTS = ("a letter to a neighbour", "a late parcel", "the weather", "a broken lamp", "a birthday", "the next train")
ASKED = ("Write one sentence about {}.", "What would you say about {}?", "Explain {} to a child.", "Ask about {}.")


def main(arguments: Sequence[str]) -> int:
    """Write the package. Raises ValueError if the name is none of a package or of another one, or the folder exists."""
    if len(arguments) != 1 or not _is_package(Path(arguments[0]).name):
        raise ValueError("new takes the name of a Python package. Fix: rlhf-flow new my_lab.")
    folder = Path(arguments[0])
    if _is_installed(folder.name):
        raise ValueError(
            f"new {folder.name}: Python has a module of this name, which the folder would hide. "
            f"Fix: rlhf-flow new {folder.name}_lab."
        )
    write(folder)
    here = "" if folder.parent == Path() else f"cd {folder.parent} && "
    name = folder.name
    print(
        f"{folder}: a reward function (rewards.py), prompts.jsonl, conf/experiment/{name}.yaml and test_{name}.py\n"
        f"  {here}python -m pytest {name}\n"
        f"  {here}rlhf-flow run --config-dir {name}/conf experiment={name}"
    )
    return 0


def _is_package(name: str) -> bool:
    return name.isidentifier() and not iskeyword(name)


def _is_installed(name: str) -> bool:
    """Whether Python finds a module of this name, other than one in this folder."""
    spec = find_spec(name)
    found = [] if spec is None else spec.submodule_search_locations or [spec.origin or ""]
    return name in sys.stdlib_module_names or any(Path(place).parent != Path.cwd() for place in found)


def write(folder: Path) -> None:
    """Raises ValueError if the folder exists."""
    name = folder.name
    prompts = [how.format(subject) for how in ASKED for subject in SUBJECTS]
    files = {
        "__init__.py": f'"""The lab {name}."""\n',
        "rewards.py": REWARDS,
        "prompts.jsonl": "".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts),
        f"conf/experiment/{name}.yaml": EXPERIMENT.format(name=name),
        f"test_{name}.py": TEST.format(name=name),
    }
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise ValueError(f"{folder} cannot be written: {error}. Fix: rlhf-flow new another_name.") from error
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
