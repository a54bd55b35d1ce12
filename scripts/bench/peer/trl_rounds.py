"""Rounds of TRL's OnlineDPOTrainer: `python trl_rounds.py JSON` prints the seconds of each as JSON.

Run by `peer.theirs` with TRL on the path. Not imported by the package.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset  # type: ignore[import-untyped]  # it has no types
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

from peer.workload import read_prompts, worth


class Clock(TrainerCallback):
    """The seconds of each optimizer step: sampling, rewards, loss and update."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *arguments: object, **named: object) -> None:
        self._began = time.perf_counter()

    def on_step_end(self, *arguments: object, **named: object) -> None:
        self.seconds.append(time.perf_counter() - self._began)


def reward(prompts: list[Any], completions: list[Any], **others: object) -> list[float]:
    texts = [one if isinstance(one, str) else one[0]["content"] for one in completions]
    return [worth([], text) for text in texts]


def main(asked: dict[str, Any]) -> dict[str, object]:
    torch.set_num_threads(asked["threads"])
    dtype = getattr(torch, asked["dtype"])
    loaded = [AutoModelForCausalLM.from_pretrained(asked["model"], dtype=dtype) for _ in range(2)]
    tokenizer = AutoTokenizer.from_pretrained(asked["model"], padding_side="left")
    texts = list(read_prompts(Path(asked["prompts"])))[: asked["batch"] * asked["steps"]]
    rows = [[{"role": "user", "content": text}] for text in texts] if asked["chat"] else texts
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        settings = OnlineDPOConfig(
            output_dir=folder,
            per_device_train_batch_size=asked["batch"],
            max_steps=asked["steps"],
            max_new_tokens=asked["max_tokens"],
            max_length=asked["max_length"],
            temperature=1.0,
            beta=0.1,
            learning_rate=asked["lr"],
            lr_scheduler_type="constant",
            optim="adamw_torch_fused",
            gradient_checkpointing=False,
            bf16=False,  # in bfloat16 the weights have that dtype: faster than autocast
            use_cpu=not torch.cuda.is_available(),
            save_strategy="no",
            report_to=[],
            logging_strategy="no",
            disable_tqdm=True,
            seed=0,
        )
        OnlineDPOTrainer(
            model=loaded[0],
            ref_model=loaded[1],
            reward_funcs=reward,
            args=settings,
            train_dataset=Dataset.from_dict({"prompt": rows}),
            processing_class=tokenizer,
            callbacks=[clock],
        ).train()
    kept = ("per_device_train_batch_size", "optim", "gradient_checkpointing", "max_new_tokens", "temperature", "beta")
    shown = {name: vars(settings)[name] for name in kept} | {
        "threads": torch.get_num_threads(),
        "dtype": asked["dtype"],
    }
    return {"seconds": clock.seconds, "settings": {name: str(value) for name, value in shown.items()}}


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
