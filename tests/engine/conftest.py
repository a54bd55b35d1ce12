"""Tiny models with peaked distributions, a float32 oracle for them, and engines that serve them."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from rlhf_flow.engine.huggingface import HuggingFace
from rlhf_flow.engine.vllm.spec import VLLM
from rlhf_flow.protocols import Engine
from rlhf_flow.specs import EngineSpec, Model, Place
from rlhf_flow.types import Mixture, Policy, Probe, Prompt, Rollouts, SamplingParams
from rlhf_flow.weights.fingerprint import fingerprint
from rlhf_flow.weights.source import Checkpoint, InMemoryWeights

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

END, POSITIONS, SECONDS = 1, 128, 240


@dataclass(frozen=True)
class Mixed:
    """The mixture of a world's weights of two seeds."""

    policy: int
    reference: int
    weight: float


class World:
    """A checkpoint on disk, other weights of the same architecture, and what a plain float32 forward says of both."""

    def __init__(self, folder: Path, *, tied: bool = False, vocabulary: int = 128) -> None:
        self.folder = folder
        self.tied = tied
        self.vocabulary = vocabulary
        self._networks: dict[int, LlamaForCausalLM] = {}
        self._network(seed=0).save_pretrained(folder)
        _tokenizer(vocabulary).save_pretrained(folder)
        self.model = Model(str(folder))
        self.start = Policy("start", 0, fingerprint(Checkpoint(folder).load()), Checkpoint(folder))

    def state(self, seed: int) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in self._network(seed=seed).state_dict().items()}

    def policy(self, seed: int, *, probed_as: int | None = None, name: str = "policy") -> Policy:
        """Weights of `seed`, with the probe that belongs to the weights of `probed_as`."""
        state = self.state(seed)
        tokens = (0, *(token % self.vocabulary for token in range(20, 40)))
        logps = self.logps(seed if probed_as is None else probed_as, tokens, 3)
        return Policy(name, 1, fingerprint(state), InMemoryWeights(state), Probe(tokens, 3, tuple(logps.tolist())))

    def mixture(self, of: Mixed) -> Mixture:
        policy, reference = (self.start if seed == 0 else self.policy(seed) for seed in (of.policy, of.reference))
        return Mixture(policy, reference, of.weight)

    def logps(self, of: int | Mixed, tokens: Sequence[int], first: int) -> np.ndarray:
        """float32 log-probs of tokens[first:] by one forward pass without cache, padding or batch."""
        return self.distributions(of, tokens)[np.arange(first - 1, len(tokens) - 1), tokens[first:]]

    def distributions(self, of: int | Mixed, tokens: Sequence[int]) -> np.ndarray:
        """Log-probs [S, V] of the token after each position: of the weights of a seed, or of a mixture."""
        import torch

        if isinstance(of, Mixed):
            mixed = (1 - of.weight) * self.distributions(of.policy, tokens)
            mixed += of.weight * self.distributions(of.reference, tokens)
            return mixed - np.logaddexp.reduce(mixed, axis=-1, keepdims=True)
        with torch.inference_mode():
            logits = self._network(seed=of)(torch.tensor([list(tokens)])).logits[0]
        return logits.float().log_softmax(-1).numpy()

    def worst_error(self, of: int | Mixed, rollouts: Rollouts, logps: Sequence[np.ndarray]) -> float:
        """The largest difference of `logps`, one array per response, to this oracle's."""
        pairs = [(p, r) for p, group in zip(rollouts.prompts, rollouts.responses, strict=True) for r in group]
        return max(
            float(np.abs(found - self.logps(of, [*p.tokens, *r.tokens.tolist()], len(p.tokens))).max())
            for (p, r), found in zip(pairs, logps, strict=True)
        )

    def _network(self, *, seed: int) -> LlamaForCausalLM:
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        if seed in self._networks:
            return self._networks[seed]
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self._networks[seed] = LlamaForCausalLM(
                LlamaConfig(
                    vocab_size=self.vocabulary,
                    hidden_size=64,
                    intermediate_size=128,
                    num_hidden_layers=2,
                    num_attention_heads=2,
                    num_key_value_heads=1,
                    max_position_embeddings=POSITIONS,
                    initializer_range=0.2,
                    bos_token_id=0,
                    eos_token_id=END,
                    tie_word_embeddings=self.tied,
                )
            ).eval()
        return self._networks[seed]


