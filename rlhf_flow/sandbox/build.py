"""Building the embedded world: corpus, tokenizer, policy, judged answers, reward model; once, bit for bit the same."""

from __future__ import annotations

import fcntl
import json
import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_flow import seeds
from rlhf_flow.sandbox import noise, policy, request, reward, tokenizer
from rlhf_flow.sandbox.request import Request
from rlhf_flow.sandbox.world import Size, World, frozen_hash, locate, sha256

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

THREADS = 2  # always: another number of threads sums in another order
TEXTS = 3000  # exchanges of each part of the corpus that the tokenizer learns from
ANSWERS = 8  # to each prompt that judges compare
SAMPLES = 5  # of them the policy's
MISHEARD = 1  # of them to a request that differs in one thing
SPOILED = 2  # of them copies of others with something gone wrong
CARES = (0.0, 0.0, 0.5, 0.9)  # how careful the writers are whose answers judges compare
KEPT = 0.2  # the share of requests that nothing is trained on, in any wording


def build(root: Path | None = None, *, size: Size | None = None, report: Callable[[str], None] = print) -> World:
    """The world, built first if need be. Safe to call from several processes at once: one builds, the others wait."""
    size = size or Size()
    world = locate(root, size=size)
    if world.exists:
        return world
    world.root.parent.mkdir(parents=True, exist_ok=True)
    with Path(f"{world.root}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # released when this process ends, however it ends
        if not world.exists:
            part = World(root=Path(f"{world.root}.part"))
            for leftover in (part.root, world.root):  # of a build that was killed
                shutil.rmtree(leftover, ignore_errors=True)
            with _settled_torch():
                _make(part, size, report)
            part.root.rename(world.root)
    return world


def _make(world: World, size: Size, report: Callable[[str], None]) -> None:
    watch = _Watch(report)
    known, kept = _split(every := request.every_request(), size.seed)
    careful = _corpus(known, size.careful, 1.0, _rng(size, "careful"))
    usual = _corpus(known, size.usual, 0.0, _rng(size, "usual"))
    world.root.mkdir()
    _write_prompts(world.prompts, known, size.prompts, _rng(size, "prompts"))
    _write_prompts(world.held_out, kept, size.held_out, _rng(size, "held_out"))
    watch.done(
        "corpus", f"{size.careful} careful and {size.usual} usual exchanges on {len(known)} of {len(every)} requests"
    )

    texts = [text for exchange in (*careful[:TEXTS], *usual[:TEXTS]) for text in exchange]
    words = tokenizer.train_tokenizer(texts, vocabulary=size.vocabulary, max_length=size.positions)
    courses = [_examples(careful, words), _examples(usual, words)]
    watch.done("tokenizer", f"{len(words)} tokens")

    student = policy.train_policy(
        policy.config(words, width=size.width, layers=size.layers, positions=size.positions),
        courses,
        batch=size.policy_batch,
        lr=size.policy_lr,
        seed=seeds.derive(size.seed, "policy"),
        report=report,
    )
    watch.done("policy", f"{sum(p.numel() for p in student.parameters()):,} parameters")

    written = _comparisons(None, words, known, size, "written", size.written)
    drawn = _comparisons(student, words, known, size, "drawn", size.drawn)
    tested = _comparisons(student, words, kept, size, "tested", max(1, size.drawn // 4))
    watch.done("answers", f"to {len(written + drawn + tested)} prompts, compared by noisy judges")

    judge = reward.train_reward_model(
        student,
        [*written, *drawn],
        batch=size.reward_batch,
        lr=size.reward_lr,
        seed=seeds.derive(size.seed, "reward model"),
        report=report,
    )
    accuracy, pairs = reward.agreement(judge, tested, batch=32)
    watch.done("reward model", f"orders {accuracy:.1%} of {pairs} held-out pairs as gold does")

    for model, folder in ((student, world.policy), (judge, world.reward_model)):
        model.save_pretrained(folder)
        words.save_pretrained(folder)
    files = sorted(path for path in world.root.rglob("*") if path.is_file())
    facts = {
        "frozen": frozen_hash(),
        "size": asdict(size),
        "reward_model_accuracy": accuracy,
        "reward_model_pairs": pairs,
        "policy_parameters": sum(p.numel() for p in student.parameters()),
        "files": {str(path.relative_to(world.root)): sha256(path) for path in files},
        "seconds": watch.seconds,
    }
    world.facts.write_text(json.dumps(facts, indent=2) + "\n")


def _corpus(asked: Sequence[Request], n: int, care: float, rng: random.Random) -> list[tuple[str, str]]:
    """`n` instructions and what writers of this care answered."""
    wanted = [rng.choice(asked) for _ in range(n)]
    return [(request.word(one, rng), str(noise.write(one, rng, care=care))) for one in wanted]


def _examples(exchanges: Sequence[tuple[str, str]], words: PreTrainedTokenizerFast) -> list[policy.Example]:
    return [
        policy.Example(prompt=tokenizer.prompt_tokens(words, prompt), answer=tokenizer.answer_tokens(words, answer))
        for prompt, answer in exchanges
    ]


def _comparisons(
    student: LlamaForCausalLM | None,
    words: PreTrainedTokenizerFast,
    asked: Sequence[Request],
    size: Size,
    name: str,
    n: int,
) -> list[reward.Comparison]:
    """Judged answers to `n` prompts: some of the policy's own where there is one, some by writers, some spoiled."""
    rng = _rng(size, name)
    wanted = [rng.choice(asked) for _ in range(n)]
    prompts = [request.word(one, rng) for one in wanted]
    contexts = [tokenizer.prompt_tokens(words, prompt) for prompt in prompts]
    answers = [_written(one, rng) for one in wanted]
    if student is not None:
        repeated = [context for context in contexts for _ in range(SAMPLES)]
        seed = seeds.derive(size.seed, name, "samples")
        drawn = policy.sample(student, words, repeated, max_tokens=size.max_tokens, seed=seed)
        texts = [str(words.decode(row, skip_special_tokens=True)) for row in drawn]
        answers = [[*texts[at * SAMPLES : (at + 1) * SAMPLES], *given[SAMPLES:]] for at, given in enumerate(answers)]
    comparisons = []
    for prompt, given in zip(prompts, answers, strict=True):
        every = [*given, *(reward.spoil(rng.choice(given), rng) for _ in range(SPOILED))]
        comparisons.append(reward.compare(words, prompt, every, rng))
    return comparisons


def _written(one: Request, rng: random.Random) -> list[str]:
    """Answers by writers, the last MISHEARD of them to another request."""
    heard = [*([one] * (ANSWERS - SPOILED - MISHEARD)), *(noise.mishear(one, rng) for _ in range(MISHEARD))]
    return [str(noise.write(request, rng, care=rng.choice(CARES))) for request in heard]


def _split(every: Sequence[Request], seed: int) -> tuple[list[Request], list[Request]]:
    """Requests to train on, and requests kept for evaluation."""
    order = random.Random(seeds.derive(seed, "split")).sample(every, len(every))
    kept = int(KEPT * len(order))
    return order[kept:], order[:kept]


def _write_prompts(path: Path, asked: Sequence[Request], n: int, rng: random.Random) -> None:
    """`n` different prompts, the requests taken in turn."""
    rows: dict[str, Request] = {}
    while len(rows) < n:
        for one in rng.sample(asked, len(asked)):
            rows.setdefault(request.word(one, rng), one)
    with path.open("w", encoding="utf-8") as file:
        for number, (prompt, one) in enumerate(list(rows.items())[:n]):
            file.write(json.dumps({"id": f"{path.stem}-{number:05d}", "prompt": prompt, **asdict(one)}) + "\n")


def _rng(size: Size, *purpose: int | str) -> random.Random:
    return random.Random(seeds.derive(size.seed, *purpose))


@contextmanager
def _settled_torch() -> Iterator[None]:
    """A fixed number of threads and deterministic algorithms; afterwards as it was."""
    import torch

    threads, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(THREADS)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(strict)
        torch.set_num_threads(threads)


class _Watch:
    """Reports each stage with the seconds it took."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self.report = report
        self.seconds: dict[str, float] = {}
        self.since = time.monotonic()

    def done(self, stage: str, what: str) -> None:
        now = time.monotonic()
        self.seconds[stage], self.since = round(now - self.since, 1), now
        self.report(f"{stage}: {what} ({self.seconds[stage]:.1f} s)")
