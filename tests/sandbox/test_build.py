import json
import multiprocessing
from dataclasses import replace

import pytest

from rlhf_flow.sandbox.build import build
from rlhf_flow.sandbox.request import understand
from rlhf_flow.sandbox.world import Size, locate, sha256

pytestmark = pytest.mark.slow

TINY = Size(
    vocabulary=320,
    width=32,
    layers=1,
    positions=256,
    max_tokens=8,
    careful=40,
    usual=40,
    policy_batch=4,
    written=8,
    drawn=4,
    reward_batch=4,
    prompts=300,
    held_out=40,
)


def hashes(root):
    return {str(path.relative_to(root)): sha256(path) for path in root.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_world_is_the_same_bit_for_bit_when_it_is_built_again(tmp_path):
    worlds = [build(tmp_path / name, size=TINY, report=lambda line: None) for name in ("once", "again")]
    facts = [json.loads(world.facts.read_text()) for world in worlds]
    assert facts[0].pop("seconds").keys() == facts[1].pop("seconds").keys()
    assert facts[0] == facts[1]
    made = hashes(worlds[0].root)
    made.pop("world.json")
    assert made == facts[0]["files"]
    assert {"policy/model.safetensors", "reward_model/model.safetensors"} <= made.keys()
    assert hashes(build(tmp_path / "other", size=replace(TINY, seed=2), report=lambda line: None).root) != made


@pytest.mark.slow
def test_a_world_is_two_checkpoints_and_two_lists_of_prompts(tmp_path):
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    lines = []
    world = build(tmp_path, size=TINY, report=lines.append)
    assert any("held-out pairs" in line for line in lines)
    policy = AutoModelForCausalLM.from_pretrained(world.policy)
    judge = AutoModelForSequenceClassification.from_pretrained(world.reward_model)
    tokens = AutoTokenizer.from_pretrained(world.policy)("Describe the garden.", return_tensors="pt")
    assert (
        policy(**tokens).logits.shape[-1]
        == policy.config.vocab_size
        == len(AutoTokenizer.from_pretrained(world.policy))
    )
    assert judge(**tokens).logits.shape == (1, 1)

    rows = {
        path: [json.loads(line) for line in path.read_text().splitlines()] for path in (world.prompts, world.held_out)
    }
    assert [len(found) for found in rows.values()] == [TINY.prompts, TINY.held_out]
    train, held_out = ({understand(row["prompt"]) for row in found} for found in rows.values())
    assert not train & held_out
    ids = [row["id"] for found in rows.values() for row in found]
    assert len(ids) == len(set(ids))


@pytest.mark.slow
def test_a_build_that_was_killed_is_begun_again_and_two_at_once_make_one(tmp_path):
    target = locate(tmp_path, size=TINY)
    part = target.root.with_name(target.root.name + ".part")
    part.mkdir(parents=True)
    (part / "junk").write_text("half written")
    context = multiprocessing.get_context("spawn")
    builders = [context.Process(target=build, args=(tmp_path,), kwargs={"size": TINY}) for _ in range(2)]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join()
    assert [builder.exitcode for builder in builders] == [0, 0]
    assert target.exists
    assert not part.exists()
    assert not (target.root / "junk").exists()
    before = hashes(target.root)
    build(tmp_path, size=TINY)
    assert hashes(target.root) == before
