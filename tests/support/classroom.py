"""A tiny model and small random lessons for it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from rlhf_flow.learner.optimizer import LearningRate, Optimizer
from rlhf_flow.learner.training import Training
from rlhf_flow.objective.dpo import DPO
from rlhf_flow.protocols import Learner, RoundTables, TrainingRound
from rlhf_flow.specs import Model
from rlhf_flow.storage import parquet as rows
from rlhf_flow.storage.tables import FileShard, Table
from rlhf_flow.types import Policy
from rlhf_flow.weights.fingerprint import checkpoint_fingerprint, fingerprint
from rlhf_flow.weights.source import Checkpoint

VOCABULARY = 128
SGD = Training(batch=8, micro_batch=8, clip=1.0, optimizer=Optimizer(name="sgd", lr=0.3))
ADAMW = replace(
    SGD,
    # With eps=1e-8 the first steps turn gradients that are rounding alone into steps of the size of lr: on some
    # processors one learner with two sizes of micro-batch then differs by 5e-4 in the loss, with 1e-6 by 7e-6.
    optimizer=Optimizer(name="adamw", lr=1e-3, weight_decay=0.01, eps=1e-6),
    schedule=LearningRate(kind="cosine", warmup=0.1, span="run"),
)


def make_model(
    folder: Path,
    *,
    seed: int = 0,
    tied: bool = False,
    dtype: str = "float32",
    scale: float = 0.2,
    width: int = 32,
    layers: int = 2,
    keys: int = 2,
) -> Model:
    """A random Llama, of 50 thousand weights by default, with a tokenizer of words."""
    from transformers import (
        LlamaConfig,
        LlamaForCausalLM,
        PreTrainedTokenizerFast,
    )  # here: 3 s, and unit tests need none

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=keys,
        max_position_embeddings=128,
        tie_word_embeddings=tied,
        initializer_range=scale,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    lm = LlamaForCausalLM(config).to(getattr(torch, dtype))
    lm.generation_config.do_sample = True
    lm.generation_config.temperature = 0.3
    lm.generation_config.top_p = 0.5
    lm.save_pretrained(folder)
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w2"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"bos_token": "w0", "eos_token": "w1", "pad_token": "w2"}
    PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)
    return Model(path=str(folder), dtype=dtype)


def policy_of(model: Model, *, name: str = "policy", round: int = 0) -> Policy:
    weights = Checkpoint(Path(model.path))
    return Policy(name, round, fingerprint(weights.load()), weights)


def start_of(model: Model) -> Policy:
    """As the start of a run: its identity is that of the checkpoint's files."""
    return Policy("policy", 0, checkpoint_fingerprint(Path(model.path)), Checkpoint(Path(model.path)))


def write(table: pa.Table, path: Path, *, shards: int = 1) -> Table:
    path.mkdir(parents=True, exist_ok=True)
    pieces = []
    stride = -(-table.num_rows // shards) or 1
    for i, start in enumerate(range(0, max(table.num_rows, 1), stride)):
        file = path / f"{i}.parquet"
        part = table.slice(start, stride)
        pq.write_table(part, file)
        pieces.append(FileShard(file, hashlib.sha256(file.read_bytes()).hexdigest(), part.num_rows))
    return Table(tuple(pieces))


def make_tables(
    folder: Path, *, round: int = 1, prompts: int = 8, n: int = 3, seed: int = 0, longest: int = 12
) -> RoundTables:
    """Random prompts and responses; each prompt's first response against its others, with random labels and weights."""
    random = np.random.default_rng([seed, round])
    responses, pairs = [], []
    for p in range(prompts):
        prompt = random.integers(3, VOCABULARY, random.integers(1, 6)).tolist()
        ids = [f"{round}/policy/{k}/p{p}" for k in range(n)]
        for id in ids:
            # Never EOS alone: the gradient of two equal responses is zero but for rounding, which Adam blows up.
            tokens = [*random.integers(3, VOCABULARY, random.integers(1, longest)).tolist(), 1]
            responses.append({"response": id, "prompt_tokens": prompt, "tokens": tokens})
        for other in ids[1:]:
            preference, weight = float(random.choice([0.0, 0.2, 0.5, 0.9, 1.0])), float(random.choice([0.5, 1.0, 2.0]))
            pairs.append(
                {"prompt": f"p{p}", "first": ids[0], "second": other, "preference": preference, "weight": weight}
            )
    return RoundTables(
        round,
        write(pa.Table.from_pylist(responses, schema=RESPONSES), folder / "responses", shards=2),
        write(pa.Table.from_pylist(pairs, schema=PAIRS), folder / "pairs"),
    )


def make_lesson(
    folder: Path,
    tables: Sequence[RoundTables],
    learner: Learner,
    reference: Policy,
    *,
    beta: float = 0.5,
    rounds: int = 2,
) -> TrainingRound:
    """A lesson whose reference log-probs are the learner's own."""
    responses = [table.responses for table in tables]
    wanted = sorted({id for table in responses for id in table.read(["response"])["response"].to_pylist()})
    return TrainingRound(
        round=tables[-1].round,
        rounds=rounds,
        seed=7,
        tables=tuple(tables),
        anchors=write(learner.logps(responses, wanted, reference), folder / "anchors", shards=2),
        roles={"reference": reference.sha256},
        objective=DPO(beta=beta),
    )


RESPONSES = pa.schema(
    [("response", pa.string()), ("prompt_tokens", pa.list_(pa.int32())), ("tokens", pa.list_(pa.int32()))]
)
PAIRS = rows.PAIRS
