"""Compare the measured memory of learners and engines with `rlhf-flow plan`, each in its own process.

    python scripts/bench/memory.py                    the sandbox world, and a random model of 135 million weights
    python scripts/bench/memory.py --models world --workers torch huggingface

A fresh process opens a worker and does the work of two rounds, with every sequence as long as the configuration allows.
`measured` is the highest resident set (VmHWM of /proc/self/status, reset between phases by /proc/self/clear_refs) in
the phase that took the most. `libraries` is the resident set of a second fresh process, which imports the same
packages, opens the same worker on a model of seventy thousand weights and does the same work in small batches. The plan
is given this number, because no formula predicts it. `own` is predicted and measured memory without the libraries; only
this part tests the formulas.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlhf_flow.capacity.process_memory import Memory

WORKERS = ("torch", "deepspeed", "huggingface", "vllm")
MODELS = ("world", "large")
MIB = 1 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--workers", nargs="+", default=WORKERS, choices=WORKERS)
    parser.add_argument("--phases", action="store_true", help="also print a line for each phase")
    parser.add_argument("--measure", nargs=2, metavar=("WORKER", "MODEL"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        print(json.dumps(measure(*asked.measure)))
        return
    print(
        f"{'worker':12} {'model':7} {'MiB:':>5} {'libraries':>9} {'predicted':>9} {'measured':>9} {'ratio':>6}", end=""
    )
    print(f" {'own predicted':>14} {'own measured':>13} {'ratio':>6}")
    for worker in asked.workers:
        libraries = max(in_a_process(worker, "empty").values())
        for model in asked.models:
            compare(worker, model, libraries, in_a_process(worker, model), phases=asked.phases)


def compare(worker: str, model: str, libraries: float, measured: dict[str, float], *, phases: bool) -> None:
    memory = predicted(worker, model)
    said, found = memory.bytes / MIB, max(measured.values())
    print(
        f"{worker:12} {model:7} {'':5} {libraries:9.0f} {said + libraries:9.0f} {found:9.0f} "
        f"{(said + libraries) / found:6.2f} {said:14.0f} {found - libraries:13.0f} {said / (found - libraries):6.2f}",
        flush=True,
    )
    for phase, high in measured.items() if phases else ():
        of_it = max((one.bytes / MIB for one in memory.phases if one.name.startswith(phase)), default=0.0)
        print(f"    {phase:12} own predicted {of_it:7.0f}  measured {high - libraries:7.0f}")


def in_a_process(worker: str, model: str) -> dict[str, float]:
    """The highest resident set of each phase, MiB."""
    command = [sys.executable, __file__, "--measure", worker, model]
    quiet = os.environ | {"PYTHONWARNINGS": "ignore", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=quiet, capture_output=True, text=True, timeout=900)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


# -- configuration ----------------------------------------------------------------------------------------------------


def composed(worker: str, model: str, folder: str) -> Any:  # noqa: ANN401  # a RunConfig; imported where it is needed
    """The sandbox run in one process, with this worker and this model."""
    from rlhf_flow.config import compose as config

    slot = "learner" if worker in ("torch", "deepspeed") else "engine"
    overrides = ["experiment=sandbox", "cluster=ray", "learner=torch", "engine=huggingface", f"run_dir={folder}"]
    asked = config.compose(*overrides, f"{slot}={worker}")
    pairs, chunk = {"world": (16, 1024), "large": (4, 1024), "empty": (1, 16)}[model]
    training = replace(asked.learner.training, batch=2 * pairs, micro_batch=pairs, chunk=chunk, epochs=1)
    asked = replace(asked, learner=replace(asked.learner, training=training))
    if worker == "huggingface":
        asked = replace(asked, engine=replace(asked.engine, batch=4 if model == "empty" else 64))
    if model == "world":
        return asked
    return replace(asked, model=replace(asked.model, path=str(generated(model, Path(asked.model.path)))))


def generated(name: str, world: Path) -> Path:
    """A random Llama with the sandbox tokenizer, made once: `large` is about the size of GPT-2, `empty` is tiny."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    width, layers, rows = {"large": (768, 12, 32768), "empty": (32, 1, 941)}[name]
    folder = Path(tempfile.gettempdir()) / f"rlhf-flow-memory-{name}-{os.getuid()}"
    if not (folder / "config.json").exists():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=rows,
            hidden_size=width,
            intermediate_size=width * 8 // 3,
            num_hidden_layers=layers,
            num_attention_heads=max(1, width // 64),
            num_key_value_heads=max(1, width // 64),
            max_position_embeddings=512,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=2,
            tie_word_embeddings=False,
        )
        tokenizer = AutoTokenizer.from_pretrained(world)
        LlamaForCausalLM(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


def predicted(worker: str, model: str) -> Memory:
    """The prediction of the plan, without the libraries."""
    from rlhf_flow.capacity.learner_memory import learner_memory
    from rlhf_flow.capacity.model_shape import shape_of
    from rlhf_flow.capacity.worker_memory import engine_memory
    from rlhf_flow.capacity.workload import work_of

    with tempfile.TemporaryDirectory() as folder:
        asked = composed(worker, model, folder)
        shape = shape_of(asked.model.path)
        work = work_of(asked, prompts_of(asked))
        if worker in ("torch", "deepspeed"):
            return learner_memory(asked, shape, work, on_gpu=False)
        return engine_memory(asked, shape, work, on_gpu=False)


def prompts_of(asked: Any) -> Any:  # noqa: ANN401  # a PromptSource
    from transformers import AutoTokenizer

    return asked.prompts.open(AutoTokenizer.from_pretrained(asked.model.path), seed=asked.seed)


# -- measurement ------------------------------------------------------------------------------------------------------


def measure(worker: str, model: str) -> dict[str, float]:
    found: dict[str, float] = {}

    @contextmanager
    def phase(name: str) -> Iterator[None]:
        Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark to the current resident set
        yield
        (kib,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        found[name] = max(found.get(name, 0.0), int(kib) / 1024)

    with tempfile.TemporaryDirectory() as folder:
        asked = composed(worker, model, folder)
        (learns if worker in ("torch", "deepspeed") else draws)(asked, Path(folder), phase)
    return found


def learns(asked: Any, folder: Path, phase: Any) -> None:  # noqa: ANN401
    """Two rounds of a learner. In the second, the learner does not hold the weights of the anchor."""
    from rlhf_flow.specs import Place
    from rlhf_flow.types import Policy
    from rlhf_flow.weights.source import Checkpoint

    start = Policy("policy", 0, "the start", Checkpoint(Path(asked.model.path)))
    with phase("open"):
        learner = asked.learner.open(asked.model, Place())
        learner.start(start)
    policy = start
    for round in (1, 2):
        responses, pairs = tables(asked, folder / str(round), round)
        learner.start(policy)
        with phase("anchors"):
            logps = learner.logps([responses], responses.read(["response"])["response"].to_pylist(), start)
        lesson = lesson_of(asked, round, responses, pairs, written(logps, folder / f"anchors{round}"), start)
        with phase("learn"):
            learner.update(lesson, 0, learner.steps(lesson))
        with phase("save"):
            learner.save_state(folder / f"state{round}")
        with phase("publish"):
            policy = learner.publish("policy", round)
            learner.save_policy(folder / f"policy{round}")


def tables(asked: Any, folder: Path, round: int) -> Any:  # noqa: ANN401
    """Pairs for two optimizer steps, all of maximum length."""
    import pyarrow as pa

    from rlhf_flow.storage import parquet as rows

    longest, answer = prompts_of(asked).longest, max(draw.max_tokens for draw in asked.sampler.drawn.values())
    names = [f"p{p}" for p in range(2 * asked.learner.training.batch)]
    responses = [
        {"response": f"{k}{name}", "prompt_tokens": [3 + p % 200] * longest, "tokens": [4 + p % 300 + k] * answer}
        for p, name in enumerate(names)
        for k in (0, 1)
    ]
    pairs = [
        {"prompt": name, "first": f"0{name}", "second": f"1{name}", "preference": 1.0, "weight": 1.0} for name in names
    ]
    lists = pa.list_(pa.int32())
    schema = pa.schema([("response", pa.string()), ("prompt_tokens", lists), ("tokens", lists)])
    return (
        written(pa.Table.from_pylist(responses, schema=schema), folder / "responses"),
        written(pa.Table.from_pylist(pairs, schema=rows.PAIRS), folder / "pairs"),
    )


def written(table: Any, path: Path) -> Any:  # noqa: ANN401
    import pyarrow.parquet as pq

    from rlhf_flow.storage.tables import FileShard, Table

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return Table((FileShard(path, "", table.num_rows),))


def lesson_of(asked: Any, round: int, responses: Any, pairs: Any, anchors: Any, start: Any) -> Any:  # noqa: ANN401
    from rlhf_flow.protocols import RoundTables, TrainingRound

    return TrainingRound(
        round=round,
        rounds=2,
        seed=0,
        tables=(RoundTables(round, responses, pairs),),
        anchors=anchors,
        roles={"reference": start.sha256},
        objective=asked.objective,
    )


def draws(asked: Any, folder: Path, phase: Any) -> None:  # noqa: ANN401
    """An engine generates with the weights it was opened on, loads other weights, and generates again."""
    from rlhf_flow.specs import Place
    from rlhf_flow.types import Policy
    from rlhf_flow.weights.source import Checkpoint

    prompts = prompts_of(asked)
    batch = max(prompts.batch(1), prompts.held_out(), key=lambda some: max(len(one.tokens) for one in some))
    batch = sorted(batch, key=lambda one: -len(one.tokens))[:8]
    draw = next(iter(asked.sampler.drawn.values()))
    start = Policy("policy", 0, "the start", Checkpoint(Path(asked.model.path)))
    with phase("open"):
        engine = asked.engine.open(asked.model, Place())
    with phase("draw"):
        engine.generate(batch, start, draw, round=1, seed=0)
    with phase("load"):
        engine.generate(
            batch[:1],
            replace(start, round=1, sha256="the same under another name", weights=Elsewhere(Path(asked.model.path))),
            draw,
            round=1,
            seed=0,
        )
    with phase("draw"):
        engine.generate(batch, replace(start, sha256="the same under another name"), draw, round=2, seed=0)


class Elsewhere:
    """Weights of a checkpoint that the engine was not opened on."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def index(self) -> Any:  # noqa: ANN401
        from rlhf_flow.weights.source import Checkpoint

        return Checkpoint(self.path).index()

    def stream(self) -> Any:  # noqa: ANN401
        from rlhf_flow.weights.source import Checkpoint

        return Checkpoint(self.path).stream()

    def load(self) -> Any:  # noqa: ANN401
        return dict(self.stream())


if __name__ == "__main__":
    main()
