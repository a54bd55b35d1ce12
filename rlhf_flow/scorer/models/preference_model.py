"""A pairwise preference model: a causal language model that compares two answers by its next token, A or B.

P(A is better) is the softmax over the log-probs of the two letters. RLHF Workflow, Dong et al. 2024, arXiv:2405.07863;
earlier SLiC-HF, Zhao et al. 2023, arXiv:2305.10425. Both orders are run and averaged, against position bias.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from inspect import signature
from typing import TYPE_CHECKING, ClassVar

from rlhf_flow.metrics.stats import sigmoid
from rlhf_flow.scorer.fields import check_fields
from rlhf_flow.scorer.models.hf_checkpoint import DTYPES, LoadedModel, OwnModel, Source
from rlhf_flow.scorer.pair_schedule import BothOrders, PairVerdict, settled
from rlhf_flow.scorer.pairwise import Match
from rlhf_flow.scorer.token_batches import Tokens, by_row, padded
from rlhf_flow.specs import Place
from rlhf_flow.tokenization.chat_template import FORMATS
from rlhf_flow.tokenization.pairwise_prompt import TEMPLATE, TOO_LONG, Question, answer_token, check_words
from rlhf_flow.types import Rollouts, Scored

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class PreferenceModel(BothOrders, OwnModel):
    """Two distinct answers to a prompt are compared once, in both orders. That is one query.

    A model that was trained to compare needs the template that it was trained with.
    """

    path: str  # local folder, or name on the hub
    revision: str | None = None  # of a name on the hub
    trust_remote_code: bool = False  # run the checkpoint's own code
    format: str = "chat"  # chat: the question as a user message in the model's template; plain: BOS and the question
    template: str = TEMPLATE  # the question, of {conversation}, {first} and {second}
    turn: str = "{role}: {content}"  # a message of {conversation}; joined by blank lines
    first: str = "A"  # the token for: the first is better
    second: str = "B"  # the token for: the second is better
    max_tokens: int | None = None  # of the question; null: the model's context length
    too_long: str = "cut"  # cut (the conversation's start, then both answers' ends) | abstain; both are counted
    batch_tokens: int = 8192  # of a batch, padding included; a longer question is a batch of its own
    dtype: str = "float32"  # float32 | bfloat16: a GPU computes the second several times faster

    intransitive: ClassVar[bool] = True
    loads_model: ClassVar[bool] = True
    cache_format: ClassVar[str] = "pairs"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_words("scorer", template=self.template, turn=self.turn, first=self.first, second=self.second)
        check_fields(
            self,
            ("path", "a checkpoint", bool(self.path)),
            ("format", f"one of {', '.join(FORMATS)}", self.format in FORMATS),
            ("max_tokens", ">= 2", self.max_tokens is None or self.max_tokens >= 2),
            ("too_long", f"one of {', '.join(TOO_LONG)}", self.too_long in TOO_LONG),
            ("batch_tokens", ">= 1", self.batch_tokens >= 1),
            ("dtype", f"one of {', '.join(DTYPES)}", self.dtype in DTYPES),
            ("threads", ">= 1, or null", self.threads is None or self.threads >= 1),
        )

    def fingerprint(self) -> str:
        """Hash of the weights of a local checkpoint; name and revision of a model on the hub."""
        return self._source.fingerprint()

    def check(self) -> None:
        """Raise ValueError if the checkpoint is of another kind, as far as that shows without its weights."""
        self._asked()

    def open(self, place: Place) -> PreferenceJudge:
        """Load the model onto `place.device`. Raises ValueError if it is no causal language model."""
        from transformers import AutoModelForCausalLM

        question, words = self._asked()
        model = self._source.model(AutoModelForCausalLM.from_pretrained, self.dtype, place.with_threads(self.threads))
        return PreferenceJudge(self, model, question, words)

    @property
    def _source(self) -> Source:
        return Source(self.path, self.revision, self.trust_remote_code, self.chat_template)

    def _asked(self) -> tuple[Question, tuple[int, int]]:
        """The question, and the two tokens that answer it."""
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

        config = self._source.config()
        classes = config.architectures or ()
        own = config.to_dict().get("auto_map") or {}
        if "AutoModelForCausalLM" not in own and not set(classes) & set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()):
            raise ValueError(
                f"scorer.path must be the checkpoint of a causal language model, and {self.path!r} is "
                f"{', '.join(classes) or 'none'}. Fix: for a model that scores one answer use scorer=reward_model."
            )
        tokenizer = self._source.tokenizer(self.format)
        longest = self._source.longest(config, tokenizer, self.max_tokens)
        words = (answer_token(tokenizer, "first", self.first), answer_token(tokenizer, "second", self.second))
        return Question(tokenizer, self.format, self.template, self.turn, longest), words


class PreferenceJudge(LoadedModel):
    """A loaded preference model."""

    def __init__(
        self, spec: PreferenceModel, model: PreTrainedModel, question: Question, words: tuple[int, int]
    ) -> None:
        super().__init__(model)
        self._spec = spec
        self._question = question
        self._words = words
        self._keeps = "logits_to_keep" in signature(model.forward).parameters  # some models' own code lacks it

    def score(self, rollouts: Rollouts) -> Scored:
        """Run every question once; the batches are a function of the set of questions.

        Verdicts are flagged `inconsistent` if both orders prefer the same position. Raises FloatingPointError, with the
        ids of the responses, if a margin is not finite.
        """
        counts = Counter[str]()
        return self._spec.compare(rollouts, partial(self._ask, counts), marks=["inconsistent"], counts=counts)

    def _ask(self, counts: Counter[str], asked: Sequence[Match]) -> list[PairVerdict]:
        """The verdicts on matches. Adds to the counts."""
        views, truncated = [], 0
        for match in asked:
            both, cut = self._read(match)
            views.append(both)
            truncated += cut
        rows = [tokens for both in views if both is not None for tokens in both]
        margins = by_row(rows, self._spec.batch_tokens, self._forward)
        verdicts = [
            PairVerdict(math.nan)
            if both is None
            else self._settled(match, *(float(margins[tokens]) for tokens in both))
            for match, both in zip(asked, views, strict=True)
        ]
        counts.update(
            {
                "judge/queries": sum(both is not None for both in views),
                "judge/truncated": truncated,
                "judge/inconsistent": sum(one.mark == "inconsistent" for one in verdicts),
            }
        )
        return verdicts

    def _read(self, match: Match) -> tuple[tuple[Tokens, ...] | None, bool]:
        """The question in both orders, and whether it was truncated."""
        cut = self._spec.too_long == "cut"
        try:
            return self._question.both(match.prompt.messages, match.first.text, match.second.text, cut=cut)
        except ValueError as error:
            raise ValueError(f"{match}: {error}") from error

    def _settled(self, match: Match, forth: float, back: float) -> PairVerdict:
        """`forth`, `back`: the margins with the match's first answer shown first and second."""
        if not (math.isfinite(forth) and math.isfinite(back)):
            raise FloatingPointError(
                f"the preference model compared {match} as {forth} and {back}. Fix: scorer.dtype=float32"
            )
        return settled(float(sigmoid(forth)), float(sigmoid(back)), inconsistent=self._spec.inconsistent)

    def _forward(self, batch: Sequence[Tokens]) -> Tensor:
        """[R]: log P(first token) - log P(second token) after each row of the batch, in nats."""
        import torch

        tokens, mask = padded(batch, 0, self._model.device)  # any token: attention is causal
        last = mask.sum(-1) - 1  # [R]
        begin = min(map(len, batch)) - 1 if self._keeps else 0
        few = {"logits_to_keep": tokens.shape[1] - begin} if self._keeps else {}
        with torch.inference_mode():
            output = self._model(**self._inputs(tokens, mask), use_cache=False, **few)
        rows = torch.arange(len(batch), device=last.device)
        logits: Tensor = output.logits[rows, last - begin]  # [R, V]
        first, second = (logits[:, word].float() for word in self._words)
        return first - second
