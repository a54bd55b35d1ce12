"""The scorer of an evaluation, which keeps its judgements in the evaluation's folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from rlhf_flow.config.compose import leaves, plain
from rlhf_flow.config.schema import RunConfig, part_name
from rlhf_flow.config.stored import check_secrets
from rlhf_flow.protocols import Scorer
from rlhf_flow.scorer.none import NoScorer
from rlhf_flow.scorer.wrappers.cached import Cached

JUDGEMENTS = "judgements.sqlite"


def name_of(config: RunConfig) -> str:
    """The scorer in words: `rule my_lab.reward`, `reward_model my/rm`."""
    spec = plain(config.scorer)
    assert isinstance(spec, dict)
    kind = part_name("scorer", config.scorer)
    return " ".join([kind, *(str(spec[key]) for key in ("function", "path") if spec.get(key))])


def check(config: RunConfig) -> None:
    """Raise ValueError if `config.scorer` is none, or its keys, secrets or packages are wrong."""
    if isinstance(config.scorer, NoScorer):
        raise ValueError("scorer=none: it gives no verdicts. Fix: scorer=NAME; rlhf-flow ls scorers lists them.")
    check_secrets({f"scorer.{key}": value for key, value in leaves(config.scorer).items()})
    config.scorer.check()


@contextlib.contextmanager
def opened(config: RunConfig, out: Path) -> Iterator[Scorer]:
    """`config.scorer` on the cluster of `config`.

    Its judgements are cached in `out`, unless the scorer has a cache of its own, as an LLM judge and people have.
    Raises ValueError as `check`.
    """
    check(config)
    spec = config.scorer
    if spec.cache_format is not None:
        out.mkdir(parents=True, exist_ok=True)
        spec = Cached(base=spec, cache=str(out / JUDGEMENTS))
    cluster = config.cluster.open()
    try:
        scorer = cluster.scorer(spec)
        cluster.ready()
        yield scorer
    finally:
        cluster.close()
