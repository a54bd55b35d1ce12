"""Where the embedded world is: a folder named by the hash of all that made it."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

from rlhf_flow import seeds
from rlhf_flow.sandbox import gold, grammar, lexicon, noise, request

FROZEN = (lexicon, request, grammar, gold, noise)
# Sources that make nothing of the world: they may change, and a world that was built stays the one that is meant.
OUTSIDE = (
    "__main__.py",  # the command that builds it or finds it
    "styles.py",  # judges of a policy's answers; no answer, prompt or weight of the world has met them
)


@dataclass(frozen=True)
class Size:
    """How large the world is. The defaults are the world; tests build smaller ones."""

    seed: int = 1
    vocabulary: int = 1280
    width: int = 128
    layers: int = 4
    positions: int = 1024
    max_tokens: int = 64  # of an answer
    careful: int = 4_000  # instruction/answer pairs by careful writers, learned first
    usual: int = 14_000  # instruction/answer pairs by the usual, careless ones
    policy_batch: int = 32
    policy_lr: float = 6e-3
    written: int = 5000  # prompts for which judges compared what writers answered
    drawn: int = 1000  # prompts for which they compared what the policy answered
    reward_batch: int = 8  # prompts
    reward_lr: float = 2.5e-3
    prompts: int = 4096
    held_out: int = 512


@dataclass(frozen=True)
class World:
    """Where the parts of a built world are."""

    root: Path
    policy: Path = field(init=False)  # Hugging Face checkpoint of a causal LM, with its tokenizer
    reward_model: Path = field(init=False)  # Hugging Face checkpoint of a sequence classifier, with its tokenizer
    prompts: Path = field(init=False)  # JSONL: id, prompt, and what it asks for
    held_out: Path = field(init=False)  # the same; no request in it occurs in `prompts` or in the corpus

    def __post_init__(self) -> None:
        for name, file in (
            ("policy", "policy"),
            ("reward_model", "reward_model"),
            ("prompts", "prompts.jsonl"),
            ("held_out", "held_out.jsonl"),
        ):
            object.__setattr__(self, name, self.root / file)

    @property
    def facts(self) -> Path:
        """world.json: sizes, hashes, the reward model's accuracy. Written last."""
        return self.root / "world.json"

    @property
    def exists(self) -> bool:
        return self.facts.is_file()


def frozen_hash() -> str:
    """sha256 over the source of what must not change once policies were tuned on it."""
    return _source_hash([Path(str(module.__file__)) for module in FROZEN])


def key(size: Size) -> str:
    """Hash of all that makes a world: source, sizes and the versions of the libraries that train it."""
    here = Path(__file__).parent
    sources = [*sorted(here.glob("*.py")), Path(str(seeds.__file__))]
    made_by = {
        "source": _source_hash([path for path in sources if path.name not in OUTSIDE]),
        "size": asdict(size),
        "versions": {name: version(name) for name in ("torch", "transformers", "tokenizers")},
    }
    return hashlib.sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()


def locate(root: Path | None = None, *, size: Size | None = None) -> World:
    """Where the world is, or will be once it is built: a folder of `root`, ${RLHF_FLOW_HOME:-~/.cache/rlhf-flow}."""
    home = root or Path(os.environ.get("RLHF_FLOW_HOME") or Path.home() / ".cache" / "rlhf-flow")
    return World(root=home / f"sandbox-{key(size or Size())[:12]}")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _source_hash(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.name}\x1f{sha256(path)}\x1f".encode())
    return digest.hexdigest()
