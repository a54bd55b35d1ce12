"""A reward model: a causal sequence classifier whose forward pass returns the outputs of its head.

Imported only when a learner opens, so it may import torch at its top.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from heapq import merge
from operator import itemgetter

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from rlhf_flow.learner.policy_model import built, quiet_config, ready
from rlhf_flow.learner.reward_head import Head
from rlhf_flow.weights.buckets import Index, index_of
from rlhf_flow.weights.source import Checkpoint, Weights

SCORE = "score.weight"  # of the head

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
    with _explained(path):
        config = _config(path, head, **source)
        with _silent():  # about the unused head of a language model, and the missing one
            lm, report = AutoModelForSequenceClassification.from_pretrained(
                path, config=config, dtype=torch.float32, output_loading_info=True, **source
            )
    missing = set(report["missing_keys"])
    if missing - {SCORE} or (classifies(config) and missing):
        raise ValueError(f"model.path={path!r} is incomplete: it has no weights for {sorted(missing)[:3]}")
    if missing:
        with torch.no_grad():
            score_of(lm).load_state_dict(new_head(score_of(lm), head.seed))
    return lm


def build_classifier(
    path: str, head: Head, *, revision: str | None, trust_remote_code: bool
) -> tuple[PreTrainedModel, PreTrainedModel]:
    """The model without weights, and a miniature of it with random ones. Raises ValueError as `load_classifier`."""
    from transformers import AutoModelForSequenceClassification

    with _explained(path):
        config = _config(path, head, revision=revision, trust_remote_code=trust_remote_code)
        lm, small = built(AutoModelForSequenceClassification, config, trust_remote_code=trust_remote_code)
    return lm, ready(small)


def _config(path: str, head: Head, **source: object) -> PreTrainedConfig:
    """The configuration of the classifier."""
    config = quiet_config(path, **source)
    if classifies(config) and config.num_labels != head.outputs:
        raise ValueError(f"its head has {config.num_labels} outputs, and learner.head.outputs is {head.outputs}")
    config.num_labels = head.outputs
    return config


def classifies(config: PreTrainedConfig) -> bool:
    """Whether the checkpoint is that of a classifier, which has a head."""
    return any(name.endswith("ForSequenceClassification") for name in config.architectures or ())


@contextmanager
def _explained(path: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"model.path={path!r} cannot be trained as a reward model: {error}") from error


@dataclass(frozen=True)
class NewHead:
    """The checkpoint of a language model with a new head in place of its output layer, tensor by tensor."""

    lm: Checkpoint
    head: Head

    def index(self) -> Index:
        return index_of(self._classifier.state_dict())

    def stream(self) -> Iterator[tuple[str, Tensor]]:
        score = score_of(self._classifier)
        own = {f"score.{name}": tensor for name, tensor in new_head(score, self.head.seed).items()}
        names = {entry.name for entry in self.index()}
        if not names - own.keys() <= {entry.name for entry in self.lm.index()}:  # the classifier has other names
            path, trust = str(self.lm.path), self.lm.trust_remote_code
            whole = load_classifier(path, self.head, revision=None, trust_remote_code=trust).state_dict()
            yield from ((name, whole[name]) for name in sorted(whole))
            return
        kept = ((name, tensor) for name, tensor in self.lm.stream() if name in names)
        yield from merge(kept, sorted(own.items()), key=itemgetter(0))

    def load(self) -> dict[str, Tensor]:
        return dict(self.stream())

    @cached_property
    def _classifier(self) -> PreTrainedModel:
        from transformers import AutoModelForSequenceClassification

        trust = self.lm.trust_remote_code
        config = _config(str(self.lm.path), self.head, trust_remote_code=trust)
        with torch.device("meta"):
            lm: PreTrainedModel = AutoModelForSequenceClassification.from_config(config, trust_remote_code=trust)
        return lm


def with_head(checkpoint: Checkpoint, head: Head) -> Weights:
    """The weights of a checkpoint; those of a language model with a new head."""
    config = quiet_config(str(checkpoint.path), trust_remote_code=checkpoint.trust_remote_code)
    return checkpoint if classifies(config) else NewHead(checkpoint, head)


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


def new_head(score: nn.Linear, seed: int) -> dict[str, Tensor]:
    """The weights of a new head, of which `score` gives the shapes."""
    generator = torch.Generator().manual_seed(seed)
    scale = (score.in_features + 1) ** 0.5
    found = {"weight": torch.randn(score.weight.shape, generator=generator) / scale}
    return found if score.bias is None else found | {"bias": torch.zeros(score.bias.shape)}
