"""`rlhf-flow plan`: what it tells of a small run, and what of one that is too large."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from rlhf_flow.capacity.fit import Room, misfits
from rlhf_flow.capacity.flops import of_step
from rlhf_flow.capacity.model_shape import shape_of
from rlhf_flow.capacity.process_memory import CUDA_CONTEXT, MARGIN, Memory, Phase, size_of
from rlhf_flow.capacity.worker_memory import offloaded
from rlhf_flow.cli.main import main as rlhf_flow
from rlhf_flow.cli.plan import main
from rlhf_flow.config import compose as config
from rlhf_flow.engine.vllm.cache import cache_bytes
from rlhf_flow.learner.batching import Group
from tests.support import tiny
from tests.support.configured import LLAMA_8B, WORK, configured

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def overrides(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("plan")
    return tiny.overrides(tiny.policy(folder / "model"), tiny.prompts(folder / "prompts.jsonl"), folder / "run")


def test_a_small_run_fits_and_its_page_says_what_it_takes(
    overrides: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(overrides) == 0
    page = capsys.readouterr().out
    for word in ("optimizer steps", "learner rank", "engine", "driver", "disk", "--like RUN", "It fits."):
        assert word in page
    assert all(len(line) < 200 for line in page.splitlines())


def test_the_margin_of_an_estimate_is_shown(overrides: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main([*overrides, "--json"])
    memories = json.loads(capsys.readouterr().out)["memories"]
    margins = {one["role"]: one["margin"] for one in memories}
    assert margins == {"engine": 0.0, "learner rank": MARGIN, "driver": 0.0}
    main(overrides)
    assert "margin of 30%" in capsys.readouterr().out


def test_json_has_the_same_for_programs(overrides: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main([*overrides, "--json", "sampler.draws.0.n=4"])
    told = json.loads(capsys.readouterr().out)
    assert told["fits"] is True
    assert told["work"]["answers"] == 4
    assert {one["role"] for one in told["memories"]} == {"engine", "learner rank", "driver"}


def test_what_does_not_fit_is_named_with_what_to_change(
    overrides: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*overrides, "--memory", "1MiB"]) == 1
    assert "PROBLEM    all processes together need" in capsys.readouterr().out
    large = [*overrides, "learner.training.micro_batch=64", "learner.training.chunk=4096", "prompts.batch=16"]
    assert main([*large, "--gpus", "1", "--memory", "605MiB"]) == 1
    assert "learner.training.gradient_checkpointing=full" in capsys.readouterr().out


def test_a_run_that_is_done_tells_how_long_another_takes(
    overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Twice the answers take twice the time to draw and to judge; the rest takes what it took."""
    then = config.compose(*overrides)
    (tmp_path / "config.yaml").write_text(config.as_yaml(then))
    line = {"round": 1, "responses/sampled": 16, "train/pairs": 8.0}
    line |= {"seconds/sample": 3.0, "seconds/score": 1.0, "seconds/learn": 5.0, "seconds/publish": 0.5}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["rounds"] == 1
    main([*overrides, "--json", "--like", str(tmp_path), "sampler.draws.0.n=4"])
    stages = json.loads(capsys.readouterr().out)["seconds"]["stages"]
    assert stages == pytest.approx({"sample": 6.0, "score": 2.0, "learn": 5.0, "publish": 0.5})
    with pytest.raises(ValueError, match="must be the folder of a run"):
        main([*overrides, "--like", str(tmp_path / "none")])


