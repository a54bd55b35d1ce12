"""From overrides to parts and back, and what may change when a run is resumed."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf
from omegaconf.errors import ValidationError

from rlhf_flow.config import compose as config
from rlhf_flow.config.identity import identity
from rlhf_flow.config.schema import GROUPS, RunConfig
from rlhf_flow.replay import Window
from rlhf_flow.sandbox.world import World, locate
from rlhf_flow.schedule import EveryK
from rlhf_flow.scorer.functions.rule import Rule
from rlhf_flow.scorer.models.reward_model import RewardModel
from rlhf_flow.types import Needs

pytestmark = pytest.mark.slow

LOCAL = (
    "cluster=local",
    "engine=huggingface",
    "learner=torch",
    "scorer=rule",
    "scorer.function=my_lab.judges.worth",
    "model.path=some/model",
    "prompts.path=prompts.jsonl",
)


@dataclass(frozen=True)
class Mine:
    """An objective that a user brought along."""

    gamma: float
    delta: int = 2

    @property
    def needs(self) -> Needs:
        return Needs(anchors=frozenset({"reference"}))


@cache  # a configuration is frozen, and Hydra takes its time
def composed(*overrides: str) -> RunConfig:
    return config.compose(*LOCAL, *overrides)


def own(target: str, **values: object) -> RunConfig:
    """A configuration whose objective is named by a file of the user's own."""
    written = OmegaConf.create(config.as_yaml(composed()))
    written["objective"] = {"_target_": target, **values}
    return config.from_yaml(OmegaConf.to_yaml(written))


# -- composing --------------------------------------------------------------------------------------------------------


def test_the_parts_are_the_parts_themselves() -> None:
    asked = composed("replay.size=3", "schedule=every_k", "schedule.k=2")
    assert (asked.replay, asked.schedule) == (Window(3), EveryK(2))


@pytest.mark.parametrize("group", GROUPS)
def test_every_group_offers_parts_that_are_frozen_dataclasses(group: str) -> None:
    offered = config.parts(group)
    assert offered
    for part in offered.values():
        assert is_dataclass(part)
        assert part.__dataclass_params__.frozen  # type: ignore[attr-defined]
        shared = {field.name for parent in part.__mro__[1:-1] if is_dataclass(parent) for field in fields(parent)}
        own = [field.name for field in fields(part) if field.name not in shared]
        assert len(own) <= 12 >= len(shared), f"{part.__name__} has {len(own)} fields: there is a part hiding in there"


def test_defaults_are_those_of_the_classes() -> None:
    asked = composed()
    assert asked.replay == Window()
    assert asked.checkpoint == RunConfig().checkpoint
    assert asked.evaluate == RunConfig().evaluate


def test_values_inside_a_list_can_be_overridden() -> None:
    assert composed("sampler.draws.0.n=7").sampler.draws[0].n == 7
    draws = composed("sampler.draws=[{name: cold, n: 2, temperature: 0.5}, {name: warm, n: 2}]").sampler.draws
    assert [(draw.name, draw.temperature) for draw in draws] == [("cold", 0.5), ("warm", 1.0)]


def test_evaluation_may_have_a_judge_of_its_own() -> None:
    asked = composed("scorer@evaluate.scorer=rule", "evaluate.scorer.function=my_lab.judges.gold")
    assert type(asked.evaluate.scorer) is type(asked.scorer)
    assert asked.evaluate.scorer != asked.scorer
    assert composed().evaluate.scorer is None


def test_evaluation_answers_each_prompt_once() -> None:
    assert composed("evaluate.draw.name=mine").evaluate.draw.name == "mine"
    with pytest.raises(ValueError, match=r"evaluate\.draw\.n must be 1, got 3.* Fix: evaluate\.draw\.n=1"):
        composed("evaluate.draw.n=3")


def test_a_value_is_checked_by_its_part() -> None:
    with pytest.raises(ValueError, match=r"replay\.size must be >= 1, got 0"):
        composed("replay.size=0")


@pytest.mark.parametrize("override", ["rounds=0", "seed=-1", "evaluate.every=0", "checkpoint.keep=0", "run_dir=' '"])
def test_a_value_that_makes_no_run_is_refused_with_its_key(override: str) -> None:
    key, _ = override.split("=")
    with pytest.raises(ValueError, match=f"{key} must .*, got .*\\. "):
        composed(override)


def test_a_wrong_type_is_refused() -> None:
    with pytest.raises(ConfigCompositionException, match=r"replay\.size=many"):
        composed("replay.size=many")


# -- the sandbox world ------------------------------------------------------------------------------------------------

