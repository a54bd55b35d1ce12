"""Things that are really broken, and what `rlhf-flow doctor` says of each: where it is, and the way out."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from nodes import raylets

from rlhf_flow.cli.doctor import main
from tests.support import tiny
from tests.support.tokenizer import tokenizer

pytestmark = pytest.mark.slow

HOME = Path.home()
PRIVATE = ("WANDB_API_KEY", "WANDB_MODE", "RAY_ADDRESS", "NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME", "HF_HUB_OFFLINE")


@dataclass
class World:
    """A sound run of the tiny policy, to be broken."""

    root: Path
    set_environment: Callable[[str, str], None]
    patch: Callable[[str, object], None]
    keys: dict[str, object] = field(default_factory=dict)

    @property
    def model(self) -> Path:
        return self.root / "model"

    def edit(self, name: str, **keys: Any) -> None:
        """Change a JSON file of the model; None takes a key out."""
        file = self.model / name
        about = json.loads(file.read_text()) if file.exists() else {}
        about |= keys
        file.write_text(json.dumps({key: value for key, value in about.items() if value is not None}))

    def save(self, **changes: Any) -> None:
        """The tokenizer once more, with attributes of it changed."""
        words = tokenizer()
        for name, value in changes.items():
            setattr(words, name, value)
        words.save_pretrained(self.model)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    for name in PRIVATE:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    tiny.policy(tmp_path / "model")
    tiny.prompts(tmp_path / "prompts.jsonl")
    return World(tmp_path, monkeypatch.setenv, monkeypatch.setattr)


def found(world: World, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[dict[str, str]]]:
    run_dir = world.keys.pop("run_dir", world.root / "run")
    asked = tiny.overrides(world.model, world.root / "prompts.jsonl", Path(str(run_dir)), **world.keys)
    status = main([*asked, *arguments, "--json"])
    return status, json.loads(capsys.readouterr().out)["findings"]


# -- what is wrong with files, each a real one ------------------------------------------------------------------------


def tokenizer_cut(world: World) -> None:
    file = world.model / "tokenizer.json"
    file.write_text(file.read_text()[:200])


def no_template(world: World) -> None:
    (world.model / "chat_template.jinja").unlink()


def bos_twice(world: World) -> None:
    file = world.model / "chat_template.jinja"
    file.write_text("{{ bos_token }}" + file.read_text())


def more_tokens_than_rows(world: World) -> None:
    tiny.policy(world.model, rows=100)


def no_end(world: World) -> None:
    world.save(eos_token=None, chat_template="{% for m in messages %}{{ m.content }}{% endfor %}")
    world.edit("generation_config.json", eos_token_id=None)
    world.edit("config.json", eos_token_id=None)


def unknown_end(world: World) -> None:
    world.edit("generation_config.json", eos_token_id=[2, 99_999])


def sampling_defaults(world: World) -> None:
    world.edit("generation_config.json", do_sample=True, temperature=0.3)


def padding_is_end(world: World) -> None:
    world.save(pad_token="</s>")


def no_model(world: World) -> None:
    world.keys["model.path"] = world.root / "nothing"


def no_config(world: World) -> None:
    (world.model / "config.json").unlink()


def adapter_only(world: World) -> None:
    (world.model / "config.json").rename(world.model / "adapter_config.json")


def old_weights(world: World) -> None:
    (world.model / "model.safetensors").rename(world.model / "pytorch_model.bin")


def weights_cut(world: World) -> None:
    file = world.model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def shard_missing(world: World) -> None:
    world.edit("model.safetensors.index.json", weight_map={"a": "model.safetensors", "b": "model-2.safetensors"})


def foreign_code(world: World) -> None:
    world.edit("config.json", auto_map={"AutoModelForCausalLM": "theirs.Model"})


def policy_as_reward_model(world: World) -> None:
    world.keys |= {"scorer": "reward_model", "scorer.path": world.model}


def no_prompts(world: World) -> None:
    world.keys["prompts.path"] = world.root / "nothing.jsonl"


def answers_too_long(world: World) -> None:
    world.keys["sampler.draws.0.max_tokens"] = 250


def no_function(world: World) -> None:
    world.keys["scorer.function"] = "tests.support.tiny.nobody"


def no_observer(world: World) -> None:
    world.keys["observe.classes"] = "[tests.support.tiny.Missing]"


# -- and with the machine and what surrounds it -----------------------------------------------------------------------


def folder_is_a_file(world: World) -> None:
    (world.root / "run").write_text("")


def folder_cannot_be_written(world: World) -> None:
    world.keys["run_dir"] = "/proc/1/run"


def folder_of_one_node(world: World) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    world.keys |= {"cluster": "ray", "cluster.address": f"'127.0.0.1:{listener.getsockname()[1]}'"}
    world.keys["run_dir"] = "/tmp/of-one-node"


def no_nccl_interface(world: World) -> None:
    world.set_environment("NCCL_SOCKET_IFNAME", "nothing0")


def no_gloo_interface(world: World) -> None:
    world.set_environment("GLOO_SOCKET_IFNAME", "nothing0")


def nobody_at_ray_address(world: World) -> None:
    world.keys["cluster"] = "ray"
    world.set_environment("RAY_ADDRESS", f"127.0.0.1:{closed_port()}")


def nobody_at_the_judge(world: World) -> None:
    world.keys |= {"scorer": "remote", "scorer.urls": f"['http://127.0.0.1:{closed_port()}']"}


def store_too_large(world: World) -> None:
    world.keys |= {"cluster": "ray", "cluster.object_store_mib": 10**8}


def large_policies(*arguments: object) -> float:
    return 600 << 30


def store_too_small(world: World) -> None:
    world.patch("rlhf_flow.capacity.worker_memory.object_store", large_policies)
    world.keys |= {"cluster": "ray", "cluster.object_store_mib": 100}


def shared_memory_too_small(world: World) -> None:
    world.patch("rlhf_flow.capacity.worker_memory.object_store", large_policies)
    world.keys |= {"cluster": "ray"}


def no_wandb_key(world: World) -> None:
    world.keys["observe.wandb.mode"] = "online"


def hub_offline(world: World) -> None:
    world.keys["model.path"] = "nobody/nothing"
    world.set_environment("HF_HUB_OFFLINE", "1")


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


BROKEN: list[tuple[Callable[[World], None], str, str, str]] = [
    (tokenizer_cut, "problem", "its tokenizer does not load", "fetch the checkpoint again"),
    (no_template, "problem", "no chat template", "prompts.format=plain"),
    (bos_twice, "warning", "writes BOS 2 times", "chat_template.jinja"),
    (more_tokens_than_rows, "problem", "its embedding has 100 rows", "resize_token_embeddings"),
    (no_end, "problem", "has no EOS token", "eos_token in tokenizer_config.json"),
    (unknown_end, "problem", "ends answers with 99999", "eos_token_id"),
    (sampling_defaults, "warning", "temperature=0.3", "answers.temperature=0.3"),
    (no_model, "problem", "no such folder", "a model on the hub as owner/name"),
    (no_config, "problem", "no config.json", "save_pretrained()"),
    (adapter_only, "problem", "an adapter (peft) and no model", "rlhf-flow convert"),
    (old_weights, "problem", "no *.safetensors but pytorch_model.bin", "rlhf-flow convert"),
    (weights_cut, "problem", "is cut short", "fetch it again"),
    (shard_missing, "problem", "1 of 2 weight files are missing", "fetch it again"),
    (foreign_code, "problem", "is not trusted", "model.trust_remote_code=true"),
    (policy_as_reward_model, "problem", "without a head that scores", "scorer=preference_model"),
    (no_prompts, "problem", "nothing.jsonl", ""),
    (answers_too_long, "problem", "the model reads at most 256", "shorter draws"),
    (no_function, "problem", "nobody", ""),
    (no_observer, "problem", "observe.classes=tests.support.tiny.Missing: importing it failed", "correct the name"),
    (folder_is_a_file, "problem", "is a file", "another run_dir"),
    (folder_cannot_be_written, "problem", "is not writable", "another run_dir"),
    (folder_of_one_node, "problem", "a joined cluster", "a shared disk"),
    (no_nccl_interface, "problem", "there is no interface nothing0", "export NCCL_SOCKET_IFNAME="),
    (no_gloo_interface, "problem", "there is no interface nothing0", "GLOO_SOCKET_IFNAME="),
    (nobody_at_ray_address, "problem", "does not answer", "unset RAY_ADDRESS"),
    (nobody_at_the_judge, "problem", "does not answer", "start the server"),
    (store_too_large, "problem", "cluster.object_store_mib asks for", "--shm-size"),
    (store_too_small, "problem", "the policies of a round take 600.0 GiB", "leave cluster.object_store_mib out"),
    (shared_memory_too_small, "problem", "the object store of a round's policies takes", "mount -o remount,size="),
    (no_wandb_key, "problem", "there is no key", "wandb login"),
    (hub_offline, "problem", "HF_HUB_OFFLINE is set", "unset HF_HUB_OFFLINE"),
]


@pytest.mark.parametrize(("breaking", "level", "says", "remedy"), BROKEN, ids=[one[0].__name__ for one in BROKEN])
def test_what_is_broken_is_found_with_the_way_out(
    breaking: Callable[[World], None],
    level: str,
    says: str,
    remedy: str,
    world: World,
    capsys: pytest.CaptureFixture[str],
) -> None:
    breaking(world)
    status, findings = found(world, capsys)
    assert status == (1 if level == "problem" else 0), findings
    told = [one for one in findings if one["level"] == level and says in one["message"]]
    assert told, findings
    assert remedy in told[0]["remedy"] or (not told[0]["remedy"] and remedy in told[0]["message"])


@pytest.mark.parametrize("changing", [lambda world: None, padding_is_end], ids=["as it is", "padding is EOS"])
def test_a_sound_run_has_no_problem_and_no_warning(
    changing: Callable[[World], None], world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    changing(world)
    status, findings = found(world, capsys)
    assert [one for one in findings if one["level"] != "ok"] == []
    assert status == 0


@pytest.mark.ray
def test_nodes_that_have_not_joined_yet_are_told_with_the_way_out(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.set_environment("HOME", str(HOME))  # where Ray has its token, which it reads once for this process
    with raylets(1) as cluster:
        world.keys |= {"cluster": "ray", "cluster.address": f"'{cluster.address}'", "cluster.nodes": 2}
        _, findings = found(world, capsys)
    (told,) = [one for one in findings if "joined:" in one["message"] or "has joined" in one["message"]]
    assert (told["level"], told["subject"]) == ("warning", "network")
    assert told["message"].startswith("1 of 2 nodes has joined")
    assert "cluster.nodes=1" in told["remedy"]


def test_memory_that_does_not_suffice_is_a_problem(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    status, findings = found(world, capsys, "--memory", "1MiB")
    assert status == 1
    assert any(one["subject"] == "plan" and one["level"] == "problem" for one in findings)


def test_the_page_has_a_line_for_each_finding_and_the_tokens_side_by_side(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(tiny.overrides(world.model, world.root / "prompts.jsonl", world.root / "run")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("0 problems, 0 warnings")
    (row,) = (line for line in lines if line.startswith("model.path"))
    assert all(word in row for word in ("<s> 1", "</s> 2", "<pad> 0", "template x1, encoder", "256"))


def test_a_package_that_transformers_would_import_and_that_does_not_load_is_found(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    package = world.root / "packages" / "torchcodec"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise OSError('libavutil.so.59: cannot open shared object file')\n")
    monkeypatch.syspath_prepend(str(package.parent))
    status, findings = found(world, capsys)
    assert status == 1
    assert any("libavutil" in one["message"] and "pip uninstall torchcodec" in one["remedy"] for one in findings)


def test_a_plan_that_cannot_be_made_is_a_problem(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """As of a scorer whose checkpoint has no configuration: not a line that begins with ok."""
    (world.root / "judge").mkdir()
    world.keys |= {"scorer": "reward_model", "scorer.path": world.root / "judge"}
    status, findings = found(world, capsys)
    assert status == 1
    assert not any(one["level"] == "ok" and one["subject"] == "plan" for one in findings)


def test_the_functions_that_are_offered_are_the_modules_own(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """Not the classes and functions that it imports."""
    world.keys["scorer.function"] = "tests.support.tiny.nobody"
    _, findings = found(world, capsys)
    (told,) = [one["message"] + one["remedy"] for one in findings if "nobody" in one["message"]]
    assert "shorter" in told
    assert "Path" not in told and "Rollouts" not in told


def test_files_of_the_users_own_are_found_as_by_run(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    (world.root / "conf" / "objective").mkdir(parents=True)
    (world.root / "conf" / "objective" / "mine.yaml").write_text("_target_: rlhf_flow.objective.dpo.DPO\nbeta: 0.3\n")
    status, findings = found(world, capsys, "--config-dir", str(world.root / "conf"), "objective=mine")
    assert status == 0, findings
