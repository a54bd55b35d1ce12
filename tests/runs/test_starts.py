"""Models as people have them: what a run can start from, and what `run` and `doctor` alike refuse before any worker."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf_flow.cli.main import main
from rlhf_flow.cluster.local import Local
from rlhf_flow.config.compose import compose
from rlhf_flow.config.data_checks import longest_sequence
from rlhf_flow.engine import VLLM, HuggingFace
from rlhf_flow.engine.vllm.cache import cache_bytes, too_small
from rlhf_flow.engine.vllm.process import refusal
from rlhf_flow.runner import prepare as build
from tests.support import tiny
from tests.support.tokenizer import tokenizer

pytestmark = pytest.mark.slow

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.policy(tmp_path_factory.mktemp("policy") / "model")


@pytest.fixture
def model(source: Path, tmp_path: Path) -> Path:
    return shutil.copytree(source, tmp_path / "model")


@pytest.fixture
def asked(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    def started(self: Local) -> None:
        pytest.fail("workers were started for a run that cannot be")

    monkeypatch.setattr(Local, "open", started)
    return tiny.overrides(model, tiny.prompts(tmp_path / "prompts.jsonl"), tmp_path / "run")


def edit(model: Path, **keys: Any) -> None:
    about = json.loads((model / "config.json").read_text()) | keys
    (model / "config.json").write_text(json.dumps(about))


# -- starts that work -------------------------------------------------------------------------------------------------


def saved_as(kind: str, folder: Path) -> Path:
    """The tiny policy, saved as people save theirs."""
    import torch
    from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

    if kind == "GPT-2":
        words = tokenizer()
        ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
        config = GPT2Config(vocab_size=len(words), n_embd=16, n_layer=1, n_head=2, n_positions=128, **ends)
        GPT2LMHeadModel(config).save_pretrained(folder)
        words.pad_token = words.eos_token
        words.save_pretrained(folder)
        return folder
    tiny.policy(folder, rows=400 if kind == "padded vocabulary" else None)
    lm = AutoModelForCausalLM.from_pretrained(folder)
    if kind == "sharded":
        (folder / "model.safetensors").unlink()
        lm.save_pretrained(folder, max_shard_size="20KB")
        assert (folder / "model.safetensors.index.json").is_file()
    elif kind in ("bfloat16", "float16"):
        lm.to(getattr(torch, kind)).save_pretrained(folder)
    elif kind == "torch_dtype":  # as transformers 4 wrote it
        about = json.loads((folder / "config.json").read_text())
        about["torch_dtype"] = about.pop("dtype", "float32")
        (folder / "config.json").write_text(json.dumps(about))
    elif kind == "no generation config":
        (folder / "generation_config.json").unlink()
    return folder


KINDS = ("sharded", "bfloat16", "float16", "padded vocabulary", "torch_dtype", "no generation config", "GPT-2")


@pytest.mark.parametrize("kind", KINDS)
def test_a_start_as_people_have_it_is_taken_and_answers(kind: str, tmp_path: Path) -> None:
    """Prepared, opened by an engine and read by a learner, which agree on the log-probs of what was drawn."""
    import numpy as np

    from rlhf_flow.learner.torch import Torch
    from rlhf_flow.specs import Place
    from rlhf_flow.types import SamplingParams

    start = saved_as(kind, tmp_path / "model")
    config = compose(*tiny.overrides(start, tiny.prompts(tmp_path / "prompts.jsonl"), tmp_path / "run"))
    prepared = build.prepare(config)
    prepared.ledger.close()
    engine = config.engine.sized(64).open(prepared.model, Place())
    draw = SamplingParams("policy", n=2, max_tokens=6)
    drawn = engine.generate(prepared.prompts.batch(1)[:2], prepared.start, draw, round=1, seed=0)
    learner = Torch().open(prepared.model, Place())
    learner.start(prepared.start)
    assert np.isfinite(drawn.responses[0][0].logps).all()
    published = learner.publish("policy", 1)
    learner.save_policy(tmp_path / "published", published)
    assert (tmp_path / "published" / "config.json").is_file()
    learner.close()


# -- starts that cannot be --------------------------------------------------------------------------------------------


def only_bin(model: Path) -> None:
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(model / "model.safetensors"), model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()


def cut_short(model: Path) -> None:
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def damaged(model: Path) -> None:
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:8] + b"\0" * (file.stat().st_size - 8))


def git_lfs(model: Path) -> None:
    (model / "model.safetensors").write_text(LFS)


def git_lfs_config(model: Path) -> None:
    (model / "config.json").write_text(LFS)


def empty_file(model: Path) -> None:
    (model / "model.safetensors").write_bytes(b"")


def adapter_alone(model: Path) -> None:
    for file in ("config.json", "model.safetensors", "generation_config.json"):
        (model / file).unlink()
    (model / "adapter_config.json").write_text('{"base_model_name_or_path": "nobody/nothing"}')


def weights_and_adapter(model: Path) -> None:
    (model / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (model / "adapter_model.safetensors").write_bytes((model / "model.safetensors").read_bytes())


def run_folder(model: Path) -> None:
    (model / "rounds" / "00004").mkdir(parents=True)
    shutil.copytree(model, model.parent / "aside", ignore=shutil.ignore_patterns("rounds"))
    shutil.move(model.parent / "aside", model / "rounds" / "00004" / "policy")
    (model / "config.json").unlink()


def run_folder_of_lora(model: Path) -> None:
    run_folder(model)
    policy = model / "rounds" / "00004" / "policy"
    (policy / "config.json").unlink()
    (policy / "adapter_config.json").write_text('{"peft_type": "LORA"}')


def folder_above(model: Path) -> None:
    shutil.copytree(model, model.parent / "aside")
    shutil.move(model.parent / "aside", model / "checkpoint-500")
    (model / "config.json").unlink()


def gguf(model: Path) -> None:
    (model / "config.json").unlink()
    (model / "model-q4_k_m.gguf").write_bytes(b"GGUF")


def no_tokenizer(model: Path) -> None:
    for file in model.glob("*token*"):
        file.unlink()


def no_chat_template(model: Path) -> None:
    (model / "chat_template.jinja").unlink()


def architecture(name: str, **keys: Any) -> Callable[[Path], None]:
    def change(model: Path) -> None:
        edit(model, architectures=[name], **keys)

    change.__name__ = name
    return change


def quantised(method: str, **settings: Any) -> Callable[[Path], None]:
    def change(model: Path) -> None:
        edit(model, quantization_config={"quant_method": method, **settings})

    change.__name__ = method
    return change


REFUSED: list[tuple[Callable[[Path], None], str, str]] = [
    (only_bin, "no *.safetensors but pytorch_model.bin", "rlhf-flow convert"),
    (cut_short, "model.safetensors is cut short", "fetch it again"),
    (damaged, "model.safetensors is damaged", "fetch it again"),
    (empty_file, "model.safetensors is", "fetch it again"),
    (git_lfs, "pointer of Git LFS", "git lfs pull"),
    (git_lfs_config, "config.json is a pointer of Git LFS", "git lfs pull"),
    (adapter_alone, "an adapter (peft) and no model", "rlhf-flow convert"),
    (weights_and_adapter, "weights and an adapter", "rlhf-flow convert"),
    (run_folder, "it is a run folder", "rounds/00004/policy"),
    (run_folder_of_lora, "it is a run folder, with adapters", "rlhf-flow convert"),
    (folder_above, "no config.json", "checkpoint-500"),
    (gguf, "GGUF", "Hugging Face format"),
    (no_tokenizer, "its tokenizer does not load", "save the tokenizer"),
    (no_chat_template, "chat template", "prompts.format=plain"),
    (architecture("LlamaForSequenceClassification"), "it is a classifier", "a causal language model"),
    (architecture("BertForMaskedLM"), "no causal language model", "a causal language model"),
    (architecture("LlamaModel"), "no causal language model", "a causal language model"),
    (architecture("T5ForConditionalGeneration", is_encoder_decoder=True), "an encoder and a decoder", "a causal"),
    (architecture("Own", auto_map={"AutoModelForCausalLM": "own.Own"}), "(own.py)", "model.trust_remote_code=true"),
    (quantised("bitsandbytes", load_in_4bit=True), "quantised (bitsandbytes)", "that it was made from"),
    (quantised("gptq", bits=4), "quantised (gptq)", "that it was made from"),
    (quantised("awq"), "quantised (awq)", "that it was made from"),
    (quantised("compressed-tensors"), "quantised (compressed-tensors)", "that it was made from"),
    (quantised("fp8"), "quantised (fp8)", "rlhf-flow convert"),
]


@pytest.mark.parametrize(("breaking", "says", "way_out"), REFUSED, ids=[one[0].__name__ for one in REFUSED])
def test_run_and_doctor_find_it_before_any_worker_starts(
    breaking: Callable[[Path], None],
    says: str,
    way_out: str,
    model: Path,
    asked: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    breaking(model)
    assert main(["run", *asked]) == 2
    told = capsys.readouterr().err.strip()
    assert told.startswith("rlhf-flow: ")
    assert says in told and way_out in told, told
    assert "Traceback" not in told and "\n" not in told
    assert main(["doctor", *asked, "--json"]) == 1
    findings = json.loads(capsys.readouterr().out)["findings"]
    problems = [one for one in findings if one["level"] == "problem"]
    assert any(says in one["message"] and way_out in one["message"] + one["remedy"] for one in problems), problems
    assert not any(one["remedy"].startswith(("Try", "Fix")) or ".." in one["message"] for one in problems)


def test_the_command_that_converts_makes_a_start(
    model: Path, tmp_path: Path, asked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The very command that the refusal names."""
    only_bin(model)
    assert main(["run", *asked]) == 2
    words = shlex.split(capsys.readouterr().err.rpartition("convert it: ")[2].strip().rstrip("."))
    assert words[:2] == ["rlhf-flow", "convert"]
    assert main(words[1:]) == 0
    build.prepare(compose(*asked, f"model.path={words[-1]}")).ledger.close()
    assert main(words[1:]) == 2
    assert "is not empty" in capsys.readouterr().err


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside the weights"])
def test_an_adapter_is_merged_into_its_base(beside: bool, source: Path, model: Path, tmp_path: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    lora = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(source), lora).eval()
    ids = torch.tensor([[1, 5, 6]])
    with torch.no_grad():
        wanted = adapted(input_ids=ids).logits
    folder = model if beside else tmp_path / "adapter"
    adapted.save_pretrained(folder)
    assert main(["convert", str(folder), str(tmp_path / "merged")]) == 0
    with torch.no_grad():
        found = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")(input_ids=ids).logits
    assert torch.allclose(found, wanted, atol=1e-5)
    assert (tmp_path / "merged" / "tokenizer.json").is_file()


