"""One set of keys for how answers are drawn, whichever sampler an algorithm has, and for the held-out answers."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf, read_write

from rlhf_flow.types import SamplingParams


@dataclass(frozen=True)
class Answers:
    """How answers are drawn: every draw of the sampler, and the one of evaluation, takes what is not null here.

    A key that is given for one draw (sampler.draws.0.max_tokens, evaluate.draw.temperature) is kept for that draw.
    """

    n: int | None = None  # answers to each prompt, over all draws, in the proportions that the algorithm has
    max_tokens: int | None = None  # tokens of an answer: a longer one is cut. null: 512
    temperature: float | None = None  # null: 1, or what the algorithm says
    top_p: float | None = None  # null: 1, or what the algorithm says
    top_k: int | None = None  # null: all tokens
    min_p: float | None = None  # tokens below this share of the likeliest one's probability are left out. null: none
    repetition_penalty: float | None = None  # above 1: tokens of the prompt and the answer become less likely
    stop: list[str] | None = None  # texts that end an answer, as its end token does

    def __post_init__(self) -> None:
        given = {key: value for key, value in vars(self).items() if value is not None and key != "n"}
        try:
            SamplingParams(name="answers", n=1, **given)
        except ValueError as error:
            raise ValueError(str(error).replace("draw 'answers': ", "answers.")) from error
        if self.n is not None and self.n < 1:
            raise ValueError(f"answers.n must be >= 1, got {self.n}. Fix: answers.n=2.")

    def spread(self, slot: str, node: DictConfig, typed: Collection[str]) -> None:
        """Write them into the draws inside of `node`, which is at the key `slot`; keys in `typed` keep their value."""
        draws = [(key, draw) for key, draw in _draws(slot, node) if draw.get("candidate") is None]
        if not draws:
            return
        for key, value in vars(self).items():
            if value is not None and key != "n":
                for place, draw in draws:
                    if f"{place}.{key}" not in typed:
                        _set(draw, key, value)
        if self.n is not None and slot == "sampler":
            self._divide(self.n, draws, typed)

    def _divide(self, total: int, draws: Sequence[tuple[str, DictConfig]], typed: Collection[str]) -> None:
        free = [draw for place, draw in draws if f"{place}.n" not in typed]
        left = total - sum(draw.n for _, draw in draws if draw not in free)
        share = sum(draw.n for draw in free)
        if left < 1 or not free or any(left * draw.n % share for draw in free):
            have = ", ".join(f"{draw.name} {draw.n}" for _, draw in draws)
            raise ValueError(
                f"answers.n={total} cannot be divided over the draws of the sampler ({have}) in their proportions. "
                f"Fix: answers.n={sum(draw.n for _, draw in draws)}, or an n for each draw."
            )
        for draw, n in [(draw, left * draw.n // share) for draw in free]:
            _set(draw, "n", n)


def _set(draw: DictConfig, key: str, value: object) -> None:
    with read_write(draw):  # an item of a list is frozen as its class is
        draw[key] = value


def _draws(key: str, node: object) -> Iterator[tuple[str, DictConfig]]:
    """Every draw inside of a configuration, by its key."""
    if not isinstance(node, DictConfig | ListConfig) or node._is_none() or node._is_missing():
        return
    kind = OmegaConf.get_type(node)
    if isinstance(node, DictConfig) and isinstance(kind, type) and issubclass(kind, SamplingParams):
        yield key, node
        return
    names: list[Any] = list(node.keys()) if isinstance(node, DictConfig) else list(range(len(node)))
    for name in names:
        yield from _draws(f"{key}.{name}", node._get_node(name))
