"""A published policy has the names, the shapes and the files that `save_pretrained` gives a model of its kind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from families.models import FAMILIES
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf_flow.cli.main import main
from rlhf_flow.learner.torch import Torch
from rlhf_flow.specs import Model, Place
from rlhf_flow.weights.fingerprint import fingerprint
from rlhf_flow.weights.source import Checkpoint
from tests.runs.checkpoints.conftest import Made
from tests.support import tiny

pytestmark = pytest.mark.slow

SHARDS = 20_000  # bytes: several files, some of one tensor


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def publish(model: Model, into: Path, *, bucket: int = 1 << 30) -> dict[str, torch.Tensor]:
    """The tensors that a learner publishes of a checkpoint that it has learned nothing on."""
    Torch().open(model, Place(bucket=bucket)).save_policy(into)
    return tensors(into)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_policy_that_learned_nothing_is_published_as_it_was_stored(made: Made, family: str, tmp_path: Path) -> None:
    stored, published = tensors(made(family)), publish(Model(str(made(family))), tmp_path, bucket=SHARDS)
    assert published.keys() == stored.keys()
    assert all(torch.equal(published[name], tensor) for name, tensor in stored.items())


@pytest.mark.parametrize("family", ["llama-tied", "mixtral"])
def test_the_shards_and_the_index_of_a_checkpoint_name_the_same_tensors(
    made: Made, family: str, tmp_path: Path
) -> None:
    names = publish(Model(str(made(family))), tmp_path, bucket=SHARDS)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == names.keys()
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in names.values())


@pytest.mark.parametrize("family", ["llama-tied", "mixtral", "gemma3"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_start_in_half_precision_and_in_shards_is_read_and_published(
    made: Made, family: str, dtype: str, tmp_path: Path
) -> None:
    start = made(family, dtype=dtype, shard="20KB")
    assert len(list(start.glob("*.safetensors"))) > 1
    published = publish(Model(str(start)), tmp_path)
    assert {name: tensor.shape for name, tensor in published.items()} == {
        name: tensor.shape for name, tensor in tensors(start).items()
    }
    assert {str(tensor.dtype) for tensor in published.values()} == {"torch.float32"}
    assert all(torch.equal(published[name], tensor.float()) for name, tensor in tensors(start).items())


def test_a_checkpoint_of_experts_is_read_as_transformers_reads_it(made: Made, tmp_path: Path) -> None:
    publish(Model(str(made("mixtral"))), tmp_path, bucket=SHARDS)
    lm = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert fingerprint(Checkpoint(tmp_path).load()) == fingerprint(lm.state_dict())


def test_settings_of_a_quantisation_do_not_stay_beside_weights_that_have_none(made: Made, tmp_path: Path) -> None:
    start = tmp_path / "start"
    shutil.copytree(made("llama"), start)
    about = json.loads((start / "config.json").read_text())
    learner = Torch().open(Model(str(start)), Place())
    settings = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
    (start / "config.json").write_text(json.dumps(about | {"quantization_config": settings}))
    learner.save_policy(tmp_path / "policy")
    assert "quantization_config" not in json.loads((tmp_path / "policy/config.json").read_text())


CODE = """
from transformers import LlamaConfig, LlamaForCausalLM
from .parts_of_mine import NAME

class MyConfig(LlamaConfig):
    model_type = NAME

class MyLM(LlamaForCausalLM):
    config_class = MyConfig
"""


def own_code(llama: Path, folder: Path) -> Path:
    """A checkpoint whose classes are in two files of its own."""
    shutil.copytree(llama, folder)
    (folder / "modeling_mine.py").write_text(CODE)
    (folder / "parts_of_mine.py").write_text('NAME = "mine"\n')
    about = json.loads((folder / "config.json").read_text())
    classes = {"AutoConfig": "modeling_mine.MyConfig", "AutoModelForCausalLM": "modeling_mine.MyLM"}
    about |= {"model_type": "mine", "architectures": ["MyLM"], "auto_map": classes}
    (folder / "config.json").write_text(json.dumps(about))
    return folder


def test_the_code_of_a_model_is_published_with_it(made: Made, tmp_path: Path) -> None:
    start = own_code(made("llama"), tmp_path / "start")
    first = publish(Model(str(start), trust_remote_code=True), tmp_path / "first")
    second = publish(Model(str(tmp_path / "first"), trust_remote_code=True), tmp_path / "second")
    shutil.rmtree(start)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "second", trust_remote_code=True)
    assert type(loaded).__name__ == "MyLM"
    assert first.keys() == second.keys()
    about = json.loads((tmp_path / "second/config.json").read_text())
    assert about["auto_map"]["AutoModelForCausalLM"] == "modeling_mine.MyLM"
    assert AutoTokenizer.from_pretrained(tmp_path / "second", trust_remote_code=True).chat_template


def test_a_run_of_a_model_with_code_of_its_own_goes_on_from_what_it_published(made: Made, tmp_path: Path) -> None:
    start, asked = own_code(made("llama"), tmp_path / "start"), tiny.prompts(tmp_path / "prompts.jsonl")
    keys = tiny.overrides(start, asked, tmp_path / "run", **{"model.trust_remote_code": True})
    assert main(["run", *keys, "rounds=1"]) == 0
    assert main(["run", *keys, "rounds=2"]) == 0
    assert (tmp_path / "run/rounds/00002/policy/parts_of_mine.py").exists()
