"""The whole way: sft, train-reward, run, eval and export, and the result in transformers, datasets, TRL and vLLM.

    python scripts/proofs/whole_way.py                # the sandbox policy, about three minutes
    python scripts/proofs/whole_way.py --kill         # again, with each step killed once, to the same files
    python scripts/proofs/whole_way.py --model FOLDER --trl FOLDER --vllm

The data are conversations and preferences on the prompts of the sandbox world. With --kill, SIGKILL ends each step at a
random time; the same command, or `rlhf-flow resume`, goes on. Exit status 1 if a file differs from that of the
undisturbed pass. `--trl` names the folder of `pip install --target FOLDER --no-deps trl`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from rlhf_flow.sandbox import noise
from rlhf_flow.sandbox.build import build
from rlhf_flow.sandbox.request import Request
from rlhf_flow.system.files import sha256

ROOT = Path(__file__).parents[2]
REWARD = "runs/reward/rounds/{rounds:05d}/policy"
GOLD = "rlhf_flow.sandbox.gold.worth"


@dataclass(frozen=True)
class Size:
    batch: int  # prompts a round, and rows of a data set a round
    held_out: int
    tokens: int  # of an answer
    rounds: int = 2

    @property
    def rows(self) -> int:
        """Of each data set."""
        return self.batch * self.rounds + self.held_out


SANDBOX = Size(batch=32, held_out=16, tokens=32)
GIVEN = Size(batch=8, held_out=8, tokens=16)  # of --model, on two cores


@dataclass(frozen=True)
class Step:
    name: str
    words: list[str]  # after rlhf-flow
    folder: str  # what it writes, relative to the folder of the pass
    result: str  # the files that the two passes must have in common: a pattern, since large models are several
    resumed: bool = False  # by `rlhf-flow resume`, not by the same command
    once: bool = False  # its folder appears complete, and is not written again

    def again(self, root: Path) -> list[str]:
        """The command after a kill."""
        begun = (root / self.folder / "config.yaml").is_file()
        return ["resume", self.folder] if self.resumed and begun else self.words


def steps(model: Path, data: Path, size: Size) -> list[Step]:
    """The commands of a user, in the order of the documentation's page on the whole way."""
    common = [
        "stack=local",
        f"rounds={size.rounds}",
        f"prompts.batch={size.batch}",
        f"prompts.held_out={size.held_out}",
    ]
    common.append(f"learner.training.batch={size.batch // 2}")
    last, reward = f"rounds/{size.rounds:05d}/policy", REWARD.format(rounds=size.rounds)
    weights = f"{last}/model*.safetensors"
    adapter = ["learner.lora.rank=8", "evaluate.samples=0"]
    trained = [*common, "model.path=models/sft"]
    loop = [*trained, f"scorer.path={reward}", f"answers.max_tokens={size.tokens}", "selector.truncated=keep"]
    gold = ["scorer@evaluate.scorer=rule", f"evaluate.scorer.function={GOLD}"]
    chats, preferences, prompts = (f"prompts.path={data / name}.jsonl" for name in ("chats", "preferences", "prompts"))
    judge = ["scorer=reward_model", f"scorer.path={reward}", "stack=local", "--out", "reward-eval"]
    return [
        Step(
            "sft",
            ["sft", *common, f"model.path={model}", chats, *adapter],
            "runs/sft",
            f"{last}/adapter_model*.safetensors",
        ),
        Step("convert", ["convert", "runs/sft", "models/sft"], "models/sft", "model*.safetensors", once=True),
        Step("train-reward", ["train-reward", *trained, preferences], "runs/reward", weights),
        Step("eval --pairs", ["eval", "--pairs", str(data / "labelled.jsonl"), *judge], "reward-eval", "eval.json"),
        Step("run", ["run", *loop, prompts, *gold, "run_dir=runs/mine"], "runs/mine", weights, resumed=True),
        Step("eval", ["eval", "runs/mine@all", "runs/sft@0"], "runs/mine/eval", "eval.parquet"),
        Step("export pairs", ["export", "pairs", "runs/mine"], "runs/mine/export", "pairs.parquet"),
        Step(
            "export model",
            ["export", "model", "runs/mine@last"],
            "runs/mine/export/model",
            "model*.safetensors",
            once=True,
        ),
    ]


