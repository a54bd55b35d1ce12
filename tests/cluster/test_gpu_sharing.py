"""Roles that share GPUs take turns; an engine whose policy is trained next keeps no copy of it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from rlhf_flow.cluster.gpu_sharing import GpuScheduler, GpuSlot
from rlhf_flow.cluster.supervisor import Supervisor
from rlhf_flow.engine.vllm.engine import VLLMEngine


class Group:
    """Notes what is sent to it."""

    def __init__(self) -> None:
        self.notes: list[tuple[object, ...]] = []

    def send(self, *call: object) -> list[object]:
        self.notes.append(call)
        return []

    def wait(self, calls: object) -> None: ...


@pytest.mark.parametrize("trains", [False, True])
def test_the_role_before_leaves_and_knows_whether_its_policy_is_trained_next(trains: bool) -> None:
    scheduler = GpuScheduler(shared=True, supervisor=Supervisor(0))
    engine, learner = Group(), Group()
    slots = [GpuSlot(scheduler, [group]) for group in (engine, learner)]
    slots[0].acquire()
    slots[1].acquire(trains=trains)
    slots[1].acquire(trains=True)  # it has the GPUs already
    assert engine.notes == [("call", "come_back", (), {}), ("leave", trains)]
    assert learner.notes == [("call", "come_back", (), {})]


def test_vllm_sleeps_at_level_2_if_its_weights_are_replaced_next_and_loads_them_again() -> None:
    engine, levels, forgotten = VLLMEngine.__new__(VLLMEngine), list[int](), list[bool]()
    engine.llm = SimpleNamespace(
        model_config=SimpleNamespace(enable_sleep_mode=True),
        llm_engine=SimpleNamespace(is_sleeping=lambda: bool(levels)),
        sleep=lambda level: levels.append(level),
    )
    engine._failed = ""
    engine._slots = SimpleNamespace(forget=lambda: forgotten.append(True))
    engine.discard()
    engine.discard()
    engine.step_aside()
    assert levels == [2]
    assert forgotten == [True]
    levels.clear()
    engine.step_aside()
    assert levels == [1]
    assert forgotten == [True]
