"""The sizes of a model from its config.json. No weights are read or allocated.

Letters: P parameters, Lm the largest of them, K layers, H hidden, I inner of the feed-forward layers, Q and G widths
of all query and of all key heads together (heads times head width), A heads, V vocabulary.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from rlhf_flow.weights.model_sizes import sizes_of


@dataclass(frozen=True)
class Shape:
    """A decoder of K equal layers. Sizes are numbers of elements."""

    parameters: int  # P; tied ones once
    linear: int  # of P, in matrices other than the token embedding
    largest: int  # Lm
    ends: int  # parameters of a LoRA adapter of rank 1: rows plus columns of all linear layers but the output
    layers: int  # K
    width: int  # H
    inner: int  # I
    queries: int  # Q
    keys: int  # G
    heads: int  # A
    vocabulary: int  # V
    positions: int | None  # the context in tokens; None: unlimited
    gated: bool  # whether the feed-forward layer multiplies two projections, as in Llama
    experts: bool  # a mixture of experts, whose activations `activations` does not model
    stored: int  # bytes of an element in the checkpoint's own dtype


def shape_of(path: str, *, revision: str | None = None, trust_remote_code: bool = False, head: bool = False) -> Shape:
    """The shape of a local folder or a hub name; `head`: of a sequence classifier.

    Raises ValueError if it has no configuration of a known model.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    source = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(path, **source)
        kind = AutoModelForSequenceClassification if head else AutoModelForCausalLM
        with torch.device("meta"):
            skeleton = kind.from_config(config, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path} has no config.json of a known model: {error}") from error
    named = dict(skeleton.named_parameters())
    embedding = skeleton.get_input_embeddings().weight
    matrices = sum(p.numel() for p in named.values() if p.dim() >= 2 and p is not embedding)
    if not head and skeleton.get_output_embeddings().weight is embedding:  # tied: used as a matrix too
        matrices += embedding.numel()
    output = None if head else skeleton.get_output_embeddings()
    layers = [one for one in skeleton.modules() if isinstance(one, torch.nn.Linear) and one is not output]
    stored = config.dtype or torch.float32
    return Shape(
        parameters=sum(p.numel() for p in named.values()),
        linear=matrices,
        largest=max(p.numel() for p in named.values()),
        ends=sum(one.in_features + one.out_features for one in layers),
        gated=any("gate" in name for name in named),
        experts=any("expert" in name for name in named),
        stored=stored.itemsize,
        **asdict(sizes_of(config)),
    )
