"""One set of keys for how answers are drawn: of every algorithm, and of evaluation."""

from __future__ import annotations

from functools import cache

import pytest
from omegaconf import OmegaConf

from rlhf_flow.cli.main import main
from rlhf_flow.config import compose as config
from rlhf_flow.config.answers import Answers
from rlhf_flow.config.compatibility import warnings
from rlhf_flow.config.identity import identity
from rlhf_flow.config.schema import RunConfig
from rlhf_flow.types import SamplingParams
from tests.config.test_compose import LOCAL

pytestmark = pytest.mark.slow

ALGORITHMS = sorted(path.stem for path in (config.CONFIGS / "algorithm").glob("*.yaml"))
GAME = "objective.scalar_judge=allow"
OWN = {  # what an algorithm leaves to the user
    "nash_md": [GAME],
    "nash_ema": [GAME],
    "tgdpo": ["anchors.policies={reward_policy: elsewhere}"],
}


@cache
def composed(*overrides: str) -> RunConfig:
    return config.compose(*LOCAL, *overrides)


def of(algorithm: str, *overrides: str) -> RunConfig:
    return composed(f"algorithm={algorithm}", *OWN.get(algorithm, []), *overrides)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_takes_the_same_keys(algorithm: str) -> None:
    made = of(
        algorithm, "answers.max_tokens=77", "answers.temperature=0.5", "answers.stop=['###']", "answers.min_p=0.1"
    )
    sampled = (draw for draw in made.sampler.drawn.values() if made.sampler.sources[draw.name] != "dataset")
    draws = [*sampled, made.evaluate.draw]
    assert {(draw.max_tokens, draw.temperature, draw.min_p) for draw in draws} == {(77, 0.5, 0.1)}
    assert all(draw.stop == ["###"] for draw in draws)
    assert made.evaluate.draw.n == 1


def test_an_answer_has_room_by_default() -> None:
    assert {draw.max_tokens for draw in [*composed().sampler.drawn.values(), composed().evaluate.draw]} == {512}


@pytest.mark.parametrize(
    ("algorithm", "n", "each"),
    [
        ("online_dpo", 4, [4]),
        ("iterative_dpo", 4, [2, 2]),
        ("xpo", 2, [1, 1]),
        ("nash_md_exact", 2, [2]),
        ("sppo", 3, [3]),
    ],
)
def test_answers_to_a_prompt_are_divided_over_the_draws(algorithm: str, n: int, each: list[int]) -> None:
    assert [draw.n for draw in of(algorithm, f"answers.n={n}").sampler.drawn.values()] == each


def test_answers_that_cannot_be_divided_are_refused_with_a_number_that_can() -> None:
    with pytest.raises(ValueError, match=r"answers\.n=3: cannot be divided .*\(warm 4, cool 4\).* Fix: answers\.n=8"):
        of("iterative_dpo", "answers.n=3")


def test_what_is_typed_for_one_draw_is_kept() -> None:
    made = composed("answers.max_tokens=77", "sampler.draws.0.max_tokens=5", "evaluate.draw.max_tokens=9")
    assert made.sampler.draws[0].max_tokens == 5
    assert made.evaluate.draw.max_tokens == 9
    made = composed(
        "answers.max_tokens=77", "answers.n=6", "sampler.draws=[{name: a, n: 2, max_tokens: 512}, {name: b}]"
    )
    assert [(draw.n, draw.max_tokens) for draw in made.sampler.drawn.values()] == [(2, 512), (4, 77)]


def test_the_number_of_every_typed_draw_is_kept() -> None:
    plan = "sampler.draws=[{name: a, n: 2}]"
    made = config.compose("experiment=sandbox", "stack=local", "sampler=draws", plan)  # it sets answers.n=8
    assert [draw.n for draw in made.sampler.drawn.values()] == [2]
    with pytest.raises(ValueError, match=r"answers\.n=8: cannot be divided"):
        composed(plan, "answers.n=8")


def test_one_item_of_an_algorithm_s_list_is_answered_with_the_key_for_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", *LOCAL, "algorithm=iterative_dpo", "sampler.draws.1.max_tokens=5"]) == 2
    assert "Fix: answers.max_tokens=5" in capsys.readouterr().err


def test_an_answer_that_came_with_the_prompt_is_not_drawn() -> None:
    plan = ("sampler=draws", "sampler.draws=[{name: own, n: 2}, {name: given, n: 1, policy: dataset, candidate: good}]")
    made = composed(*plan, "answers.temperature=0.5", "answers.max_tokens=7", "selector=best_and_worst")
    assert [(draw.n, draw.temperature, draw.max_tokens) for draw in made.sampler.drawn.values()] == [
        (2, 0.5, 7),
        (1, 1.0, 512),
    ]


def test_what_an_algorithm_says_of_its_draws_holds_unless_it_is_typed() -> None:
    assert [draw.temperature for draw in of("iterative_dpo").sampler.drawn.values()] == [1.0, 0.7]
    assert of("dno_prct").sampler.draws[0].top_p == 0.95


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("answers.max_tokens=0", r"answers\.max_tokens must be >= 1, got 0"),
        ("answers.min_p=2", r"answers\.min_p must be in \[0, 1\], or null, got 2"),
        ("answers.repetition_penalty=0", r"answers\.repetition_penalty must be > 0"),
        ("answers.stop=['']", r"answers\.stop must be texts"),
        ("answers.n=0", r"answers\.n must be >= 1"),
    ],
)
def test_a_mistake_names_its_key(override: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        composed(override)


@pytest.mark.parametrize("key", ["min_p=0.1", "repetition_penalty=1.2", "top_p=0.9", "top_k=5", "temperature=0.7"])
def test_decoding_that_changes_the_distribution_is_not_the_policy_itself(key: str) -> None:
    told = warnings(composed("objective=ipo", f"answers.{key}"))
    assert len(told) == 2  # training's draw and evaluation's
    assert "objective=ipo requires on-policy answers" in told[0]
    assert key in told[0]


def test_a_text_that_ends_answers_leaves_their_distribution_the_policy_s_own() -> None:
    assert warnings(composed("objective=ipo", "answers.stop=['###']", "answers.max_tokens=9")) == []
    assert SamplingParams(stop=["#"], min_p=0.0, repetition_penalty=1.0).is_on_policy


def test_the_keys_are_no_part_of_a_run_s_identity_but_the_draws_are() -> None:
    assert identity(composed("answers.max_tokens=512")) == identity(composed())
    old, new = identity(composed()), identity(composed("answers.max_tokens=77"))
    assert {key for key in new if old.get(key) != new[key]} == {
        "sampler.draws.0.max_tokens",
        "evaluate.draw.max_tokens",
    }


def test_a_written_configuration_is_read_as_it_is() -> None:
    made = composed("answers.max_tokens=77", "sampler.draws.0.max_tokens=5")
    assert config.from_yaml(config.as_yaml(made)) == made


def test_a_sampler_of_one_s_own_takes_them_too() -> None:
    written = OmegaConf.create(config.as_yaml(composed()))
    written["answers"]["max_tokens"] = 33  # the sampler is named by its class there, as a file of one's own does
    assert config.build(written).sampler.draws[0].max_tokens == 33


def test_no_keys_change_nothing() -> None:
    assert Answers() == Answers(None)
