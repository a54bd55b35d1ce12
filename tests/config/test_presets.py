"""Presets of published models: each composes, is planned and diagnosed without a network, and runs in miniature."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from presets import Preset, page, presets

from rlhf_flow.capacity.estimate import plan
from rlhf_flow.capacity.fit import Room
from rlhf_flow.config import compose
from rlhf_flow.config.schema import RunConfig
from rlhf_flow.doctor.checks import diagnose
from rlhf_flow.runner import prepare
from rlhf_flow.scorer.functions.comparison import Comparison
from rlhf_flow.scorer.functions.rule import Rule
from tests.support import published, tiny

PRESETS = {preset.name: preset for preset in presets()}
SIZES = [name for name in PRESETS if name.startswith(("qwen3/", "smollm3/"))]
FAST = ("selm/zephyr_7b", "qwen3/0_6b")  # the others are slow only because they are many
EACH = [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in PRESETS]
GIB = 1 << 30
ROOMS = {  # stack -> its GPUs, and hosts of at least 10 GiB for each 24 GB or 80 GB of them
    "gpu_1x24gb": Room(24 * 10**9, 1, 128 * GIB),
    "gpu_1x80gb": Room(80 * 10**9, 1, 256 * GIB),
    "gpu_8x80gb": Room(80 * 10**9, 8, 1024 * GIB),
    "gpu_2x8x80gb": Room(80 * 10**9, 16, 1024 * GIB),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with stand-ins for the two data sets of the presets."""
    from datasets import Dataset, DatasetDict  # type: ignore[import-untyped]

    folder = tmp_path_factory.mktemp("published")
    asked = [f"Tell me about {number} cats." for number in range(48)]
    said = [[{"role": "user", "content": text}] for text in asked]
    answered = {
        name: [[*turns, {"role": "assistant", "content": answer}] for turns in said]
        for name, answer in (("chosen", "They are cats, and there are many."), ("rejected", "No."))
    }
    chats = Dataset.from_dict({"prompt": asked, **answered})
    DatasetDict(train_prefs=chats.select(range(40)), test_prefs=chats.select(range(40, 48))).save_to_disk(
        folder / "HuggingFaceH4/ultrafeedback_binarized"
    )
    collection = Dataset.from_dict({"context": asked, "context_messages": said})
    DatasetDict(train=collection).save_to_disk(folder / "RLHFlow/prompt-collection-v0.1")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny.policy(tmp_path_factory.mktemp("tiny") / "model")
    published.words(asks_to_think=True).save_pretrained(folder)
    return folder


def stand_in(preset: str, root: Path, *more: str) -> RunConfig:
    """The preset, with stand-ins for its models and its data set."""
    start = more if PRESETS[preset].config().model.path != "any" else (*more, "model.path=Qwen/Qwen3-0.6B")
    config = compose.compose(f"experiment={preset}", *start)
    few = {"held_out": 4} if config.prompts.held_out_split is None else {}
    return replace(
        config,
        model=replace(config.model, path=str(published.checkpoint(config.model.path, root))),
        scorer=replace(config.scorer, path=str(published.checkpoint(config.scorer.path, root))),
        prompts=replace(config.prompts, path=str(root / config.prompts.path), batch=32, **few),
        run_dir=str(root / "runs" / preset),
    )


# -- what their files say ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", PRESETS.values(), ids=str)
def test_a_preset_names_its_sources_its_numbers_and_what_differs(preset: Preset) -> None:
    assert preset.about
    assert all(re.fullmatch(r"https://(arxiv\.org|github\.com|huggingface\.co)/\S+", one) for one in preset.sources)
    [(_, numbers)] = preset.of("published")
    assert bool(re.search(r"\d", numbers)) == bool(preset.of("differs"))


@pytest.mark.slow
def test_the_table_has_every_preset_with_its_constants() -> None:
    text = page()
    for name in PRESETS:
        assert f"\n## {name}\n" in text
    assert "| `RLHFlow/LLaMA3-SFT` | `xpo` | 3 | 20,000 | 128 | 2 | 5e-07 | beta 0.1, " in text


# -- on their machines ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", EACH)
def test_it_fits_eight_gpus_and_the_doctor_finds_nothing_but_this_machine(preset: str, root: Path) -> None:
    stack = "gpu_8x80gb"
    found = diagnose(stand_in(preset, root, f"stack={stack}"), {}, ROOMS[stack]).findings
    assert not [one for one in found if one.level == "problem" and one.subject not in ("machine", "disk", "packages")]
    assert any(one.subject == "plan" and one.level == "ok" for one in found)


@pytest.mark.slow
@pytest.mark.parametrize("preset", SIZES)
def test_a_size_fits_the_machines_that_the_page_names(preset: str, root: Path) -> None:
    for stack, room in ROOMS.items():
        large = preset == "qwen3/8b" and stack == "gpu_1x80gb"
        planned = plan(stand_in(preset, root, f"stack={stack}"), room)
        assert bool(planned.problems) == large, (stack, planned.problems)
        if large:
            assert not plan(stand_in(preset, root, f"stack={stack}", "learner.lora.rank=16"), room).problems


# -- in miniature -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", EACH)
def test_its_miniature_learns_for_two_rounds(preset: str, root: Path, model: Path, tmp_path: Path) -> None:
    """The same parts, with a tiny model, a rule as the scorer, and short answers."""
    config = compact(stand_in(preset, root, "stack=local", "answers.max_tokens=8"), model, tmp_path / "run")
    start, *rounds = prepare.prepare(config).run()
    assert [record.metrics["train/steps"] >= 1 for record in rounds] == [True, True]
    assert rounds[-1].policy != start.policy


def compact(config: RunConfig, model: Path, run_dir: Path) -> RunConfig:
    judge = Rule("tests.support.tiny.shorter")
    training = config.learner.training
    optimizer = replace(training.optimizer, lr=1e-3)
    return replace(
        config,
        run_dir=str(run_dir),
        rounds=2,
        model=replace(config.model, path=str(model), dtype="float32"),
        prompts=replace(config.prompts, batch=8),
        scorer=Comparison("tests.support.tiny.fond_of_vowels") if config.scorer.intransitive else judge,
        selector=replace(config.selector, truncated="keep"),  # a random model hardly ever ends its answer
        learner=replace(config.learner, training=replace(training, batch=16, epochs=1, optimizer=optimizer)),
        evaluate=replace(config.evaluate, every=2),
    )