# -- data -------------------------------------------------------------------------------------------------------------


def write_data(folder: Path, size: Size) -> None:
    """chats, preferences and labelled (pairs that no training has), prompts: on different prompts of the world."""
    rng = random.Random(0)
    rows = (json.loads(line) for line in build().prompts.read_text().splitlines())
    folder.mkdir(parents=True)
    for name in ("chats", "preferences", "labelled", "prompts"):
        made = [row_of(name, next(rows), rng) for _ in range(size.rows)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))


def row_of(name: str, asked: dict[str, object], rng: random.Random) -> dict[str, object]:
    """A row of the data set `name`. Careful writers give the better answers, careless ones the worse."""
    request = Request(**{field.name: asked[field.name] for field in fields(Request)})  # type: ignore[arg-type]
    good, poor = (str(noise.write(request, rng, care=care)) for care in (1.0, 0.0))
    if name == "chats":
        turns = {"user": asked["prompt"], "assistant": good}
        return {"messages": [{"role": role, "content": text} for role, text in turns.items()]}
    answers = {"chosen": good, "rejected": poor} if name != "prompts" else {}
    return {"prompt": asked["prompt"], **answers}


# -- passes -----------------------------------------------------------------------------------------------------------


def start(words: Sequence[str], root: Path) -> subprocess.Popen[bytes]:
    """`rlhf-flow WORDS` in the folder of the pass, in a process group of its own. Its output is appended to log.txt."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    with (root / "log.txt").open("a") as log:
        log.write(f"\n$ rlhf-flow {' '.join(words)}\n")
        log.flush()
        command = [sys.executable, "-m", "rlhf_flow", *words]
        return subprocess.Popen(
            command, cwd=root, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )


def finish(words: Sequence[str], root: Path) -> float:
    """Run a command to its end; returns its seconds. Exits with the end of the log if the command fails."""
    began = time.monotonic()
    if status := start(words, root).wait():
        print((root / "log.txt").read_text()[-3000:])
        raise SystemExit(f"rlhf-flow {' '.join(words)} ended with {status}")
    return time.monotonic() - began


def kill(step: Step, root: Path, seconds: float) -> str:
    """Start a step and end it with SIGKILL; returns where it was. A step that ended before starts again, for less."""
    while True:
        process, began = start(step.words, root), time.monotonic()
        try:
            if process.wait(seconds):
                raise SystemExit(f"rlhf-flow {' '.join(step.words)} failed: {root / 'log.txt'}")
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if not (step.once and (root / step.folder).exists()):
                return f"{time.monotonic() - began:.1f} s, {position(root / step.folder)}"
        shutil.rmtree(root / step.folder)
        seconds *= 0.6


def position(folder: Path) -> str:
    """The last commit of a run; else whether the folder is there."""
    commits = sorted(folder.glob("rounds/*/stages/*.json"), key=lambda path: path.stat().st_mtime_ns)
    if commits:
        return f"after {commits[-1].parent.parent.name.lstrip('0') or '0'}/{commits[-1].stem}"
    return "its folder was there" if folder.exists() else "before its folder was there"


def undisturbed(every: Sequence[Step], root: Path) -> dict[str, float]:
    """The seconds of each step, by its name."""
    root.mkdir()
    seconds = {}
    for step in every:
        seconds[step.name] = finish(step.words, root)
        print(f"{step.name}: {seconds[step.name]:.0f} s", flush=True)
    return seconds


def disturbed(every: Sequence[Step], root: Path, seconds: dict[str, float], rng: random.Random) -> dict[str, str]:
    """Where each step was killed, by its name; then it was resumed."""
    root.mkdir()
    places = {}
    for step in every:
        places[step.name] = kill(step, root, seconds[step.name] * rng.uniform(0.1, 0.95))
        again = step.again(root)
        finish(again, root)
        print(f"{step.name}: killed at {places[step.name]}; resumed by {again[0]}", flush=True)
    return places


def digest(folder: Path, pattern: str) -> str:
    """The SHA-256 of a file, or of those of several. Raises FileNotFoundError if there is none."""
    hashes = [sha256(path) for path in sorted(folder.glob(pattern))]
    if not hashes:
        raise FileNotFoundError(f"{folder} has no {pattern}")
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def compared(every: Sequence[Step], whole: Path, other: Path | None, places: dict[str, str]) -> Iterator[str]:
    """Lines of the table: the hash of each step's result in both passes."""
    yield f"{'step':14}{'sha256':18}{'killed at':44}{'sha256 after':18}"
    for step in every:
        one = digest(whole / step.folder, step.result)
        line = f"{step.name:14}{one[:16]:18}"
        if other is not None:
            two = digest(other / step.folder, step.result)
            line += f"{places[step.name]:44}{two[:16]:18}{'equal' if one == two else 'DIFFERENT'}"
        yield line.rstrip()


