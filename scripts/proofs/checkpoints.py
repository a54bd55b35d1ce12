"""Measure which architectures work with which engine, on tiny random models, and write docs/checkpoints.md.

The learner trains and publishes each model. Both engines then generate greedily in three cases: opened on the start,
given the policy while they run, and opened on the published checkpoint. A cell is "same" if all tokens are those of
plain transformers without a cache, and no log-prob is off by 1e-3 nats.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from families.learned import Learned, by_huggingface, learn
from families.models import FAMILIES, make
from transformers import AutoConfig

from rlhf_flow.config import architectures
from rlhf_flow.specs import Model
from rlhf_flow.weights.source import Adapter
from tests.support.tokenizer import tokenizer

NATS = 1e-3
RANK = 4  # of adapters
COLUMNS = ("transformers", "vLLM: start", "vLLM: live", "vLLM: published", "LoRA, transformers", "LoRA, vLLM")
SERVED = {"vLLM: start": "start", "vLLM: live": "live", "vLLM: published": "fresh"}
HEAD = """# Architectures

What `make matrix` found: tiny random models of each architecture, with `learner=torch`, in float32 on CPU.
*transformers*: `engine=huggingface` answers from the start, from a policy that it is given, and as the engine of a
second run that starts from the published one. *vLLM: start, live, published*: `engine=vllm` opened on the start, given
the policy while it is up, and a fresh one opened on the published folder. *same*: all greedy tokens are those of plain
transformers, and all log-probs within 1e-3 nats. Other architectures may work: the first weights of every engine are
compared with the learner's, and a run whose engine reads others stops before it samples. `rlhf-flow doctor … --load`
measures start and published for a checkpoint of yours.

- Gemma 2: models that cap attention scores are read with transformers' own attention function (torch's has no cap);
  they train on padded rows.
- Models that read images too: vLLM needs torchvision to read their classes, which was not installed here.
- *refused*: `doctor` and `run` refuse it before any worker starts. *fails*: the engine raises an error. A dash: not
  tried, because a column to the left is refused.

"""


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("families", nargs="*", metavar="FAMILY", help=f"some of {', '.join(FAMILIES)} (default: all)")
    asked.add_argument("--output", type=Path, default=Path("docs/checkpoints.md"))
    options = asked.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = table(options.families or list(FAMILIES), Path(folder))
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(HEAD + markdown(rows))
    print(markdown(rows))


def table(names: list[str], folder: Path) -> Mapping[str, Mapping[str, str]]:
    """Cell by family and column."""
    rows: dict[str, dict[str, str]] = {name: {} for name in names}
    learned: dict[str, Learned] = {}
    words = tokenizer()
    for name in names:
        start = make(name, folder / name, words)
        rows[name]["class"] = ", ".join(AutoConfig.from_pretrained(start).architectures)
        for rank, column in ((0, "transformers"), (RANK, "LoRA, transformers")):
            key = f"{name} {rank}"

            def measured(key: str = key, start: Path = start, rank: int = rank) -> float:
                architectures.check(Model(str(start)), engine="huggingface")
                learned[key] = learn(start, folder / key.replace(" ", "-"), rank=rank)
                return by_huggingface(learned[key])

            rows[name][column] = cell(measured)
    refused = {key: why for key, one in learned.items() if (why := _refused_by_vllm(one.start, int(key.split()[1])))}
    found = serve({key: one for key, one in learned.items() if key not in refused}, folder)
    for name in names:
        for column, key in SERVED.items():
            rows[name][column] = refused.get(f"{name} 0") or said(found.get(f"{name} 0", {}), key)
        adapted = f"{name} {RANK}"
        rows[name]["LoRA, vLLM"] = refused.get(adapted) or said(found.get(adapted, {}), "live")
    return rows


def _refused_by_vllm(start: Path, rank: int) -> str:
    """Why a run with this rank of adapters is refused; empty if it is not."""
    try:
        architectures.check(Model(str(start)), engine="vllm", lora_rank=rank)
    except ValueError as error:
        return f"refused: {short(str(error))}"
    return ""


def cell(measure: Callable[[], float]) -> str:
    try:
        return shown(measure())
    except ValueError as error:
        return f"refused: {short(str(error))}"
    except Exception as error:
        return f"fails: {type(error).__name__}: {short(str(error))}"


def said(found: Mapping[str, float | str], key: str) -> str:
    if key in found:
        return shown(float(found[key]))
    return f"fails: {short(str(found['error']))}" if "error" in found else "—"


def shown(nats: float) -> str:
    return "same" if nats < NATS else f"off by {nats:.2g}"


def short(error: str) -> str:
    """The first sentence of an error without the folder, on one line."""
    said = re.sub(r"^(vLLM cannot serve )?model\.path=\S+: ", "", " ".join(error.split()))
    return said.partition(". ")[0].replace("|", "/")[:160]


def serve(learned: Mapping[str, Learned], folder: Path) -> dict[str, dict[str, float | str]]:
    """What processes with vLLM measure, by the names of `learned`.

    Each process opens an architecture once, because vLLM's transformers backend changes the classes of its models.
    """
    adapted = {name: one for name, one in learned.items() if isinstance(one.policy.weights, Adapter)}
    whole = {name: one for name, one in learned.items() if name not in adapted}
    starts = {one.start for one in whole.values()}
    again = {name: one for name, one in adapted.items() if one.start in starts}
    once = {name: one for name, one in learned.items() if name not in again}
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONWARNINGS": "ignore"}
    found: dict[str, dict[str, float | str]] = {}
    for part, some in (("live", once), ("live", again), ("fresh", whole)):
        if not some:
            continue
        file = folder / "learned.pickle"
        file.write_bytes(pickle.dumps(some))
        command = [sys.executable, "-m", "families.served", str(file), part]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        for line in done.stdout.splitlines():
            if line.startswith('{"'):  # vLLM prints lines of its own
                for name, measured in json.loads(line).items():
                    found.setdefault(name, {}).update(measured)
    return found


def markdown(rows: Mapping[str, Mapping[str, str]]) -> str:
    head = ["architecture", *COLUMNS]
    lines = [head, ["---"] * len(head)]
    lines += [
        [f"`{row['class']}` ({name})", *(row.get(column, "—") for column in COLUMNS)] for name, row in rows.items()
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


if __name__ == "__main__":
    main()