def test_the_rate_of_a_run_counts_the_pairs_and_lengths_that_it_trained_on(
    overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its batch was never full, its answers ended early or late, and the pairs of a prompt shared it."""
    keys = ["prompts.batch=6", "answers.n=3", "selector=all_pairs", "learner.training.epochs=2"]
    keys += ["answers.max_tokens=24", "learner.training.batch=64", f"run_dir={tmp_path}"]
    assert rlhf_flow(["run", *overrides, *keys]) == 0
    responses, pairs = (pq.read_table(tmp_path / "rounds/00001" / name) for name in ("responses", "pairs"))
    rows = {row["response"]: row for row in responses.to_pylist()}
    answers: dict[tuple[int, ...], list[int]] = {}
    for pair in pairs.to_pylist():
        for row in (rows[pair["first"]], rows[pair["second"]]):
            answers.setdefault(tuple(row["prompt_tokens"]), []).append(len(row["tokens"]) - 1)
    groups = [Group(len(prompt), tuple(lengths)) for prompt, lengths in answers.items()]
    metrics = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert metrics["train/steps"] == 2
    assert 1 < len(pairs) < 64
    flops = 2 * of_step(shape_of(config.compose(*overrides).model.path), groups)
    for batch in (8, 64):  # of the plan, which is another run
        capsys.readouterr()
        main([*overrides, *keys, f"learner.training.batch={batch}", "--like", str(tmp_path)])
        found = re.search(r"([\d.e+-]+) TFLOP/s", capsys.readouterr().out)
        assert found
        assert 1e12 * float(found[1]) == pytest.approx(flops / metrics["seconds/learn"], rel=0.01)


@pytest.mark.parametrize(("text", "bytes"), [("80GiB", 80 << 30), ("1.5 MiB", 3 << 19), ("24gb", 24 * 10**9)])
def test_sizes_are_read_with_their_unit(text: str, bytes: int) -> None:
    assert size_of(text) == bytes


@pytest.mark.parametrize("text", ["80", "GiB", "-1GiB", "80 Gigs"])
def test_a_size_without_a_unit_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="80GiB"):
        size_of(text)


def test_a_cache_too_small_for_one_sequence_is_told_before_vllm_refuses_it() -> None:
    """Of 1536 tokens, the longest of the run: 2 x 32 layers x 1024 x 4 bytes each, which is 384 MiB."""
    room = Room(gpu=0, gpus=0, host=1)
    config = configured(engine="vllm", cluster="ray", **{"engine.kv_cache_mib": 64})
    (problem,) = misfits(config, LLAMA_8B, WORK, [], host=0, room=room)
    assert str(problem).startswith("engine.kv_cache_mib=64: holds 256 tokens")
    assert vars(problem)["keys"] == ("engine.kv_cache_mib=385",)
    by_default = configured(engine="vllm", cluster="ray")
    assert not misfits(by_default, LLAMA_8B, WORK, [], host=0, room=room)
    assert cache_bytes(None, token=2 * 32 * 1024 * 4, longest=WORK.positions) > WORK.positions * 2 * 32 * 1024 * 4


def test_colocated_roles_leave_their_tensors_to_the_host_and_a_context_on_the_gpu() -> None:
    config = configured(engine="huggingface", cluster="ray", **{"cluster.layout": "colocated"})
    gib = 1 << 30
    working = Memory("engine", "GPU", 2, (Phase("draw", {"weights": 4 * gib, "KV cache": 10 * gib}),))
    resting = Memory("scorer", "GPU", 1, (Phase("open", {"weights": gib}), Phase("score", {"weights": gib})))
    assert [(one.role, one.where, one.processes, one.bytes) for one in offloaded([working, resting])] == [
        ("engine", "host", 2, 4 * gib),
        ("scorer", "host", 1, gib),
    ]
    fits = Room(gpu=14 * gib + 2 * CUDA_CONTEXT, gpus=2, host=gib)
    assert not misfits(config, LLAMA_8B, WORK, [working, resting], host=0, room=fits)
    (problem,) = misfits(config, LLAMA_8B, WORK, [working, resting], host=0, room=replace(fits, gpu=fits.gpu - 1))
    assert str(problem).startswith("engine needs")


def test_the_host_of_colocated_roles_holds_what_all_of_them_hold(
    overrides: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    def host(*layout: str) -> float:
        main([*overrides, "cluster=ray", *layout, "--gpus", "2", "--memory", "80GiB", "--json"])
        told = json.loads(capsys.readouterr().out)
        rows = [one for one in told["memories"] if [phase["name"] for phase in one["phases"]] == ["offloaded"]]
        assert {one["role"] for one in rows} == ({"engine", "learner rank"} if layout else set())
        return told["host"]

    assert host("cluster.layout=colocated") > host()


def test_several_nodes_divide_processes_and_each_holds_the_policies(
    overrides: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    shape = ["cluster=ray", "cluster.address=auto", "cluster.engines=4", "learner=deepspeed", "learner.ranks=3"]

    def told(*more: str) -> dict[str, Any]:
        main([*overrides, *shape, "--gpus", "8", "--memory", "80GiB", "--json", *more])
        plan: dict[str, Any] = json.loads(capsys.readouterr().out)
        return plan

    one, two = told(), told("cluster.nodes=2")
    assert one["each"] is None
    assert two["object_store"] == 2 * one["object_store"] > 0
    assert two["each"] == {"nodes": 2, "gpus": 4, "host": two["host"] / 2}  # of 7 in all
    assert told("cluster.nodes=2", "cluster.gpu_share=0.5")["each"]["gpus"] == 2  # of 3.5
    assert told("cluster.nodes=2", "cluster.layout=colocated")["each"]["gpus"] == 2  # of 4, by all in turns
    main([*overrides, *shape, "cluster.nodes=2", "--gpus", "0"])
    assert "nodes      2: each " in capsys.readouterr().out


def test_hosts_of_several_nodes_hold_more_than_one() -> None:
    for nodes, fits in ((1, False), (2, True)):
        config = configured(engine="huggingface", cluster="ray", **{"cluster.address": "auto", "cluster.nodes": nodes})
        problems = misfits(config, LLAMA_8B, WORK, [], host=3 << 30, room=Room(gpu=0, gpus=0, host=2 << 30))
        assert (problems == []) == fits
