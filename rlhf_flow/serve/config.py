"""The configuration of `rlhf-flow serve`: one scorer, and how it is served."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError

from rlhf_flow.config import compose as config
from rlhf_flow.config.identity import FREE
from rlhf_flow.config.schema import part_name
from rlhf_flow.specs import Place, ScorerSpec
from rlhf_flow.system.loopback import is_loopback
from rlhf_flow.system.redact import check, redact, token_in

DEFAULTS = [  # as those of configs/run.yaml
    "serve_schema",
    {"scorer": "reward_model"},
    {f"scorer@scorer.{config.INNER}": None},
    {"override hydra/hydra_logging": "none"},
    {"override hydra/job_logging": "none"},
    "_self_",
]
QUIET = {
    "job": {"name": "rlhf-flow", "chdir": False},
    "run": {"dir": "."},
    "output_subdir": None,
    "sweep": {"dir": "."},
}


@dataclass(frozen=True)
class ServeConfig:
    """A scorer, and how it is served."""

    scorer: Any = MISSING
    host: str = "127.0.0.1"
    port: int = 8000  # 0: any that is free
    token_env: str | None = None  # the environment variable that holds the token which clients must send
    token: str = "required"  # required | none (any program on this machine may send requests)
    names: list[str] = field(default_factory=list)  # further host names of this server, such as judge.example
    max_body_mib: int = 64  # of a request
    body_seconds: float = 60.0  # to receive a request
    max_waiting: int = 64  # requests; further ones get status 503
    batch_wait_ms: float = 0.0  # how long a request waits for others to be scored with; 0: each is scored alone
    max_batch: int = 4096  # answers scored together; a larger request is scored alone
    device: str = "cpu"  # of a scorer that is a model
    threads: int = 1  # CPU threads of the scorer

    def __post_init__(self) -> None:
        for key, rule, ok in (
            ("host", "an address to listen on", bool(self.host)),
            ("port", "from 0 (any that is free) to 65535", 0 <= self.port <= 65535),
            ("token_env", "the name of an environment variable", self.token_env != ""),
            ("token", "required or none", self.token in ("required", "none")),
            ("names", "host names or addresses, without a port", all(map(_is_host, self.names))),
            ("max_body_mib", ">= 1", self.max_body_mib >= 1),
            ("body_seconds", "> 0", self.body_seconds > 0),
            ("max_waiting", ">= 1", self.max_waiting >= 1),
            ("batch_wait_ms", ">= 0", self.batch_wait_ms >= 0),
            ("max_batch", ">= 1", self.max_batch >= 1),
            ("threads", ">= 1", self.threads >= 1),
        ):
            if not ok:
                raise ValueError(f"{key} must be {rule}, got {vars(self)[key]!r}")
        if self.token == "none" and self.token_env is not None:
            raise ValueError(f"token=none and token_env={self.token_env} exclude each other. Fix: leave one out.")
        if self.token_env is None and not is_loopback(self.host):
            raise ValueError(
                f"host={self.host} can be reached from other machines, so clients must send a token. "
                "Fix: export JUDGE_TOKEN=$(openssl rand -hex 16), and token_env=JUDGE_TOKEN; or host=127.0.0.1."
            )

    @property
    def place(self) -> Place:
        return Place(device=self.device, threads=self.threads)

    def expected(self) -> str | None:
        """The token that clients must send; None if token=none.

        Raises ValueError if no variable is named, or it holds no token.
        """
        if self.token == "none":
            return None
        if self.token_env is None:
            raise ValueError(
                "token_env must be given: clients must send a token, because every program and browser page on this "
                "machine can send requests. Fix: export JUDGE_TOKEN=$(openssl rand -hex 16), "
                "token_env=JUDGE_TOKEN here, and scorer.token_env=JUDGE_TOKEN in the run; or token=none."
            )
        return token_in("token_env", self.token_env)


def _is_host(name: str) -> bool:
    return re.fullmatch(r"[\w.-]+|\[[0-9a-fA-F:.]+\]", name) is not None


@cache
def register() -> None:
    """Register the configuration `serve` and every scorer with Hydra."""
    config.register()
    schema = OmegaConf.structured(ServeConfig)
    OmegaConf.set_readonly(schema, None)  # overrides must be possible; the built config is frozen
    store = ConfigStore.instance()
    store.store("serve_schema", schema, provider="rlhf_flow")
    store.store("serve", OmegaConf.create({"defaults": DEFAULTS, "hydra": QUIET}), provider="rlhf_flow")


def build(composed: DictConfig) -> ServeConfig:
    """The checked configuration. Raises ValueError or an OmegaConf error."""
    try:
        made = config.instance(composed)
    except InterpolationKeyError as error:
        if not str(error.full_key).endswith("budget.account"):
            raise
        raise ValueError(
            f"{error.full_key} must be given, because a server has no run to name the account. "
            f"Fix: {error.full_key}=my-judge; spending under one name is added up."
        ) from error
    assert isinstance(made, ServeConfig)
    built = replace(made, scorer=config.part_of("scorer", made.scorer))
    check(config.leaves(built))
    return built


def fingerprint(spec: ScorerSpec) -> str:
    """The identity of a scorer: its name, the keys that affect scores, and the content of its files."""
    identity = {**_identity(spec), "sha256": spec.fingerprint()}
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _identity(spec: object) -> dict[str, object]:
    """The name and the keys of a scorer, and of the scorer that it wraps."""
    keys = redact(config.plain(spec))
    assert isinstance(keys, dict)
    bound = {key: value for key, value in keys.items() if f"scorer.{key}" not in FREE}
    if bound.get(config.INNER) is not None:
        bound[config.INNER] = _identity(vars(spec)[config.INNER])
    return {"scorer": part_name("scorer", spec), **bound}