def test_prompts_that_do_not_fit_the_context_of_a_gpt_2_are_found_before_the_run(
    tmp_path: Path, asked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    start = saved_as("GPT-2", tmp_path / "gpt2")
    prompts = tmp_path / "long.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"{i} " + "word " * 60}) + "\n" for i in range(24)))
    more = [f"model.path={start}", f"prompts.path={prompts}"]
    assert main(["run", *asked, *more]) == 2
    assert "the model reads at most 128" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "keys", "positions"),
    [
        ("GPT2Config", {"n_positions": 77}, 77),
        ("GPTNeoXConfig", {"max_position_embeddings": 77}, 77),
        ("OPTConfig", {"max_position_embeddings": 77}, 77),
        ("GPTJConfig", {"n_positions": 77}, 77),
        ("FalconConfig", {"max_position_embeddings": 77, "alibi": False}, 77),
        ("FalconConfig", {"alibi": True}, None),
        ("BloomConfig", {}, None),
        ("MptConfig", {}, None),
        ("MambaConfig", {}, None),
    ],
)
def test_the_context_is_read_by_the_words_of_each_family(
    name: str, keys: dict[str, Any], positions: int | None
) -> None:
    import transformers

    from rlhf_flow.weights.model_sizes import sizes_of

    sizes = sizes_of(getattr(transformers, name)(**keys))
    assert sizes.positions == positions
    assert sizes.layers > 0 and sizes.width > 0


