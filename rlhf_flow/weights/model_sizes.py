"""The dimensions of a decoder from its configuration, whose keys differ between Llama, GPT-2, Falcon, MPT and others.

Of a multimodal model: those of its text model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PretrainedConfig

POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "context_length")
# Recurrent models and models with ALiBi biases have no maximum length.
ENDLESS = ("bloom", "mpt", "mamba", "mamba2", "falcon_mamba", "rwkv", "recurrent_gemma", "xlnet")
BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class Sizes:
    layers: int
    width: int
    inner: int  # of the feed-forward layers
    queries: int  # total width of the query heads
    keys: int  # total width of the key heads
    heads: int
    vocabulary: int
    positions: int | None  # maximum sequence length in tokens; None: no limit

    def cache(self, dtype: str) -> int:
        """Bytes of the KV cache per token."""
        return 2 * self.layers * self.keys * BYTES[dtype]


def sizes_of(config: PretrainedConfig) -> Sizes:
    text = config.get_text_config()
    keys = text.to_dict()

    def size(*names: str, otherwise: int) -> int:
        found = (keys.get(text.attribute_map.get(name, name)) for name in names)
        return next((int(value) for value in found if isinstance(value, int | float)), otherwise)

    width = size("hidden_size", "d_model", otherwise=0)
    heads = size("num_attention_heads", "n_heads", otherwise=1)
    per_head = size("head_dim", otherwise=width // heads)
    shared = bool(keys.get("multi_query")) and not keys.get("new_decoder_architecture")  # GPT-BigCode, Falcon
    groups = 1 if shared else size("num_key_value_heads", "num_kv_heads", otherwise=heads)
    return Sizes(
        layers=size("num_hidden_layers", "n_layers", otherwise=0),
        width=width,
        inner=size("intermediate_size", "n_inner", "ffn_dim", otherwise=4 * width),
        queries=heads * per_head,
        keys=groups * per_head,
        heads=heads,
        vocabulary=size("vocab_size", otherwise=0),
        positions=_positions(text, keys),
    )


def read_sizes(path: str, *, revision: str | None = None, trust_remote_code: bool = False) -> Sizes:
    """The sizes of a checkpoint: a folder, or a name on the hub."""
    from transformers import AutoConfig

    return sizes_of(AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code))


def _positions(text: PretrainedConfig, keys: dict[str, Any]) -> int | None:
    if keys.get("alibi") or text.model_type in ENDLESS:
        return None
    for name in POSITIONS:
        value = keys.get(text.attribute_map.get(name, name))
        if isinstance(value, int) and value > 0:
            return value
    return None
