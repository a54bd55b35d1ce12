"""A pairwise preference model: a causal language model that is asked which of two answers is better, A or B.

P(A is better) = softmax over the log-probs of the two letters. RLHF Workflow, Dong et al. 2024, arXiv:2405.07863, and
before it SLiC-HF, Zhao et al. 2023, arXiv:2305.10425. Both orders are asked and averaged: no letter has an advantage.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from inspect import signature
from typing import TYPE_CHECKING

from rlhf_flow.scorer.matches import Match
from rlhf_flow.scorer.models.hf_checkpoint import DTYPES, Source, at_work
from rlhf_flow.scorer.pair_schedule import BothOrders, PairVerdict, settled
from rlhf_flow.scorer.token_batches import Tokens, by_length, packed, padded
from rlhf_flow.specs import Place
from rlhf_flow.tokenization.chat_template import FORMATS, Templated
from rlhf_flow.tokenization.pairwise_prompt import TEMPLATE, TOO_LONG, Question, answer_token, check_words
from rlhf_flow.types import Rollouts, Scored
from rlhf_flow.weights.offload import HostOffload

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class PreferenceModel(BothOrders, Templated):
    """Two different answers to a prompt are compared once, in both orders. That is one query.

    A model that was trained to compare has a template of its own, which must be given as it was trained with.
    """

    path: str  # local folder, or name on the hub
    revision: str | None = None  # of a name on the hub
    trust_remote_code: bool = False  # run the code that comes with the checkpoint
    format: str = "chat"  # chat: the question is a user's message in its own template; plain: BOS and the question
    template: str = TEMPLATE  # the question, of {conversation}, {first} and {second}
    turn: str = "{role}: {content}"  # a message of {conversation}; blank lines stand between
    first: str = "A"  # the token that says: the first is better
    second: str = "B"  # the letter of the second answer
    max_tokens: int | None = None  # of the whole question; None: all that the model can read
    too_long: str = "cut"  # cut: the conversation's beginning, then both answers' ends; abstain. Both are counted
    batch_tokens: int = 8192  # padding included; a question longer than that is read alone
    dtype: str = "float32"  # float32 or bfloat16

    def __post_init__(self) -> None:
        super().__post_init__()
        check_words("scorer", template=self.template, turn=self.turn, first=self.first, second=self.second)
        for key, rule, ok in (
            ("path", "a checkpoint", bool(self.path)),
            ("format", f"one of {', '.join(FORMATS)}", self.format in FORMATS),
            ("max_tokens", ">= 2", self.max_tokens is None or self.max_tokens >= 2),
            ("too_long", f"one of {', '.join(TOO_LONG)}", self.too_long in TOO_LONG),
            ("batch_tokens", ">= 1", self.batch_tokens >= 1),
            ("dtype", f"one of {', '.join(DTYPES)}", self.dtype in DTYPES),
        ):
            if not ok:
                raise ValueError(f"scorer.{key} must be {rule}, got {vars(self)[key]!r}")

    @property
    def intransitive(self) -> bool:
        return True

    @property
    def loads_model(self) -> bool:
        return True

    @property
    def cache_format(self) -> str:
        return "pairs"

    def fingerprint(self) -> str:
        """Hash of the weights of a local checkpoint; a model of the hub is what its name and revision say."""
        return self._source.fingerprint()

    def check(self) -> None:
        """Raise ValueError where the checkpoint cannot be asked so, as far as can be told without its weights."""
        self._asked()

    def open(self, place: Place) -> PreferenceJudge:
        """Load the model onto `place.device`. Raises ValueError where it is no causal language model."""
        from transformers import AutoModelForCausalLM

        question, words = self._asked()
        model = at_work(self._source.model(AutoModelForCausalLM.from_pretrained, self.dtype), place)
        return PreferenceJudge(self, model, question, words)

    @property
    def _source(self) -> Source:
        return Source(self.path, self.revision, self.trust_remote_code, self.chat_template)

    def _asked(self) -> tuple[Question, tuple[int, int]]:
        """The question, and the two tokens that may answer it."""
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

        config = self._source.config()
        classes = config.architectures or ()
        own = config.to_dict().get("auto_map") or {}
        if "AutoModelForCausalLM" not in own and not set(classes) & set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()):
            raise ValueError(
                f"scorer.path must be the checkpoint of a causal language model, and {self.path!r} is "
                f"{', '.join(classes) or 'none'}. A model that gives each answer a number is scorer=reward_model."
            )
        tokenizer = self._source.tokenizer(self.format)
        longest = self._source.longest(config, tokenizer, self.max_tokens)
        words = (answer_token(tokenizer, "first", self.first), answer_token(tokenizer, "second", self.second))
        return Question(tokenizer, self.format, self.template, self.turn, longest), words


class PreferenceJudge:
    """A preference model at work."""

    def __init__(
        self, spec: PreferenceModel, model: PreTrainedModel, question: Question, words: tuple[int, int]
    ) -> None:
        self._spec = spec
        self._model = model
        self._aside = HostOffload()
        self._question = question
        self._words = words
        self._keeps = "logits_to_keep" in signature(model.forward).parameters  # not in all code from elsewhere

    def score(self, rollouts: Rollouts) -> Scored:
        """Ask every question once; the batches are a function of the set of questions.

        The verdicts are inconsistent where both orders prefer the same place, and so they are marked. Raises
        FloatingPointError, with the ids of the responses, where an answer is not finite.
        """
        counts = Counter[str]()

        def ask(matches: Sequence[Match]) -> list[PairVerdict]:
            return self._ask(matches, counts)

        scored = self._spec.compare(rollouts, ask, marks=["inconsistent"])
        return replace(scored, counts={**counts, **scored.counts})

    def step_aside(self) -> None:
        self._aside.leave(self._model.device, self._model)

    def come_back(self) -> None:
        self._aside.come_back()

    def close(self) -> None:
        """Let go of the model, once and for all."""
        vars(self).pop("_model", None)

    def _ask(self, asked: Sequence[Match], counts: Counter[str]) -> list[PairVerdict]:
        """What the model says of matches. Adds to the counts."""
        views, truncated = [], 0
        for match in asked:
            both, cut = self._read(match)
            views.append(both)
            truncated += cut
        rows = by_length({tokens for both in views if both is not None for tokens in both})
        says = {
            tokens: margin
            for batch in packed(rows, self._spec.batch_tokens)
            for tokens, margin in zip(batch, self._forward(batch), strict=True)
        }
        said = [
            PairVerdict(math.nan) if both is None else self._settled(match, *(says[tokens] for tokens in both))
            for match, both in zip(asked, views, strict=True)
        ]
        counts.update(
            {
                "judge/queries": sum(both is not None for both in views),
                "judge/truncated": truncated,
                "judge/inconsistent": sum(one.mark == "inconsistent" for one in said),
            }
        )
        return said

    def _read(self, match: Match) -> tuple[tuple[Tokens, ...] | None, bool]:
        """The question in both orders, and whether it had to be cut."""
        cut = self._spec.too_long == "cut"
        try:
            return self._question.both(match.prompt.messages, match.first.text, match.second.text, cut=cut)
        except ValueError as error:
            raise ValueError(f"{match}: {error}") from error

    def _settled(self, match: Match, forth: float, back: float) -> PairVerdict:
        """Of the margins that the model gives where the first stands first, and where it stands second."""
        if not (math.isfinite(forth) and math.isfinite(back)):
            raise FloatingPointError(
                f"the preference model compared {match} as {forth} and {back}; try scorer.dtype=float32"
            )
        return settled(_sigmoid(forth), _sigmoid(back), inconsistent=self._spec.inconsistent)

    def _forward(self, batch: Sequence[Tokens]) -> list[float]:
        """log P(first word) - log P(second word) behind each row of the batch, in nats."""
        import torch

        tokens, mask = padded(batch, 0, self._model.device)  # any token: no row sees what stands to its right
        last = mask.sum(-1) - 1  # [R]
        begin = min(map(len, batch)) - 1 if self._keeps else 0
        few = {"logits_to_keep": tokens.shape[1] - begin} if self._keeps else {}
        with torch.inference_mode():
            output = self._model(input_ids=tokens, attention_mask=mask, use_cache=False, **few)
        rows = torch.arange(len(batch), device=last.device)
        words = output.logits[rows, last - begin][:, list(self._words)].float()  # [R, 2]
        return [float(margin) for margin in words[:, 0] - words[:, 1]]


def _sigmoid(margin: float) -> float:
    """Of two, the softmax is the logistic of the difference."""
    small = math.exp(-abs(margin))
    return 1 / (1 + small) if margin >= 0 else small / (1 + small)