def test_the_text_of_a_multimodal_model_says_its_sizes() -> None:
    from transformers import Gemma3Config, Gemma3TextConfig

    from rlhf_flow.weights.model_sizes import sizes_of

    config = Gemma3Config(text_config=Gemma3TextConfig(max_position_embeddings=77, num_hidden_layers=3).to_dict())
    assert (sizes_of(config).positions, sizes_of(config).layers) == (77, 3)


def test_a_lora_that_the_model_has_no_layers_for_is_found_before_the_run(
    tmp_path: Path, asked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    start = saved_as("GPT-2", tmp_path / "gpt2")
    assert main(["run", *asked, f"model.path={start}", "learner.lora.rank=4", "prompts.max_tokens=100"]) == 2
    assert "Conv1D" in capsys.readouterr().err


def test_what_a_worker_refuses_as_it_opens_is_one_paragraph(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mistake in what was asked: no traceback, exit status 2, and no word of a command that goes on."""

    def refuse(*_: object, **__: object) -> None:
        raise ValueError("engine=huggingface cannot serve it. Fix: another engine.")

    monkeypatch.setattr(HuggingFace, "open", refuse)
    assert main(["run", *tiny.overrides(model, tiny.prompts(tmp_path / "prompts.jsonl"), tmp_path / "run")]) == 2
    assert capsys.readouterr().err.strip() == "rlhf-flow: engine=huggingface cannot serve it. Fix: another engine."


@pytest.mark.parametrize(
    ("said", "fix"),
    [
        (
            "1 validation error for ModelConfig\n  Value error, User-specified max_model_len (129) is greater than the "
            "derived max_model_len (128). [type=value_error, input_value=ArgsKwargs((), {}), input_type=ArgsKwargs]\n"
            "    For further information visit https://errors.pydantic.dev/2/v/value_error",
            "lower engine.max_model_len, or leave it out.",
        ),
        (
            "To serve at least one request with the models's max seq len (8192), (0.38 GiB KV cache is needed, which "
            "is larger than the available KV cache memory (0.06 GiB).",
            "leave engine.kv_cache_mib out, raise it, or lower engine.max_model_len.",
        ),
        ("No common block size for 16.", "leave engine.block_size out."),
        ("Model architectures ['Own'] are not supported for now.", "engine=huggingface, if transformers can load it."),
    ],
)
def test_vllms_refusals_are_blamed_on_the_key_that_changes_them(said: str, fix: str) -> None:
    told = refusal(ValueError(said))
    assert told.endswith(f"Fix: {fix}")
    assert "validation error" not in told and "pydantic" not in told and ".." not in told


@pytest.mark.parametrize(("asked_mib", "problems"), [(None, 0), (64, 1), (1024, 0)])
def test_a_cache_is_large_enough_by_default_for_a_model_of_many_positions(asked_mib: int | None, problems: int) -> None:
    """135 M parameters, 8,192 positions: 46 KB a token. The run needs 1,536 tokens of them, and 64 MiB are too few."""
    token, longest = 2 * 30 * 192 * 4, 1536
    assert len([*too_small(asked_mib, token=token, longest=longest)]) == problems
    if not problems:
        assert cache_bytes(asked_mib, token=token, longest=longest) >= token * longest


def test_an_engine_is_opened_for_the_longest_sequence_of_the_run(model: Path, asked: list[str]) -> None:
    """Not for all positions of the model; a length that was asked for stands."""
    config = compose(*asked, "engine=vllm", "cluster=ray")
    prepared = build.prepare(config)
    prepared.ledger.close()
    longest = longest_sequence(config, prepared.model, prepared.prompts)
    assert longest == prepared.prompts.longest + 8 + 1 < 256
    assert config.engine.sized(longest).max_model_len == longest
    assert VLLM(max_model_len=64).sized(longest).max_model_len == 64
