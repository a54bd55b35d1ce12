import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from rlhf_flow.sandbox.world import Size, frozen_hash, key, locate

# Quoted in the README; figures measured under another hash are figures of another world.
FROZEN = "2fff3649d0772d0465687124a5af8fe5f1c50f4593f9cac17ccdbad9ba6f482b"


def test_grammar_gold_judge_and_noise_are_frozen():
    assert frozen_hash() == FROZEN


def test_another_size_is_another_world():
    assert key(Size()) == key(Size())
    assert key(Size()) != key(replace(Size(), layers=1))


def test_a_world_is_named_by_its_key_below_the_home(monkeypatch, tmp_path):
    monkeypatch.setenv("RLHF_FLOW_HOME", str(tmp_path))
    world = locate()
    assert world.root == tmp_path / f"sandbox-{key(Size())[:12]}"
    assert world.policy == world.root / "policy"
    assert not world.exists
    monkeypatch.delenv("RLHF_FLOW_HOME")
    assert locate().root.parent == Path.home() / ".cache" / "rlhf-flow"


def test_finding_the_world_imports_neither_torch_nor_transformers():
    code = "import sys, rlhf_flow.sandbox.build as b; b.locate(); print({'torch', 'transformers'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
