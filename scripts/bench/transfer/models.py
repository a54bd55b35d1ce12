"""Random Llamas of a given size in MiB, nearly all of it in the layers"""

from __future__ import annotations

from pathlib import Path

from rlhf_flow.specs import Model
from rlhf_flow.weights.buckets import MIB

VOCABULARY = 256
WIDTHS = {1024: 2816, 256: 704}  # feed-forward width by hidden size


def make_model(folder: Path, mib: int) -> Model:
    """A float32 Llama of about `mib` MiB, as wide as possible."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    layers = {width: mib * MIB / (4 * (4 * width * width + 3 * width * inner)) for width, inner in WIDTHS.items()}
    width = next((width for width, number in layers.items() if number >= 1), min(WIDTHS))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=WIDTHS[width],
        num_hidden_layers=max(1, round(layers[width])),
        num_attention_heads=width // 64,
        max_position_embeddings=64,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w2"))
    PreTrainedTokenizerFast(tokenizer_object=words, bos_token="w0", eos_token="w1", pad_token="w2").save_pretrained(
        folder
    )
    return Model(str(folder))
