"""A reward model: a causal sequence classifier whose forward pass returns the outputs of its head.

Imported only when a learner opens, so it may import torch at its top.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import logging

from rlhf_flow.learner.policy_model import quiet_config
from rlhf_flow.learner.reward_head import Head

TOLERANCE = 1e-3  # between our outputs and the model's own in float32


class RewardHeadModel(nn.Module):
    """The outputs [D] of a model's head at one position of each row, in float32."""

    def __init__(self, lm: PreTrainedModel) -> None:
        super().__init__()
        self.lm = lm

    def forward(self, tokens: Tensor, at: Tensor, targets: Tensor) -> Tensor:
        """Tokens [R, L] padded on the right, at [R] into tokens.flatten() -> float32 [R * D], row by row.

        No attention mask is needed: the padding is on the right, which causal attention does not see. `targets` are
        those of a policy, and unused.
        """
        hidden = self.lm.base_model(input_ids=tokens, use_cache=False).last_hidden_state  # [R, L, H]
        last = hidden.flatten(0, 1).index_select(0, at)  # [R, H]
        score = score_of(self.lm)
        with torch.autocast(last.device.type, enabled=False):  # bfloat16 rewards would have three digits
            numbers: Tensor = score(last.to(score.weight.dtype))  # [R, D]
        return numbers.float().flatten()


def load_classifier(path: str, head: Head, *, revision: str | None, trust_remote_code: bool) -> PreTrainedModel:
    """The model in float32, without dropout. A language model gets a new head, the same on every machine.

    Raises ValueError if `path` is neither a causal LM nor a classifier with `head.outputs` labels.
    """
    from transformers import AutoModelForSequenceClassification

    source = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        config = quiet_config(path, **source)
        own = any(name.endswith("ForSequenceClassification") for name in config.architectures or ())
        if own and config.num_labels != head.outputs:
            raise ValueError(f"its head has {config.num_labels} outputs, and learner.head.outputs is {head.outputs}")
        config.num_labels = head.outputs
        with _silent():  # about the unused head of a language model, and the missing one
            lm, report = AutoModelForSequenceClassification.from_pretrained(
                path, config=config, dtype=torch.float32, output_loading_info=True, **source
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"model.path={path!r} cannot be trained as a reward model: {error}") from error
    missing = set(report["missing_keys"])
    if missing - {"score.weight"} or (own and missing):
        raise ValueError(f"model.path={path!r} is incomplete: it has no weights for {sorted(missing)[:3]}")
    if missing:
        _begin(score_of(lm), head.seed)
    return lm


def score_of(lm: PreTrainedModel) -> nn.Linear:
    """The head. Raises ValueError if the model has no linear layer `score`, as all causal classifiers have."""
    score = dict(lm.named_children()).get("score")
    if not isinstance(score, nn.Linear):
        raise ValueError(f"model.path: {type(lm).__name__} has no linear layer `score`: not a causal classifier")
    return score


@torch.no_grad()
def verify(model: RewardHeadModel) -> None:
    """Compare our outputs with the model's own. Raises ValueError if they differ, or if the model is not causal."""
    text = model.lm.config.get_text_config()
    tokens = torch.arange(min(9, text.vocab_size))
    tokens = tokens[tokens != (-1 if text.pad_token_id is None else text.pad_token_id)][None]  # [1, 8]
    middle = tokens.shape[1] // 2
    ours = model(tokens, torch.tensor([middle]), torch.zeros(0))  # [D]; the model's own pass lacks the rest
    theirs = model.lm(input_ids=tokens[:, : middle + 1]).logits[0].float()
    worst = (ours - theirs).abs().max().item()
    if not worst <= TOLERANCE:
        raise ValueError(
            f"model.path: our outputs of {type(model.lm).__name__} differ from the model's own by {worst:.2g}. "
            "It is not causal, or its score is more than a linear layer on the last token: not supported."
        )


@contextmanager
def _silent() -> Iterator[None]:
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


@torch.no_grad()
def _begin(score: nn.Linear, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    score.weight.copy_(torch.randn(score.weight.shape, generator=generator) / (score.in_features + 1) ** 0.5)
    if score.bias is not None:
        score.bias.zero_()
