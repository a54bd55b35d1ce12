"""Doctor and run refuse a model that cannot be learned from or drawn from before any worker starts, with a way out."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import transformers
from families.models import make

from rlhf_flow.cli.main import main
from tests.support import tiny
from tests.support.tokenizer import tokenizer

pytestmark = pytest.mark.slow


def t5(folder: Path) -> Path:
    words = tokenizer()
    config = transformers.T5Config(vocab_size=len(words), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    transformers.T5ForConditionalGeneration(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def decoder_of_t5_kind(folder: Path) -> Path:
    """BART has a class of causal models, and is none as it is stored."""
    words = tokenizer()
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = transformers.BartConfig(vocab_size=len(words), max_position_embeddings=64, **sizes, **heads)
    transformers.BartForConditionalGeneration(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


REFUSED = {
    "t5": (t5, {}, "an encoder and a decoder"),
    "bart": (decoder_of_t5_kind, {}, "an encoder and a decoder"),
    "mamba": (lambda folder: make("mamba", folder, tokenizer()), {}, "has layers with a recurrent state"),
    "lfm2": (lambda folder: make("lfm2", folder, tokenizer()), {}, r"recurrent state \(conv\)"),
    "qwen3-next": (lambda folder: make("qwen3-next", folder, tokenizer()), {}, "linear_attention"),
    "images on vllm": (
        lambda folder: make("gemma3-vision", folder, tokenizer()),
        {"engine": "vllm", "cluster": "ray"},
        "Gemma3ForConditionalGeneration also reads images.*engine=huggingface",
    ),
    "adapters on vllm": (
        lambda folder: make("falcon", folder, tokenizer()),
        {"engine": "vllm", "cluster": "ray", "learner": "lora", "engine.lora_rank": 16},
        r"engine\.lora_rank=16: FalconForCausalLM is not supported with adapters by vLLM",
    ),
    "adapters of experts on vllm": (
        lambda folder: make("mixtral", folder, tokenizer()),
        {"engine": "vllm", "cluster": "ray", "learner": "lora", "engine.lora_rank": 16},
        r"engine\.lora_rank=16: MixtralForCausalLM has experts.*engine\.lora_rank=0",
    ),
    "lora on Conv1D": (
        lambda folder: make("gpt2", folder, tokenizer()),
        {"learner": "lora"},
        r"learner\.lora\.rank=16: LoRA supports only",
    ),
    "lora on a layer that is not there": (
        lambda folder: make("llama", folder, tokenizer()),
        {"learner": "lora", "learner.lora.targets": "[c_attn]"},
        r"learner\.lora\.targets",
    ),
}


@pytest.mark.parametrize("command", ["doctor", "run"])
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_work_is_refused_by_doctor_and_run_alike(
    command: str, case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model, keys, says = REFUSED[case]
    if case == "images on vllm" and find_spec("torchvision"):
        pytest.skip("torchvision is installed")
    model, asked = write_model(tmp_path / "model"), tiny.prompts(tmp_path / "prompts.jsonl")
    status = main([command, *tiny.overrides(model, asked, tmp_path / "run", **keys)])
    told = capsys.readouterr()
    text = " ".join((told.out + told.err).split())
    assert status == (1 if command == "doctor" else 2), text
    assert re.search(says, text), text
    assert command == "doctor" or "Fix:" in text
    assert not (tmp_path / "run/rounds").exists()
