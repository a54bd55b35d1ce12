"""A chat model of 135 M parameters and 8,192 positions, as a stand-in without weights: the defaults fit it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rlhf_flow.capacity.estimate import plan
from rlhf_flow.capacity.fit import Room
from rlhf_flow.cli.main import main
from rlhf_flow.cluster.ray import Ray
from rlhf_flow.config.compose import compose
from tests.support import published, tiny

GIB = 1 << 30
Keys = Callable[..., list[str]]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    folder = tmp_path_factory.mktemp("smol")
    model = published.checkpoint("HuggingFaceTB/SmolLM2-135M-Instruct", folder)
    asked = tiny.prompts(folder / "prompts.jsonl", 100)
    scorer = ["scorer=rule", "scorer.function=tests.support.tiny.shorter"]
    paths = [f"model.path={model}", f"prompts.path={asked}", f"run_dir={folder / 'run'}"]
    return lambda *more: [*paths, *scorer, *more]


@pytest.mark.parametrize(
    ("stack", "room"),
    [
        ("cpu", Room(0, 0, 16 * GIB)),
        ("local", Room(0, 0, 16 * GIB)),
        ("gpu", Room(24 * 10**9, 1, 32 * GIB)),
    ],
)
def test_the_defaults_fit_an_ordinary_machine(stack: str, room: Room, keys: Keys) -> None:
    planned = plan(compose(*keys(f"stack={stack}")), room)
    assert planned.shape.parameters == 134_515_008
    assert planned.problems == []
    learner = next(one for one in planned.memories if one.role == "learner rank")
    assert learner.bytes < (6 if room.gpus == 0 else 16) * GIB


def test_a_cache_that_is_too_small_is_refused_with_the_command_that_works(
    keys: Keys, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ray, "open", lambda self: pytest.fail("Ray was started"))
    given = keys("stack=cpu", "engine.max_model_len=8192", "engine.kv_cache_mib=64")
    problem = "engine.kv_cache_mib=64: holds 1456 tokens, and vLLM needs room for one sequence of 8192. Fix: "
    assert main(["run", *given]) == 2
    refused, retry = capsys.readouterr().err.strip().splitlines()
    assert problem + "engine.kv_cache_mib=361" in refused
    assert retry.startswith("Try: ") and retry.endswith(" engine.kv_cache_mib=361") and "=64" not in retry
    assert main(["plan", *given]) == 1
    told = capsys.readouterr().out
    assert problem in told
    assert told.strip().endswith("It fits with: engine.kv_cache_mib=361")
    assert main(["doctor", *given]) == 1
    assert problem in capsys.readouterr().out


def test_a_gpu_too_small_for_all_weights_is_offered_an_adapter(keys: Keys, capsys: pytest.CaptureFixture[str]) -> None:
    gpu = ["--gpus", "1", "--memory", "2.5GiB"]
    assert main(["plan", *keys("stack=gpu_1x80gb"), *gpu]) == 1
    told = capsys.readouterr().out
    assert "Fix: learner.lora.rank=16" in told
    assert "It fits with: learner.lora.rank=16" in told
