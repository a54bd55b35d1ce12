"""How responses are sampled from a policy."""

from __future__ import annotations

from dataclasses import dataclass

NEUTRAL: dict[str, tuple[float | None, ...]] = {  # values at which a setting does not change the distribution
    "temperature": (1.0,),
    "top_p": (1.0,),
    "top_k": (0,),
    "min_p": (None, 0.0),
    "repetition_penalty": (None, 1.0),
}


@dataclass(frozen=True)
class SamplingParams:
    """How responses are decoded.

    A text of `stop` ends a response as the end token does: the response has the tokens up to the one that completes the
    text, each with its log-prob, and is not truncated. `Response.text` ends before the text.
    """

    name: str = "policy"  # part of the ids of the responses
    n: int = 2  # responses per prompt
    temperature: float = 1.0  # 0: greedy
    top_p: float = 1.0  # 1: off
    top_k: int = 0  # 0: off
    max_tokens: int = 512  # longer responses are cut
    min_p: float | None = None  # minimum probability, relative to the likeliest token; null: off
    repetition_penalty: float | None = None  # on tokens of prompt and response: Keskar et al. 2019, arXiv:1909.05858
    stop: list[str] | None = None  # texts that end a response

    def __post_init__(self) -> None:
        for key, rule, ok in (
            ("n", ">= 1", self.n >= 1),
            ("n", "1 at temperature 0, where all responses are equal", self.n == 1 or self.temperature != 0),
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
        """Whether responses follow the distribution of the policy's log-probs at T=1."""
        return not self.overrides

    @property
    def overrides(self) -> dict[str, float]:
        """The settings that change the distribution."""
        return {key: vars(self)[key] for key, neutral in NEUTRAL.items() if vars(self)[key] not in neutral}

    def ends(self, text: str) -> int | None:
        """Where the first text of `stop` begins in `text`; None if it has none."""
        return min((at for at in map(text.find, self.stop or ()) if at >= 0), default=None)
