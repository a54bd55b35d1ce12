"""How answers are drawn from a policy."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SamplingParams:
    """How responses are decoded. `overrides` has the settings that sample from another policy than the one scored.

    A text of `stop` ends an answer as its end token does: the tokens up to the one that completes the text are the
    answer's, each with the policy's own log-prob, and the answer is not truncated; `Response.text` ends before it.
    """

    name: str = "policy"  # in the ids of its answers
    n: int = 2  # responses per prompt
    temperature: float = 1.0  # 0: the likeliest token always
    top_p: float = 1.0  # share of the probability that the likeliest tokens must have; 1: off
    top_k: int = 0  # 0: off
    max_tokens: int = 512  # a longer answer is cut
    min_p: float | None = None  # of the likeliest token's probability; null: off
    repetition_penalty: float | None = None  # of tokens of prompt and answer: Keskar et al. 2019, arXiv:1909.05858
    stop: list[str] | None = None  # texts that end an answer

    def __post_init__(self) -> None:
        for key, rule, ok in (
            ("n", ">= 1", self.n >= 1),
            ("n", "1 at temperature 0, where answers repeat (or raise it)", self.n == 1 or self.temperature != 0),
            ("temperature", ">= 0", self.temperature >= 0),
            ("top_p", "in (0, 1]", 0 < self.top_p <= 1),
            ("top_k", ">= 0", self.top_k >= 0),
            ("max_tokens", ">= 1", self.max_tokens >= 1),
            ("min_p", "in [0, 1], or null", self.min_p is None or 0 <= self.min_p <= 1),
            ("repetition_penalty", "> 0, or null", self.repetition_penalty is None or self.repetition_penalty > 0),
            ("stop", "texts that are not empty", self.stop is None or all(self.stop)),
        ):
            if not ok:
                raise ValueError(f"draw {self.name!r}: {key} must be {rule}, got {getattr(self, key)}")

    @property
    def is_on_policy(self) -> bool:
        """Whether samples follow exactly the distribution that log-probs at T=1 describe."""
        return not self.overrides

    @property
    def overrides(self) -> dict[str, float]:
        """The settings that make samples follow another distribution."""
        own = {
            "temperature": (1.0,),
            "top_p": (1.0,),
            "top_k": (0,),
            "min_p": (None, 0.0),
            "repetition_penalty": (None, 1.0),
        }
        return {key: vars(self)[key] for key, neutral in own.items() if vars(self)[key] not in neutral}

    def ends(self, text: str) -> int | None:
        """Where the first text of `stop` begins in `text`; None if it has none."""
        found = [at for at in map(text.find, self.stop or ()) if at >= 0]
        return min(found, default=None)