HERE = ("experiment=sandbox", "cluster=local", "engine=huggingface", "learner=torch")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A world that looks built."""
    monkeypatch.setenv("RLHF_FLOW_HOME", str(tmp_path))
    world = locate()
    world.root.mkdir()
    world.facts.write_text("{}")
    return world


def test_the_sandbox_learns_from_the_reward_model_and_the_gold_judge_watches(world: World) -> None:
    asked = config.compose(*HERE)
    assert asked.model.path == str(world.policy)
    assert (asked.prompts.path, asked.prompts.held_out_path) == (str(world.prompts), str(world.held_out))
    assert asked.scorer == RewardModel(path=str(world.reward_model))
    assert asked.evaluate.scorer == Rule(function="rlhf_flow.sandbox.gold.worth")


@pytest.mark.parametrize("experiment", sorted(path.stem for path in (config.CONFIGS / "experiment").glob("*.yaml")))
@pytest.mark.parametrize("algorithm", sorted(path.stem for path in (config.CONFIGS / "algorithm").glob("*.yaml")))
def test_every_algorithm_fits_every_experiment(world: World, experiment: str, algorithm: str) -> None:
    guide = ["anchors.policies={reward_policy: elsewhere}"] if algorithm == "tgdpo" else []  # the user names it
    asked = config.compose(f"experiment={experiment}", f"algorithm={algorithm}", *guide)
    assert asked.model.path == str(world.policy)


def test_an_experiment_sets_the_constants_of_an_algorithm_and_the_command_line_has_the_last_word(world: World) -> None:
    assert config.compose(*HERE).objective.beta == 0.2
    assert config.compose(*HERE, "objective.beta=0.7").objective.beta == 0.7
    assert config.compose(*HERE, "algorithm=online_ipo").objective.tau == 0.05


@pytest.mark.parametrize("source", ["jsonl", "parquet", "huggingface"])
def test_the_sandbox_cuts_prompts_from_wherever_they_come(world: World, source: str) -> None:
    asked = config.compose(*HERE, f"prompts={source}", "prompts.path=mine").prompts
    assert type(asked) is config.parts("prompts")[source]
    assert (asked.path, asked.batch, asked.max_tokens, asked.too_long) == ("mine", 64, 256, "cut")


def test_prompts_of_one_s_own_bring_their_own_held_out_ones(world: World) -> None:
    assert config.compose(*HERE, "prompts=jsonl", "prompts.path=mine").prompts.held_out_path is None
    assert config.compose(*HERE, "prompts=huggingface", "prompts.path=mine").prompts.held_out_split is None
    asked = config.compose(*HERE, "prompts.path=mine").prompts  # only the training prompts
    assert (asked.path, asked.held_out_path) == ("mine", str(world.held_out))


def test_either_judge_of_the_sandbox_can_be_another(world: World) -> None:
    asked = config.compose(*HERE, "scorer=rule", "scorer.function=my_lab.worth")
    assert asked.scorer == Rule(function="my_lab.worth")
    assert asked.evaluate.scorer == Rule(function="rlhf_flow.sandbox.gold.worth")
    asked = config.compose(*HERE, "scorer@evaluate.scorer=reward_model", "evaluate.scorer.path=mine")
    assert asked.evaluate.scorer == RewardModel(path="mine")
    assert config.compose(*HERE, "~scorer@evaluate.scorer").evaluate.scorer is None
    assert config.compose(*HERE, "scorer=gold").scorer == Rule(function="rlhf_flow.sandbox.gold.worth")


# -- parts of one's own -----------------------------------------------------------------------------------------------


def test_a_file_may_name_a_class_of_its_own() -> None:
    assert own(f"{__name__}.Mine", gamma=0.5).objective == Mine(gamma=0.5, delta=2)


def test_evaluation_may_have_a_judge_from_a_file() -> None:
    written = OmegaConf.create(config.as_yaml(composed()))
    written["evaluate"]["scorer"] = {"_target_": f"{__name__}.Mine", "gamma": 0.5}
    assert config.from_yaml(OmegaConf.to_yaml(written)).evaluate.scorer == Mine(0.5)
    written["evaluate"]["scorer"]["gamma"] = "much"
    with pytest.raises(ValidationError, match=r"full_key: evaluate\.scorer\.gamma"):
        config.from_yaml(OmegaConf.to_yaml(written))


@pytest.mark.parametrize("target", ["no_such_module.Mine", f"{__name__}.NoSuchClass", "Mine"])
def test_a_class_that_cannot_be_imported_is_refused(target: str) -> None:
    with pytest.raises(ValueError, match=r"objective\._target_ must be the dotted name .* PYTHONPATH"):
        own(target)


def test_a_target_must_be_a_part() -> None:
    with pytest.raises(ValueError, match=r"objective\._target_ must name a dataclass"):
        own("pathlib.Path")


def test_a_slot_without_a_part_is_refused_with_the_choices() -> None:
    written = OmegaConf.create(config.as_yaml(composed()))
    written["schedule"] = {"k": 3}
    with pytest.raises(ValueError, match=r"schedule needs a part, but got .* Fix: schedule=fixed\|every_k\|"):
        config.from_yaml(OmegaConf.to_yaml(written))


SCHEDULES = "fixed|every_k|half_steps|fast_and_slow|averaged|history|extrapolated|versions"


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("fixed", "'fixed'. Fix: schedule=fixed, or a file"),
        ("fix", f"'fix'. Fix: schedule={SCHEDULES}, or a file"),
        (3, f"3. Fix: schedule={SCHEDULES}, or a file"),
        ([1], f"[1]. Fix: schedule={SCHEDULES}, or a file"),
    ],
)
def test_a_slot_that_holds_no_part_is_refused(value: object, told: str) -> None:
    written = OmegaConf.create(config.as_yaml(composed()))
    written["schedule"] = value
    with pytest.raises(ValueError, match=re.escape(f"schedule needs a part, but got {told}")):
        config.from_yaml(OmegaConf.to_yaml(written))


# -- writing it down --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "overrides",
    [(), ("replay.size=3", "rounds=9"), ("scorer@evaluate.scorer=rule", "evaluate.scorer.function=my_lab.judges.gold")],
)
def test_what_is_written_down_reads_as_the_same_configuration(overrides: tuple[str, ...]) -> None:
    asked = composed(*overrides)
    assert config.from_yaml(config.as_yaml(asked)) == asked


def test_a_part_of_one_s_own_is_written_down_too() -> None:
    asked = own(f"{__name__}.Mine", gamma=0.5)
    assert config.from_yaml(config.as_yaml(asked)) == asked
    assert config.flat(asked)["objective"] == f"{__name__}.Mine"


# -- what makes two runs the same run ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "override",
    [
        "rounds=7",
        "run_dir=elsewhere",
        "observe.tensorboard=true",
        "checkpoint.every=3",
        "learner.training.micro_batch=2",
        "model.path=moved/model",  # of what lies there the contents count
        "prompts.path=moved.jsonl",
        "prompts.held_out_path=moved.jsonl",
    ],
)
def test_a_resumed_run_may_change(override: str) -> None:
    assert identity(composed(override)) == identity(composed())


def test_judges_and_settings_of_deepspeed_may_move(tmp_path: Path) -> None:
    def moved(folder: str) -> dict[str, object]:
        settings = tmp_path / f"{folder}.json"
        settings.write_text("{}")
        judges = ("scorer=reward_model", "scorer@evaluate.scorer=reward_model")
        learner = ("learner=deepspeed", f"learner.config={settings}")
        paths = (f"scorer.path={folder}/a", f"evaluate.scorer.path={folder}/b")
        others = (item for item in LOCAL if not item.startswith(("scorer", "learner")))
        return identity(config.compose(*others, *judges, *learner, *paths))

    assert moved("here") == moved("there")


def test_a_bound_that_only_stops_a_run_may_be_raised() -> None:
    bounds = ("off_policy.max_mismatch=0.1", "off_policy.max_mismatch=0.2")
    stopping = [identity(composed("off_policy.exceeding=stop", bound)) for bound in bounds]
    dropping = [identity(composed(bound)) for bound in bounds]
    assert stopping[0] == stopping[1]
    assert dropping[0] != dropping[1]


@pytest.mark.parametrize("layout", ["colocated", "disaggregated"])
def test_a_layout_is_a_choice_by_name_and_may_change(layout: str) -> None:
    named = config.compose("model.path=x", "prompts.path=y", "scorer.path=z", f"cluster={layout}", "cluster.engines=2")
    keyed = config.compose("model.path=x", "prompts.path=y", "scorer.path=z", f"cluster.layout={layout}")
    assert (named.cluster.layout, named.cluster.engines) == (layout, 2)
    assert identity(named) == identity(keyed)


@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")
def test_a_resumed_run_may_move_to_another_cluster() -> None:
    assert identity(composed("cluster=ray")) == identity(composed())


@pytest.mark.parametrize(
    ("override", "was", "now"),
    [
        ("seed=1", 0, 1),
        ("schedule=every_k", "fixed", "every_k"),
        ("sampler.draws.0.temperature=0.5", 1.0, 0.5),
        ("checkpoint.prompts_per_commit=3", 64, 3),
        ("model.revision=abc", None, "abc"),
        ("scorer.function=my_lab.judges.other", "my_lab.judges.worth", "my_lab.judges.other"),
    ],
)
def test_a_resumed_run_may_not_change(override: str, was: object, now: object) -> None:
    key, _ = override.split("=")
    old, new = identity(composed()), identity(composed(override))
    assert (old[key], new[key]) == (was, now)


def test_rounds_are_bound_where_the_learning_rate_spans_them() -> None:
    spanning = "learner.training.schedule.span=run"
    old, new = (identity(composed(spanning, rounds)) for rounds in ("rounds=4", "rounds=5"))
    assert (old["rounds"], new["rounds"]) == (4, 5)


def test_the_keys_of_a_part_come_and_go_with_it() -> None:
    old, new = identity(composed()), identity(composed("schedule=every_k"))
    assert old.keys() ^ new.keys() == {"schedule.k"}


def test_the_identity_survives_json() -> None:
    keys = identity(composed())
    assert json.loads(json.dumps(keys)) == keys


def test_the_files_are_beside_the_package() -> None:
    assert (config.CONFIGS / "run.yaml").is_file()
    assert {"algorithm", "experiment"} <= {folder.name for folder in Path(config.CONFIGS).iterdir()}
