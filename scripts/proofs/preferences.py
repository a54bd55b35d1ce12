"""Train reward models on real preferences, and compare them with baselines that do not read the answers.

    python scripts/proofs/preferences.py --data FILE --folder OUT [--kinds gpm pairwise] [--seeds 0] [--try]

FILE holds one JSON object per line, and may be gzipped: `prompt`, `response_a`, `response_b`, and `prob_b`, the
probability that the second is better, as in the annotations of AlpacaEval. All pairs of an instruction go to the same
split: training, validation or held out. Nothing is downloaded: the tokenizer is trained on the training texts, and the
model starts from random weights. `rlhf-flow train-reward` trains each kind in its own process with one thread. `--try`
trains every setting of TRIED and measures on the validation pairs. Without it, the script measures CHOSEN, the setting
selected that way, once on the held-out pairs. The same command resumes a script that was stopped.
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from rlhf_flow.metrics.reward_accuracy import Verdicts, measure
from rlhf_flow.sandbox.tokenizer import train_tokenizer
from rlhf_flow.seeds import derive

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Pair: TypeAlias = dict[str, Any]
Sides: TypeAlias = dict[str, list[Pair]]

SHARES = {"held_out": 0.2, "validation": 0.1}  # of the instructions; the rest is for training
VOCABULARY, HIDDEN, LAYERS, HEADS = 8192, 64, 2, 2  # 0.6 million parameters, of which 0.1 million are not embeddings
MOST = {"prompt": 128, "first": 512, "second": 512}  # tokens of a text; a longer one is truncated
POSITIONS = 2048  # context length in tokens: a question, both answers and the template


@dataclass(frozen=True)
class Setting:
    """How a kind is trained. All else is the default of `rlhf-flow train-reward`."""

    lr: float
    epochs: int


TRIED = [Setting(lr, epochs=1) for lr in (1e-3, 3e-3, 1e-2)]
CHOSEN = Setting(3e-3, epochs=1)  # the lowest log loss of bradley_terry on the validation pairs; used for all kinds
KINDS = ("bradley_terry", "gpm", "pairwise")


# -- data -------------------------------------------------------------------------------------------------------------


def read(path: Path) -> list[Pair]:
    """The pairs: `prompt`, `first`, `second` in the order of the file, and `preference` = P(first is better)."""
    raw = path.read_bytes()
    lines = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode().split("\n")
    rows = [json.loads(line) for line in lines if line.strip()]
    return [
        {
            "id": f"pair-{number}",
            "prompt": row["prompt"],
            "first": row["response_a"],
            "second": row["response_b"],
            "preference": 1 - row["prob_b"],
        }
        for number, row in enumerate(rows, start=1)
    ]


def split(pairs: Sequence[Pair]) -> Sides:
    """The split of each pair is given by a hash of its instruction, regardless of case and spaces."""
    sides: Sides = {"training": [], "validation": [], "held_out": []}
    for pair in pairs:
        sides[_side(" ".join(pair["prompt"].casefold().split()))].append(pair)
    return sides


def _side(instruction: str) -> str:
    place = derive("preferences", instruction) / 2**62
    for side, share in SHARES.items():
        if place < share:
            return side
        place -= share
    return "training"


def shortened(sides: Sides, tokenizer: PreTrainedTokenizerFast) -> tuple[Sides, Counter[str]]:
    """The pairs with truncated texts, and counts: `cut` for each column, and `identical` for dropped pairs.

    A text that is too long keeps its beginning. The rule is the same for both answers and for all splits, and the
    baselines read the same texts. A pair is dropped if its truncated answers are identical.
    """
    counts, kept = Counter[str](), {side: list[Pair]() for side in sides}
    for side, pairs in sides.items():
        for pair in pairs:
            texts = {name: beginning(tokenizer, pair[name], most) for name, most in MOST.items()}
            counts.update(f"{name} cut" for name, text in texts.items() if text != pair[name])
            if texts["first"] == texts["second"]:
                counts["identical"] += 1
            else:
                kept[side].append(pair | texts)
    return kept, counts


def beginning(tokenizer: PreTrainedTokenizerFast, text: str, most: int) -> str:
    """The text up to the end of token number `most`."""
    ends = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    return text if len(ends) <= most else text[: ends[most - 1][1]]


# -- model ------------------------------------------------------------------------------------------------------------


def build(texts: Sequence[str], folder: Path, *, seed: int) -> PreTrainedTokenizerFast:
    """Write a small random Llama with a tokenizer trained on these texts; returns the tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = train_tokenizer(texts, vocabulary=VOCABULARY, max_length=POSITIONS)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return tokenizer


# -- training ---------------------------------------------------------------------------------------------------------


