"""Random Llamas of given sizes, random pairs for them, and the configuration of a run that trains on the pairs"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import gcd
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gpu.steps import DEFAULT, has
from rlhf_flow.capacity.workload import Work
from rlhf_flow.config.schema import RunConfig
from rlhf_flow.learner.batching import Group
from rlhf_flow.protocols import RoundTables
from rlhf_flow.storage.tables import FileShard, Table

if TYPE_CHECKING:
    import pyarrow as pa
    from transformers import LlamaConfig

OFFLOAD = {  # learner.config by what is offloaded
    "all": {
        "offload_optimizer": {"device": "cpu", "pin_memory": True},
        # The weights are pinned as a whole anyway; with pin_memory each parameter would be pinned again, permanently.
        "offload_param": {"device": "cpu", "pin_memory": False},
    },
    "optimizer": {"offload_optimizer": {"device": "cpu", "pin_memory": True}},
    "none": {},
}
LEARNERS: Mapping[str, Mapping[str, object]] = {  # its keys
    "zero3": {"learner": "deepspeed", "learner.zero_stage": 3},
    "zero2": {"learner": "deepspeed", "learner.zero_stage": 2},
    "fsdp": {"learner": "fsdp"},
    "torch": {"learner": "torch"},
}


@dataclass(frozen=True)
class Size:
    """The shape of a Llama."""

    layers: int
    hidden: int
    inner: int
    heads: int
    key_heads: int
    vocabulary: int
    tied: bool

    def changed(self, *, layers: int | None, hidden: int | None, heads: int | None, vocabulary: int | None) -> Size:
        """A copy with the values that are not None; the feed-forward width scales with the hidden size."""
        wide, many = hidden or self.hidden, heads or self.heads
        return replace(
            self,
            layers=layers or self.layers,
            hidden=wide,
            inner=self.inner * wide // self.hidden,
            heads=many,
            key_heads=gcd(self.key_heads, many),
            vocabulary=vocabulary or self.vocabulary,
        )

    def config(self, positions: int) -> LlamaConfig:
        """The configuration of transformers. Raises ValueError if the sizes are invalid."""
        from transformers import LlamaConfig

        if self.hidden % self.heads:
            raise ValueError(f"--heads must divide --hidden={self.hidden}, got {self.heads}.")
        if self.vocabulary < 8:
            raise ValueError(f"--vocab must be >= 8, got {self.vocabulary}.")
        return LlamaConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            intermediate_size=self.inner,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.key_heads,
            max_position_embeddings=positions,
            tie_word_embeddings=self.tied,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=2,
            dtype="bfloat16",
        )


SIZES = {  # the largest first; the shapes of Llama 3.1 8B, and of Llama 3.2 3B and 1B
    "8b": Size(32, 4096, 14336, 32, 8, 128256, tied=False),
    "3b": Size(28, 3072, 8192, 24, 8, 128256, tied=True),
    "1b": Size(16, 2048, 8192, 32, 8, 128256, tied=True),
    "tiny": Size(2, 64, 224, 4, 2, 512, tied=False),
}


@dataclass(frozen=True)
class Asked:
    """The data of one training step; lengths in tokens."""

    batch: int  # pairs
    micro_batch: int | None  # pairs, at most
    prompt: int
    answer: int  # the longest; the shortest has half of it
    repeats: int  # steps besides the warm-up
    offload: str = "none"  # key of OFFLOAD
    learner: str = "zero3"  # key of LEARNERS
    step: str = DEFAULT  # key of STEPS
    tokens: int | None = None  # of a pass; None: the default of the device
    recompute: str = "full"

    @property
    def work(self) -> Work:
        """The same work as `rlhf-flow plan` counts it."""
        return Work(
            rounds=1,
            prompts=self.batch,
            pages=1,
            answers=2,
            drawn=2,
            pairs=1,
            memory=1.0,
            longest_prompt=self.prompt,
            longest_answer=self.answer,
            held_out=0,
            sides=2,
        )


def write_weights(folder: Path, device: str) -> None:
    """Write random bfloat16 weights next to the configuration in the folder, made on the device, in shards of 2 GB."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    with torch.device(device):
        lm = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.bfloat16)
    lm.save_pretrained(folder, max_shard_size="2GB")


def configured(model: Path, asked: Asked) -> RunConfig:
    """The configuration of online DPO. With DeepSpeed, writes the JSON of learner.config next to the model."""
    from rlhf_flow.config import compose as config

    keys: dict[str, object] = {
        **LEARNERS[asked.learner],
        "learner.ranks": 1,
        "learner.compile": has(asked.step, "compiled"),
        "learner.training.precision": "bfloat16",
        "learner.training.gradient_checkpointing": asked.recompute,
        "learner.training.batch": asked.batch,
        "learner.training.micro_batch": "null" if asked.micro_batch is None else asked.micro_batch,
        "learner.training.tokens_per_batch": "null" if asked.tokens is None else asked.tokens,
        "learner.training.epochs": 1 + asked.repeats,  # every step reads the same pairs
        "model.path": model,
        "model.dtype": "bfloat16",
        "scorer": "rule",  # the scorer and the prompts are never opened: nothing is generated or scored
        "scorer.function": "operator.length_hint",
        "prompts.path": model,
        "rounds": 1,
        "run_dir": model.parent,
    }
    if keys["learner"] == "deepspeed":
        keys["learner.config"] = settings = model.parent / "deepspeed.json"
        settings.write_text(json.dumps({"zero_optimization": OFFLOAD[asked.offload]}))
    return config.compose(*(f"{key}={value}" for key, value in keys.items()))


def random_pairs(folder: Path, size: Size, asked: Asked) -> tuple[RoundTables, list[Group]]:
    """A batch of pairs of random tokens, and what a pass feeds of each pair if its answers share their prompt.

    If they are not to share it, they have different prompts of the same length.
    """
    import pyarrow as pa

    from rlhf_flow.storage import parquet as rows

    random = np.random.default_rng(0)
    responses, pairs, groups = [], [], []
    for p in range(asked.batch):
        prompts = random.integers(3, size.vocabulary, (2, asked.prompt)).tolist()
        lengths = []
        for k in (0, 1):
            long = asked.answer if p == k == 0 else int(random.integers((asked.answer + 1) // 2, asked.answer + 1))
            answer = random.integers(3, size.vocabulary, long).tolist()
            prompt = prompts[0 if has(asked.step, "shared") else k]
            responses.append({"response": f"{k}/{p}", "prompt_tokens": prompt, "tokens": answer})
            lengths.append(long)
        groups.append(Group(asked.prompt, tuple(long - 1 for long in lengths)))
        pairs.append({"prompt": f"{p}", "first": f"0/{p}", "second": f"1/{p}", "preference": 1.0, "weight": 1.0})
    tokens = pa.list_(pa.int32())
    schema = pa.schema([("response", pa.string()), ("prompt_tokens", tokens), ("tokens", tokens)])
    tables = RoundTables(
        1,
        written(pa.Table.from_pylist(responses, schema=schema), folder / "responses.parquet"),
        written(pa.Table.from_pylist(pairs, schema=rows.PAIRS), folder / "pairs.parquet"),
    )
    return tables, groups


def written(table: pa.Table, path: Path) -> Table:
    import pyarrow.parquet as pq

    pq.write_table(table, path)
    return Table((FileShard(path, "", table.num_rows),))