def _tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    words = ["<s>", "</s>", "<unk>", *(f"w{number}" for number in range(3, vocabulary))]
    plain = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    plain.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=plain, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


class Server:
    """Engines in one other process, with the signature they would have here."""

    def __init__(self) -> None:
        self._here, there = multiprocessing.Pipe()
        with there:
            self._process = subprocess.Popen(
                [sys.executable, str(Path(__file__).parents[1] / "support/serve.py"), str(there.fileno())],
                pass_fds=[there.fileno()],
                env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
            )

    def ask(self, method: str, *arguments: object, **options: object) -> object:
        self._here.send_bytes(pickle.dumps((method, arguments, options)))  # send() would share tensors' memory
        assert self._here.poll(SECONDS), f"no answer to {method} within {SECONDS} seconds"
        well, answer = pickle.loads(self._here.recv_bytes())
        if not well:
            raise answer
        return answer

    def open(self, spec: EngineSpec, model: Model, *, mixes: bool = False) -> Engine:
        return Served(self, self.ask("open", spec, model, Place(), mixes=mixes))

    def close(self) -> None:
        self._here.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()


@dataclass(frozen=True)
class Served:
    server: Server
    handle: object

    def generate(
        self, prompts: Sequence[Prompt], policy: Policy | Mixture, draw: SamplingParams, *, round: int, seed: int
    ) -> Rollouts:
        return self.server.ask("generate", self.handle, prompts, policy, draw, round=round, seed=seed)

    def logps(self, rollouts: Rollouts, policy: Policy | Mixture) -> list[np.ndarray]:
        return self.server.ask("logps", self.handle, rollouts, policy)

    def close(self) -> None:
        self.server.ask("close", self.handle)


def _serve() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


server = pytest.fixture(scope="session", name="server")(_serve)
fresh_server = pytest.fixture(name="fresh_server")(_serve)


@pytest.fixture(scope="session")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, World]:
    return {name: World(tmp_path_factory.mktemp(name), tied=name == "tied") for name in ("untied", "tied")}


@pytest.fixture(scope="session")
def world(worlds: Mapping[str, World]) -> World:
    return worlds["untied"]


@dataclass
class Opener:
    """Opens engines on worlds. They stay open: closing one vLLM ends all others of its process."""

    open: Callable[[Model, bool], Engine]  # whether it mixes
    engines: dict[tuple[Path, bool], Engine] = field(default_factory=dict)

    def fresh(self, world: World, *, mixes: bool = False) -> Engine:
        return self.open(world.model, mixes)

    def shared(self, world: World, *, mixes: bool = False) -> Engine:
        """The engine of all tests of a world: each names the policy it wants, so their order does not matter."""
        key = world.folder, mixes
        if key not in self.engines:
            self.engines[key] = self.fresh(world, mixes=mixes)
        return self.engines[key]


@pytest.fixture(scope="session")
def vllm_opener(server: Server) -> Opener:
    return Opener(lambda model, mixes: server.open(VLLM(kv_cache_mib=16), model, mixes=mixes))


@pytest.fixture(scope="session", params=["huggingface", pytest.param("vllm", marks=pytest.mark.vllm)])
def opener(request: pytest.FixtureRequest) -> Opener:
    if request.param == "vllm":
        return request.getfixturevalue("vllm_opener")
    return Opener(lambda model, mixes: HuggingFace(batch=24).open(model, Place(), mixes=mixes))


@pytest.fixture(scope="session")
def engine(opener: Opener, world: World) -> Engine:
    return opener.shared(world)


@pytest.fixture(scope="session")
def mixer(opener: Opener, world: World) -> Engine:
    return opener.shared(world, mixes=True)


@pytest.fixture
def prompts() -> list[Prompt]:
    """32 prompts of 4 to 66 tokens; the long ones share a beginning that a prefix cache holds."""
    shared = tuple(range(40, 104))
    return [
        Prompt(f"p{i}", (), (0, *shared, 3 + i) if i % 4 == 0 else (0, *range(5 + i, 8 + i + i % 7))) for i in range(32)
    ]