def train(kind: str, setting: Setting, folder: Path, *, seed: int, measured: str, pairs: int) -> dict[str, float]:
    """Run `rlhf-flow train-reward` on the training pairs; returns the metrics on the split `measured`."""
    run = folder / f"{kind}-{setting.lr:g}-{setting.epochs}-{seed}-{measured}"
    orders = 2 if kind == "pairwise" else 1
    overrides = {
        "reward": kind,
        "cluster": "local",
        "learner": "torch",
        "model.path": folder / "model",
        "prompts.path": folder / "training.jsonl",
        "prompts.held_out_path": folder / f"{measured}.jsonl",
        "prompts.columns": "{id: id, candidates: {first: first, second: second}}",
        "prompts.max_tokens": POSITIONS - max(MOST.values()) - 1,
        "prompts.batch": pairs * orders,
        "scorer.preference": "preference",
        "learner.training.batch": 32 * orders,
        "learner.training.micro_batch": 4,
        "learner.training.epochs": setting.epochs,
        "learner.training.threads": 1,
        "learner.training.optimizer.lr": setting.lr,
        "learner.training.schedule.kind": "cosine",
        "evaluate.every": 2,  # at the start, and at the end
        "rounds": 1,
        "seed": seed,
        "run_dir": run,
    }
    command = [
        sys.executable,
        "-m",
        "rlhf_flow",
        "train-reward",
        *(f"{key}={value}" for key, value in overrides.items()),
    ]
    with (folder / f"{run.name}.log").open("w") as log:
        subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT)
    last: dict[str, float] = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    return last


# -- report -----------------------------------------------------------------------------------------------------------

COLUMNS = (
    "judge",
    "accuracy",
    "over longer",
    "over first",
    "log loss",
    "ECE",
    "length correlation",
    "both orders agree",
)


@dataclass(frozen=True)
class Result:
    """The result of a run."""

    kind: str
    setting: Setting
    seed: int
    found: Mapping[str, float]

    @property
    def name(self) -> str:
        return f"`{self.kind}`, lr {self.setting.lr:g}, seed {self.seed}"


def longer_wins(pairs: Sequence[Pair]) -> dict[str, float]:
    """Evaluation metrics of a baseline that prefers the answer with more characters."""
    longer = np.array([len(pair["first"]) - len(pair["second"]) for pair in pairs], dtype=np.float64)
    label = np.array([pair["preference"] for pair in pairs])
    _, prompt = np.unique([pair["prompt"] for pair in pairs], return_inverse=True)
    verdicts = Verdicts(longer, label, longer, [(pair["first"], pair["second"]) for pair in pairs], prompt)
    return {f"eval/{name}": value for name, value in measure(verdicts).items()}


def table(results: Sequence[Result], whole: Mapping[str, float]) -> Iterator[str]:
    """Lines of Markdown: the baselines, every run, and which of them are better than a baseline.

    `whole` is `longer_wins` on the answers before truncation; all else is on the texts that the models read.
    """
    yield f"| {' | '.join(COLUMNS)} |"
    yield "|" + " --- |" * len(COLUMNS)
    found = results[0].found
    for name, share in (
        ("the longer of the texts that were read wins", _share(found, "longer_wins")),
        ("the longer of the whole answers wins", _share(whole, "longer_wins")),
        ("the first answer wins", _share(found, "always_first")),
    ):
        yield f"| {name} | {share} |" + " |" * (len(COLUMNS) - 2)
    for result in results:
        cells = [_share(result.found, name) for name in ("accuracy", "over_longer_wins", "over_always_first")]
        for name in ("log_loss", "ece", "length_correlation", "order_consistency"):
            value = result.found.get(f"eval/{name}")
            cells.append("" if value is None else f"{value:.3f}")
        yield f"| {result.name} | {' | '.join(cells)} |"
    yield ""
    for result in results:
        for baseline, what in (("longer_wins", "the longer of the texts that it read"), ("always_first", "the first")):
            yield f"{result.name}: {_standing(result.found, baseline)} {what}."


def _standing(found: Mapping[str, float], baseline: str) -> str:
    if found[f"eval/over_{baseline}_low"] > 0:
        return "better than"
    return "worse than" if found[f"eval/over_{baseline}_high"] < 0 else "not told apart from"


def _share(found: Mapping[str, float], name: str) -> str:
    value, low, high = (found[f"eval/{name}{bound}"] for bound in ("", "_low", "_high"))
    return f"{value:.3f} ({low:.3f} to {high:.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--try", dest="tries", action="store_true", help="every setting, on the validation pairs")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)

    sides = split(read(asked.data))
    texts = sorted({pair[name] for pair in sides["training"] for name in MOST})
    uncut = sides
    sides, counts = shortened(uncut, build(texts, asked.folder / "model", seed=0))
    for side, pairs in sides.items():
        (asked.folder / f"{side}.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
        print(f"{side}: {len(pairs)} pairs of answers to {len({pair['prompt'] for pair in pairs})} instructions")
    print(", ".join(f"{name} {count}" for name, count in sorted(counts.items())), flush=True)

    measured = "validation" if asked.tries else "held_out"
    results = []
    for kind in asked.kinds:
        for setting in TRIED if asked.tries else [CHOSEN]:
            for seed in asked.seeds:
                found = train(kind, setting, asked.folder, seed=seed, measured=measured, pairs=len(sides["training"]))
                results.append(Result(kind, setting, seed, found))
                print(f"{results[-1].name}: {_share(found, 'accuracy')}", flush=True)
    print(f"\nOn the {measured} pairs with a winner; 95 % intervals by bootstrap over instructions.\n")
    kept = {pair["id"] for pair in sides[measured]}
    print("\n".join(table(results, longer_wins([pair for pair in uncut[measured] if pair["id"] in kept]))))


if __name__ == "__main__":
    main()
