"""`answers.*`: sampling parameters for all draws of the sampler and for evaluation."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf, read_write

from rlhf_flow.types import SamplingParams


@dataclass(frozen=True)
class Answers:
    """Sampling parameters of every draw of the sampler and of evaluation; null: the draw's own value.

    A key of one draw (sampler.draws.0.max_tokens, evaluate.draw.temperature) takes precedence for that draw.
    """

    n: int | None = None  # answers per prompt, divided over the draws in the proportions of the algorithm
    max_tokens: int | None = None  # tokens; longer answers are cut. null: 512
    temperature: float | None = None  # null: 1, or the algorithm's
    top_p: float | None = None  # null: 1, or the algorithm's
    top_k: int | None = None  # null: all tokens
    min_p: float | None = None  # minimum probability, relative to the likeliest token. null: off
    repetition_penalty: float | None = None  # above 1: makes tokens of prompt and answer less likely
    stop: list[str] | None = None  # texts that end an answer, as the end token does

    def __post_init__(self) -> None:
        given = {key: value for key, value in vars(self).items() if value is not None and key != "n"}
        try:
            SamplingParams(name="answers", n=1, **given)
        except ValueError as error:
            told = str(error).replace("draw 'answers': ", "answers.")
            raise ValueError(f"{told}. Fix: leave it out for the algorithm's own value.") from error
        if self.n is not None and self.n < 1:
            raise ValueError(f"answers.n must be >= 1, got {self.n}. Fix: answers.n=2.")

    def spread(self, slot: str, node: DictConfig, typed: Collection[str]) -> None:
        """Write them into the draws in `node`, whose key is `slot`. Keys in `typed` keep their value."""
        draws = [(key, draw) for key, draw in _draws(slot, node) if draw.get("candidate") is None]
        if not draws:
            return
        for key, value in vars(self).items():
            if value is not None and key != "n":
                for draw_key, draw in draws:
                    if f"{draw_key}.{key}" not in typed:
                        _set(draw, key, value)
        if self.n is not None and slot == "sampler":
            self._divide(self.n, draws, typed)

    def _divide(self, total: int, draws: Sequence[tuple[str, DictConfig]], typed: Collection[str]) -> None:
        free = [draw for key, draw in draws if f"{key}.n" not in typed]
        if not free and "answers.n" not in typed:  # it is an experiment's
            return
        left = total - sum(draw.n for key, draw in draws if f"{key}.n" in typed)
        share = sum(draw.n for draw in free)
        if left < 1 or not free or any(left * draw.n % share for draw in free):
            have = ", ".join(f"{draw.name} {draw.n}" for _, draw in draws)
            raise ValueError(
                f"answers.n={total}: cannot be divided over the draws of the sampler ({have}) in their proportions. "
                f"Fix: answers.n={sum(draw.n for _, draw in draws)}, or an n for each draw."
            )
        for draw, n in [(draw, left * draw.n // share) for draw in free]:
            _set(draw, "n", n)


def _set(draw: DictConfig, key: str, value: object) -> None:
    with read_write(draw):  # items of lists are frozen like their class
        draw[key] = value


def _draws(key: str, node: object) -> Iterator[tuple[str, DictConfig]]:
    """Every draw in a configuration, by its key."""
    if not isinstance(node, DictConfig | ListConfig):
        return
    kind = OmegaConf.get_type(node)
    if isinstance(node, DictConfig) and isinstance(kind, type) and issubclass(kind, SamplingParams):
        yield key, node
        return
    for name, child in children(node):
        yield from _draws(f"{key}.{name}", child)


def children(node: DictConfig | ListConfig) -> Iterator[tuple[object, object]]:
    """Keys and values of a node, except missing values and interpolations."""
    keys: list[Any] = list(node) if isinstance(node, DictConfig) else list(range(len(node)))
    for key in keys:
        if not OmegaConf.is_missing(node, key) and not OmegaConf.is_interpolation(node, key):
            yield key, node[key]
