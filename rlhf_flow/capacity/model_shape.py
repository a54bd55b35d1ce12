"""The sizes of a model, from its config.json alone: no weight is read, and none is allocated.

Letters: P parameters, Lm the largest of them, K layers, H hidden, I inner of the feed-forward layers, Q and G widths
of all query and of all key heads together (heads times head width), A heads, V vocabulary.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from rlhf_flow.capacity.process_memory import HEAP
from rlhf_flow.weights.model_sizes import sizes_of


@dataclass(frozen=True)
class Shape:
    """A decoder of K equal layers. Sizes are numbers of elements."""

    parameters: int  # P; a tied one once
    linear: int  # of P, in matrices other than the token embedding
    largest: int  # Lm
    small: float  # share of P in parameters below 32 MiB of float32
    ends: int  # rows and columns of all linear layers but the output: what an adapter of rank 1 has
    layers: int  # K
    width: int  # H
    inner: int  # I
    queries: int  # Q
    keys: int  # G
    heads: int  # A
    vocabulary: int  # V
    positions: int | None  # tokens of its longest sequence; None: no limit of its own
    gated: bool  # whether the feed-forward layer multiplies two projections, as Llama's does
    experts: bool  # a mixture of them: its activations are not what is written here
    stored: int  # bytes of an element in the checkpoint's own dtype


def shape_of(path: str, *, revision: str | None = None, trust_remote_code: bool = False, head: bool = False) -> Shape:
    """Of a local folder, or of a name on the hub; `head`: of a sequence classifier.

    Raises ValueError where there is no configuration of a known model.
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
        raise ValueError(f"{path} holds no config.json of a model whose size can be told: {error}") from error
    named = dict(skeleton.named_parameters())
    embedding = skeleton.get_input_embeddings().weight
    matrices = sum(p.numel() for p in named.values() if p.dim() >= 2 and p is not embedding)
    if not head and skeleton.get_output_embeddings().weight is embedding:  # tied, and a matrix all the same
        matrices += embedding.numel()
    output = None if head else skeleton.get_output_embeddings()
    layers = [one for one in skeleton.modules() if isinstance(one, torch.nn.Linear) and one is not output]
    stored = config.dtype or torch.float32
    return Shape(
        parameters=sum(p.numel() for p in named.values()),
        linear=matrices,
        largest=max(p.numel() for p in named.values()),
        small=sum(p.numel() for p in named.values() if 4 * p.numel() < HEAP) / sum(p.numel() for p in named.values()),
        ends=sum(one.in_features + one.out_features for one in layers),
        gated=any("gate" in name for name in named),
        experts=any("expert" in name for name in named),
        stored=stored.itemsize,
        **asdict(sizes_of(config)),
    )
