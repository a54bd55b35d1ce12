"""Scoring alone: answers per second of scorer=reward_model beside a bare forward pass.

    python scripts/bench/scoring.py
    python scripts/bench/scoring.py --dtype bfloat16 --repeats 7

The scorer gets rollouts: it renders each conversation in the model's chat template, tokenises, sorts, pads and scores.
The bare loop, `model(input_ids, attention_mask)`, gets batches by length of the same tokens, padded before the clock
starts. Both run in this process with all its cores and alternate (A B A B ...). The model is a random Llama of 6 M
parameters with one score, on the GPU if there is one. Needs an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from peer.workload import SEED, WORDS, llama, tokenizer
from speeds import Speed, rows, table
from transformers import AutoModelForSequenceClassification, LlamaForSequenceClassification

from rlhf_flow.scorer.models.reader import Reader
from rlhf_flow.scorer.models.reward_model import RewardModel
from rlhf_flow.scorer.pairwise import prompts_and_responses
from rlhf_flow.scorer.token_batches import Tokens, by_length, packed
from rlhf_flow.specs import Place
from rlhf_flow.system import machine
from rlhf_flow.types import Message, Prompt, Response, Rollouts, SamplingParams

ANSWERS = 4  # per prompt
MEAN, LONGEST = 60, 256  # tokens of an answer
TEMPLATE = "{% for message in messages %}{{ message.content }} </s> {% endfor %}"


def measure(*, answers: int = 512, dtype: str = "float32", repeats: int = 5) -> list[dict[str, object]]:
    """Print the table; return its rows."""
    device, threads = "cuda" if torch.cuda.is_available() else "cpu", machine.cores()
    with tempfile.TemporaryDirectory() as folder:
        spec = RewardModel(str(reward_model(Path(folder))), dtype=dtype)
        judge = spec.open(Place(threads=threads, device=device))
        model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=dtype).to(device).eval()
        asked = _rollouts(answers // ANSWERS)
        batches = _batches(asked, spec.reader(), spec.batch_tokens, model.config.pad_token_id, device)
        sides: dict[str, Callable[[], np.ndarray]] = {
            "bare forward pass": lambda: _bare(model, batches),
            "rlhf_flow scorer": lambda: judge.score(asked).utility.flatten(),
        }
        speeds = {name: Speed(name) for name in sides}
        bare, ours = (np.sort(side()) for side in sides.values())  # warm-up, and both score alike
        np.testing.assert_allclose(ours, bare, atol=1e-5 if dtype == "float32" else 0.1)
        for _ in range(repeats):
            for name, side in sides.items():
                start = time.perf_counter()
                side()
                speeds[name].rates.append(answers / (time.perf_counter() - start))
        judge.close()
    tokens = sum(batch.numel() for batch, _ in batches)
    title = f"scoring {dtype}: {answers} answers, {tokens} tokens with padding, {threads} threads, {device}"
    print(table(title, "answers", list(speeds.values())), flush=True)
    return rows("scoring", dtype, "answers", list(speeds.values()))


def _bare(model: torch.nn.Module, batches: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> np.ndarray:
    with torch.inference_mode():
        scores = [model(input_ids=tokens, attention_mask=mask).logits for tokens, mask in batches]
        return torch.cat(scores).float().cpu().numpy().flatten()


def _batches(
    asked: Rollouts, reader: Reader, budget: int, pad: int, device: str
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The scorer's batches: tokens and mask, padded on the right."""
    views, _ = reader.views(prompts_and_responses(asked))

    def padded(batch: Sequence[Tokens]) -> tuple[torch.Tensor, torch.Tensor]:
        tokens = torch.nn.utils.rnn.pad_sequence(list(map(torch.tensor, batch)), batch_first=True, padding_value=pad)
        lengths = torch.tensor(list(map(len, batch)))
        return tokens.to(device), (torch.arange(tokens.shape[1]) < lengths[:, None]).long().to(device)

    return [padded(batch) for batch in packed(by_length(set(views.values())), budget)]


def reward_model(folder: Path) -> Path:
    """Write a random Llama with one score and a chat template; return its path."""
    words = tokenizer()
    words.chat_template = TEMPLATE
    words.save_pretrained(folder)
    config = llama(words, layers=7)
    config.num_labels = 1
    torch.manual_seed(SEED)
    LlamaForSequenceClassification(config).save_pretrained(folder)
    return folder


def _rollouts(prompts: int) -> Rollouts:
    """Prompts of 8 to 40 words; answers of geometric length."""
    draw = np.random.default_rng(SEED)

    def text(length: int) -> str:
        return " ".join(f"w{word}" for word in draw.integers(3, WORDS, size=length))

    def answer(id: str) -> Response:
        length = min(int(draw.geometric(1 / MEAN)), LONGEST)
        tokens = np.zeros(length, np.int32)  # of the policy; a scorer reads the text
        return Response(id, tokens, text(length), None, False, SamplingParams(n=ANSWERS), SEED, "")

    asked = tuple(Prompt(f"p{b}", (Message("user", text(int(draw.integers(8, 41)))),), ()) for b in range(prompts))
    answers = tuple(tuple(answer(f"1/policy/{k}/p{b}") for k in range(ANSWERS)) for b in range(prompts))
    return Rollouts(1, asked, answers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=512, help="answers to score (default: %(default)s)")
    parser.add_argument("--dtype", default="float32", help="float32 or bfloat16 (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="timings of each side (default: %(default)s)")
    measure(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
