"""lm-evaluation-harness: what its library is asked for, and how its results are recorded. The library is a stand-in."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from rlhf_flow.evaluation import harness
from rlhf_flow.evaluation.contestants import Contestant
from rlhf_flow.evaluation.harness import Tasks
from rlhf_flow.specs import Model
from rlhf_flow.types import Policy
from rlhf_flow.weights.source import Adapter, Checkpoint, File

RESULTS = {
    "arc": {"alias": "arc", "acc,none": 0.5, "acc_stderr,none": 0.1, "em,strict": 0.25, "em_stderr,strict": "N/A"}
}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The arguments of the library's last call."""
    found: dict[str, Any] = {}

    class TaskManager:
        def __init__(self, include_path: str | None) -> None:
            found["include_path"] = include_path
            self.all_tasks = ["arc"]

    def simple_evaluate(**arguments: Any) -> dict[str, Any]:
        found.update(arguments)
        return {"results": RESULTS, "n-samples": {"arc": {"original": 90, "effective": 30}}}

    library, tasks = ModuleType("lm_eval"), ModuleType("lm_eval.tasks")
    vars(library)["simple_evaluate"], vars(tasks)["TaskManager"] = simple_evaluate, TaskManager
    monkeypatch.setitem(sys.modules, "lm_eval", library)
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", tasks)
    return found


def contestant(weights: Any) -> Contestant:
    return Contestant("mine", Model("m", dtype="bfloat16"), Policy("policy", 1, "sha", weights))


def test_metrics_have_the_interval_of_their_standard_error(asked: dict[str, Any]) -> None:
    found = harness.run(contestant(Checkpoint(Path("a"))), Tasks(("arc",), shots=5, limit=30, chat=True))
    metrics = {"acc": 0.5, "acc_low": 0.304, "acc_high": 0.696, "em_strict": 0.25, "samples": 30}
    assert found["arc"] == pytest.approx(metrics, abs=1e-3)
    assert asked["model_args"] == {"pretrained": "a", "dtype": "bfloat16", "trust_remote_code": False}
    assert asked["device"] in ("cpu", "cuda")
    assert (asked["num_fewshot"], asked["limit"], asked["apply_chat_template"]) == (5, 30, True)


def test_an_adapter_is_loaded_over_its_base(asked: dict[str, Any]) -> None:
    adapter = Adapter(Checkpoint(Path("base")), "sha", 8, 16.0, File(Path("round/policy/adapter_model.safetensors")))
    harness.run(contestant(adapter), Tasks(("arc",), folder=Path("mine")))
    assert (asked["model_args"]["pretrained"], asked["model_args"]["peft"]) == ("base", "round/policy")
    assert asked["include_path"] == "mine"


def test_what_cannot_run_is_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"no such task\. Fix"):
        harness.run(contestant(Checkpoint(Path("a"))), Tasks(("arc", "other")))
    with pytest.raises(ValueError, match=r"not on disk any more\. Fix"):
        harness.run(Contestant("mine", Model("m"), None), Tasks(("arc",)))
