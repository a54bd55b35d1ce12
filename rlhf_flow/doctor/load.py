"""`rlhf-flow doctor --load`: load the learner, the engine and each scorer of a run, in separate processes.

The learner publishes the start as it would publish a policy. transformers and the run's engine then load the published
checkpoint, and all must give the same log-probs.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_flow.config import compose as configuration
from rlhf_flow.config.schema import RunConfig, part_name
from rlhf_flow.config.stored import plain_of_file
from rlhf_flow.doctor.finding import Finding, ok, problem
from rlhf_flow.specs import Model, Place
from rlhf_flow.tokenization.chat_template import chat_text, chat_tokens, encode, plain_tokens
from rlhf_flow.tokenization.end_tokens import named_ends
from rlhf_flow.types import Message, Policy, Prompt, Response, Rollouts, SamplingParams
from rlhf_flow.weights.fingerprint import checkpoint_fingerprint
from rlhf_flow.weights.model_sizes import sizes_of
from rlhf_flow.weights.soft_caps import keep_soft_caps
from rlhf_flow.weights.source import Checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ASKED = (Message("user", "What is two and two?"),)
ANSWERS = ("Two and two are four.", "I do not know.")
SECONDS = 600.0  # timeout of each process
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.2}  # nats: the largest difference, and the mean one
LAST = 8  # tokens at the end of a prompt to print


def findings(config: RunConfig) -> Iterator[Finding]:
    """Load the checkpoints of a run and compare them. `config.model.path` must be a folder."""
    chat = config.prompts.format == "chat"
    yield from described(config.model, chat=chat)
    with tempfile.TemporaryDirectory() as folder:
        written, published = Path(folder) / "run.yaml", Path(folder) / "policy"
        written.write_text(configuration.as_yaml(config))
        if vars(config.engine) and config.engine.gpus:  # engine=none, for training a reward model, has no fields
            yield from _policy(config, written, published)
        for slot, scorer in (("scorer", config.scorer), ("evaluate.scorer", config.evaluate.scorer)):
            if scorer is not None and scorer.loads_model:
                yield from _scorer(slot, written)


def described(model: Model, *, chat: bool) -> Iterator[Finding]:
    """The rendered prompt, the tokens that end an answer, and the sizes of the model."""
    from transformers import AutoConfig

    tokenizer = model.tokenizer()
    tokens = _prompt(tokenizer, chat=chat).tokens
    text = chat_text(tokenizer, ASKED, reply=True) if chat else ASKED[0].content
    last = tokenizer.convert_ids_to_tokens(list(tokens[-LAST:]))
    yield ok("chat", f"a prompt: {text!r}")
    yield ok(
        "chat", f"its last tokens: {' '.join(f'{id} {word!r}' for id, word in zip(tokens[-LAST:], last, strict=True))}"
    )
    ends = named_ends(model.path, tokenizer)
    names = ", ".join(
        f"{id} {tokenizer.convert_ids_to_tokens(id)!r} ({', '.join(named)})" for id, named in ends.items()
    )
    yield ok("chat", f"an answer ends with: {names}")
    config = AutoConfig.from_pretrained(model.path, trust_remote_code=model.trust_remote_code)
    text_config, sizes = config.get_text_config(), sizes_of(config)
    tied = "tied" if text_config.to_dict().get("tie_word_embeddings") else "not tied"
    stored = str(config.dtype or "a type that config.json does not name").removeprefix("torch.")
    reads = f"{sizes.positions} positions" if sizes.positions else "no limit of positions"
    yield ok(
        "models",
        f"{', '.join(config.architectures or ['?'])}: {sizes.layers} layers of {sizes.width}, {reads}, "
        f"stored as {stored}, read as {model.dtype}, embeddings {tied}",
    )


def _policy(config: RunConfig, written: Path, published: Path) -> Iterator[Finding]:
    name = f"engine={part_name('engine', config.engine)}"
    learned = _in_process("learner", written, published)
    if isinstance(learned, str):
        yield problem("load", f"the learner cannot load or publish model.path: {learned}", _FIX)
        return
    wanted = learned["start"]
    yield ok("load", f"the learner loads model.path and publishes it, in {learned['seconds']:.0f} s")
    yield _compared("transformers", "what the learner publishes", learned["published"], wanted, config.model.dtype)
    served = _in_process("engine", written, published)
    if isinstance(served, str):
        yield problem("load", f"{name} cannot load it: {served}", _FIX)
        return
    yield ok(
        "load", f"{name} loads model.path in {served['seconds']:.0f} s, and begins to answer with {served['token']!r}"
    )
    yield _compared(name, "model.path", served["start"], wanted, config.model.dtype)
    yield _compared(name, "what the learner publishes", served["published"], wanted, config.model.dtype)


def _scorer(slot: str, written: Path) -> Iterator[Finding]:
    found = _in_process(slot, written, written)
    if isinstance(found, str):
        yield problem("load", f"{slot} cannot score: {found}", f"another {slot}, or correct it")
        return
    scores = ", ".join(f"{answer!r} {score:.3f}" for answer, score in zip(ANSWERS, found["scores"], strict=True))
    yield ok("load", f"{slot} scores two answers to {ASKED[0].content!r}: {scores}")


_FIX = "another engine or model; rlhf-flow run would fail in the same way"


def _compared(reader: str, what: str, found: list[float], wanted: list[float], dtype: str) -> Finding:
    off = [abs(one - other) for one, other in zip(found, wanted, strict=True)]
    kind, difference = ("largest", max(off)) if dtype == "float32" else ("mean", sum(off) / len(off))
    says = f"{reader} reads {what}: {kind} difference of log-probs {difference:.1e} nats over {len(off)} tokens"
    if difference <= TOLERANCE[dtype]:
        return ok("load", says)
    return problem(
        "load", f"{says}: {reader} computes a different model", "another engine; please report the model in an issue"
    )


def _in_process(role: str, written: Path, published: Path) -> dict[str, Any] | str:
    """The result of a role, or the last line of its error."""
    command = [sys.executable, "-m", "rlhf_flow.doctor.load", role, str(written), str(published)]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return f"it took more than {SECONDS:.0f} s"
    lines = ran.stdout.splitlines()
    if ran.returncode == 0 and lines:
        found: dict[str, Any] = json.loads(lines[-1])
        return found
    errors = [line for line in ran.stderr.splitlines() if line.strip()]
    return (errors[-1].strip() if errors else f"exit status {ran.returncode}").rstrip(".")


# -- in the process of a role ------------------------------------------------------------------------------------------


def main(role: str, written: str, published: str) -> dict[str, Any]:
    """Load the learner, the engine or a scorer as the run would."""
    config = configuration.from_plain(plain_of_file(Path(written)))
    if role == "learner":
        return _learner(config, Path(published))
    return _engine(config, Path(published)) if role == "engine" else _scores(config, role)


def _learner(config: RunConfig, published: Path) -> dict[str, Any]:
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM

    from rlhf_flow.learner.torch import Torch

    began = time.perf_counter()
    model, start = config.model, _start(config.model)
    learner = Torch().open(model, Place())
    learner.start(start)
    learner.save_policy(published, learner.publish("policy", 1))
    learner.close()
    seconds = time.perf_counter() - began
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[model.dtype]
    prompt, answer = _asked(config)
    ids = torch.tensor([[*prompt.tokens, *answer]])
    found: dict[str, Any] = {"seconds": seconds}
    for name, folder in (("start", model.path), ("published", str(published))):
        lm = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, trust_remote_code=model.trust_remote_code).eval()
        keep_soft_caps(lm)
        with torch.inference_mode():
            logps = lm(input_ids=ids).logits[0].float().log_softmax(-1)
        at = np.arange(len(prompt.tokens) - 1, ids.shape[1] - 1)
        found[name] = logps[at, ids[0, len(prompt.tokens) :]].tolist()
    return found


def _engine(config: RunConfig, published: Path) -> dict[str, Any]:
    began = time.perf_counter()
    prompt, answer = _asked(config)
    found: dict[str, Any] = {}
    for name, folder in (("start", config.model.path), ("published", str(published))):
        model = replace(config.model, path=folder)
        policy = _start(model)
        engine = config.engine.sized(len(prompt.tokens) + len(answer) + 1).open(model, Place())
        drawn = engine.generate(
            [prompt], policy, SamplingParams("greedy", n=1, temperature=0.0, max_tokens=1), round=1, seed=0
        )
        (logps,) = engine.logps(_rollouts(prompt, [answer]), policy)
        engine.close()
        found[name] = logps.tolist()
        if name == "start":
            found["seconds"] = time.perf_counter() - began
            found["token"] = model.tokenizer().decode(drawn.responses[0][0].tokens.tolist())
    return found


def _scores(config: RunConfig, slot: str) -> dict[str, Any]:
    scorer = config.scorer if slot == "scorer" else config.evaluate.scorer
    prompt = Prompt("example", ASKED, (0,))
    judge = scorer.open(Place())
    scored = judge.score(_rollouts(prompt, [[1], [2]]))
    return {"scores": scored.utility[0].tolist()}


def _start(model: Model) -> Policy:
    folder = Path(model.path)
    return Policy("policy", 0, checkpoint_fingerprint(folder), Checkpoint(folder, model.trust_remote_code))


def _asked(config: RunConfig) -> tuple[Prompt, list[int]]:
    """An example prompt, and the tokens of an answer to it."""
    tokenizer = config.model.tokenizer()
    prompt = _prompt(tokenizer, chat=config.prompts.format == "chat")
    return prompt, encode(tokenizer, ANSWERS[0])


def _prompt(tokenizer: PreTrainedTokenizerBase, *, chat: bool) -> Prompt:
    tokens = chat_tokens(tokenizer, ASKED, reply=True) if chat else plain_tokens(tokenizer, ASKED[0].content)
    return Prompt("example", ASKED, tuple(tokens))


def _rollouts(prompt: Prompt, answers: list[list[int]]) -> Rollouts:
    import numpy as np

    group = tuple(
        Response(
            id=f"1/example/{k}/example",
            tokens=np.array(answer, dtype=np.int32),
            text=ANSWERS[k],
            logps=None,
            truncated=False,
            draw=SamplingParams("example", n=len(answers), max_tokens=len(answer)),
            seed=k,
            policy="",
            source="policy",
        )
        for k, answer in enumerate(answers)
    )
    return Rollouts(1, (prompt,), (group,))


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