# -- other programs ---------------------------------------------------------------------------------------------------


def in_transformers(model: Path, question: str) -> str:
    """The greedy answer, in float32: in bfloat16 near ties fall either way, and programs differ."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    policy, tokenizer = (
        AutoModelForCausalLM.from_pretrained(model, dtype="float32"),
        AutoTokenizer.from_pretrained(model),
    )
    chat = [{"role": "user", "content": question}]
    asked = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    made = policy.generate(**asked, max_new_tokens=32, do_sample=False, pad_token_id=tokenizer.eos_token_id)
    return str(tokenizer.decode(made[0, asked["input_ids"].shape[1] :], skip_special_tokens=True))


def in_vllm(model: Path, question: str) -> str:
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    from vllm import LLM, SamplingParams

    engine = LLM(str(model), dtype="float32", max_model_len=256, enforce_eager=True)
    chat = [{"role": "user", "content": question}]
    (answer,) = engine.chat(chat, SamplingParams(temperature=0.0, max_tokens=32))
    return str(answer.outputs[0].text)


def in_datasets(pairs: Path) -> str:
    from datasets import load_dataset  # type: ignore[import-untyped]  # it has no types

    with tempfile.TemporaryDirectory() as cache:
        data = load_dataset("parquet", data_files=str(pairs), split="train", cache_dir=cache)
        first = data[0]["chosen"]
        assert [message["role"] for message in first] == ["assistant"], first
        return f"{len(data)} rows of {', '.join(data.column_names)}"


def in_trl(pairs: Path, model: Path, folder: Path) -> str:
    command = [sys.executable, str(ROOT / "scripts/proofs/trl_step.py"), str(pairs), "--model", str(model)]
    environment = os.environ | {"PYTHONPATH": str(folder), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"TRL failed:\n{done.stderr}")
    return "\n".join(line for line in done.stdout.splitlines() if line.startswith(("DPOTrainer", "{'loss'")))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", type=Path, help="a small checkpoint with a chat template; default: the sandbox policy"
    )
    parser.add_argument("--kill", action="store_true", help="kill each step of a second pass once, and compare")
    parser.add_argument("--seed", type=int, help="of the times of --kill")
    parser.add_argument("--trl", type=Path, help="the folder of an installed TRL")
    parser.add_argument("--vllm", action="store_true", help="load the model with vLLM too")
    parser.add_argument("--folder", type=Path, help="where the passes stay; default: a temporary folder")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (asked.folder or Path(temporary) / "way").resolve()
        size = SANDBOX if asked.model is None else GIVEN
        write_data(folder / "data", size)
        every = steps((asked.model or build().policy).resolve(), folder / "data", size)
        whole, killed, places = folder / "whole", None, {}
        seconds = undisturbed(every, whole)
        if asked.kill:
            killed = folder / "killed"
            places = disturbed(every, killed, seconds, random.Random(asked.seed))
        table = [*compared(every, whole, killed, places)]
        print("\n".join(["", *table, ""]))
        last = killed or whole  # what other programs load
        model, pairs = (last / "runs/mine/export" / name for name in ("model", "pairs.parquet"))
        question = json.loads((folder / "data/prompts.jsonl").read_text().splitlines()[0])["prompt"]
        print(
            f"datasets: {in_datasets(pairs)}\ntransformers: {question} → {in_transformers(model, question)}", flush=True
        )
        if asked.trl:
            print(f"TRL: {in_trl(pairs, model, asked.trl.resolve())}", flush=True)
        if asked.vllm:
            print(f"vLLM: {question} → {in_vllm(model, question)}", flush=True)
    return 1 if any(line.endswith("DIFFERENT") for line in table) else 0


if __name__ == "__main__":
    sys.exit(main())
