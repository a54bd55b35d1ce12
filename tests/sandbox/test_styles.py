"""The judges of style: what a style is, a cycle and none, and how far a policy is from equilibrium."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_flow.config import compose as config
from rlhf_flow.games.equilibrium import gap, nash
from rlhf_flow.games.game import Game
from rlhf_flow.sandbox import noise, styles, world
from rlhf_flow.sandbox.lexicon import TONES
from rlhf_flow.sandbox.request import Request, every_request
from rlhf_flow.sandbox.request import word as worded
from rlhf_flow.sandbox.styles import CYCLIC, OTHER, STYLES, TAU, TRANSITIVE, cyclic, measure, style, transitive
from rlhf_flow.scorer.functions.comparison import Comparison
from rlhf_flow.specs import Place
from rlhf_flow.types import Message, Prompt, Response, Rollouts, SamplingParams

ANSWERS = {  # one of each style
    "polite": "Thank you for asking. Please water the roses.",
    "cheerful": "Hooray, let us begin! Just water the roses!",
    "formal": "One should water the roses.",
    "grumpy": "Fine, water the roses.",
    OTHER: "Water the roses.",
}
# The start's shares of each style among its answers to prompts that ask for a tone, as measured on 1024 answers to the
# held-out prompts of the world.
START = {
    "polite": (0.29, 0.14, 0.19, 0.13, 0.25),
    "cheerful": (0.15, 0.31, 0.15, 0.19, 0.20),
    "formal": (0.12, 0.14, 0.34, 0.16, 0.24),
    "grumpy": (0.10, 0.17, 0.11, 0.30, 0.32),
}


def side_by_side(*rows: tuple[str, Sequence[str]]) -> Rollouts:
    """A prompt that asks for a tone, and the answers to it; each row is one."""
    draw = SamplingParams(n=1)
    prompts, responses = [], []
    for at, (tone, answers) in enumerate(rows):
        asked = worded(Request("advice", "garden", tone, 1, False), random.Random(at))
        prompts.append(Prompt(f"p{at}", (Message("user", asked),), tokens=(at,)))
        responses.append(
            tuple(
                Response(f"1/{k}/p{at}", np.zeros(1, np.int32), text, None, False, draw, seed=0, policy="")
                for k, text in enumerate(answers)
            )
        )
    return Rollouts(1, tuple(prompts), tuple(responses))


def from_to(start: dict[str, int], now: dict[str, int], *, tone: str = "polite") -> Rollouts:
    """Answers of the start and of a policy, so many of each style."""
    columns = [[ANSWERS[name] for name, many in counts.items() for _ in range(many)] for counts in (start, now)]
    return side_by_side(*((tone, both) for both in zip(*columns, strict=True)))


@pytest.mark.parametrize("name", STYLES)
def test_each_style_is_known(name: str) -> None:
    assert style(ANSWERS[name]) == name


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "Please water the roses",
        "Thank you for asking.",
        "Please water the roses. One should trim the ferns.",  # as polite as formal
        "I hope this helps. Please water the roses.",
        "Please water the roses. Please water the unicorns.",
        "polite polite polite",
    ],
)
def test_without_a_form_or_a_most_frequent_tone_there_is_no_style(answer: str) -> None:
    assert style(answer) == OTHER


def test_the_most_frequent_tone_is_the_style() -> None:
    assert style("Please water the roses. One should trim the ferns. I hope this helps.") == "polite"
    assert style("If you insist. Please water the roses. You might trim the ferns.") == "polite"


@given(st.sampled_from(every_request()), st.integers())
def test_a_careful_answer_has_the_style_that_was_asked_for(asked: Request, seed: int) -> None:
    assert style(str(noise.write(asked, random.Random(seed), care=1.0))) == asked.tone


@given(st.text())
def test_any_text_has_a_style(text: str) -> None:
    assert style(text) in STYLES


def test_the_styles_are_the_tones_of_the_world_and_one_for_the_rest() -> None:
    assert (*TONES, OTHER) == STYLES


@pytest.mark.parametrize(("judge", "wins"), [(cyclic, CYCLIC), (transitive, TRANSITIVE)])
def test_judges_read_styles_alone_and_add_up(judge, wins: np.ndarray) -> None:
    for i, first in enumerate(STYLES):
        for j, second in enumerate(STYLES):
            said = judge((Message("user", "Be polite."),), ANSWERS[first], ANSWERS[second], {"tone": "polite"})
            assert said == wins[i, j]
            assert said + judge((), ANSWERS[second], ANSWERS[first], {}) == pytest.approx(1, abs=1e-12)
        assert judge((), ANSWERS[first], ANSWERS[first] + " ", {}) == 0.5


def circles(wins: np.ndarray) -> int:
    """Ordered triples that beat one another in turn."""
    return sum(wins[a, b] > 0.5 and wins[b, c] > 0.5 and wins[c, a] > 0.5 for a, b, c in permutations(range(5), 3))


def test_one_judge_has_one_cycle_of_unequal_strengths_and_the_other_has_none() -> None:
    assert circles(CYCLIC) == 3 and circles(TRANSITIVE) == 0
    assert len({CYCLIC[0, 1], CYCLIC[1, 2], CYCLIC[2, 0]}) == 3
    assert (CYCLIC[:3, 3:] >= 0.9).all() and (CYCLIC[:4, 4] >= 0.9).all()
    assert (np.diff(TRANSITIVE.mean(-1)) < 0).all()


def test_the_share_of_each_style_is_measured_and_the_first_column_is_the_start() -> None:
    measured = measure(from_to({"grumpy": 3, OTHER: 1}, {"polite": 2, "formal": 1, OTHER: 1}))
    shares = {name: measured[f"style/{name}"] for name in STYLES}
    assert shares == {"polite": 0.5, "cheerful": 0, "formal": 0.25, "grumpy": 0, OTHER: 0.25}
    reference = np.array([0.5, 0.5, 0.5, 3.5, 1.5]) / 6.5
    expected = gap(Game(CYCLIC, reference), np.array(list(shares.values())), TAU)
    assert measured["gap"] == measured["gap_by_tone"] == pytest.approx(expected)


def test_the_gap_is_small_at_the_equilibrium_and_large_for_one_style() -> None:
    start = dict.fromkeys(STYLES, 200)
    at = nash(Game(CYCLIC, np.full(5, 0.2)), TAU)
    counts = np.floor(1000 * at)
    counts[0] += 1000 - counts.sum()
    near = measure(from_to(start, dict(zip(STYLES, map(int, counts), strict=True))))["gap"]
    assert 0 <= near < 1e-3
    for name in STYLES:
        assert measure(from_to(start, {name: 1000}))["gap"] > 0.4
    assert measure(from_to(start, start))["gap"] > 0.2


def test_without_a_cycle_the_best_style_alone_is_near_the_equilibrium() -> None:
    start = dict.fromkeys(STYLES, 20)
    distance = {name: styles.measure_transitive(from_to(start, {name: 100}))["gap"] for name in STYLES}
    assert min(distance, key=distance.__getitem__) == "polite"
    assert distance["polite"] < 0.1 < distance["cheerful"]


def test_prompts_that_get_different_styles_are_a_mixture_for_the_gap_and_not_for_the_gap_by_tone() -> None:
    start = dict.fromkeys(STYLES, 20)
    one, other = from_to(start, {"polite": 100}), from_to(start, {"formal": 100}, tone="formal")
    prompts = (*one.prompts, *(replace(prompt, id=f"other/{prompt.id}") for prompt in other.prompts))
    both = measure(Rollouts(1, prompts, (*one.responses, *other.responses)))
    apart = [measure(part)["gap"] for part in (one, other)]
    assert both["gap_by_tone"] == pytest.approx(np.mean(apart))
    assert both["gap"] < both["gap_by_tone"] - 0.1


def test_equilibria_for_each_tone_asked_for_are_together_one_for_all_prompts() -> None:
    references = np.array([np.array(shares) / sum(shares) for shares in START.values()])
    together = np.mean([nash(Game(CYCLIC, reference), TAU) for reference in references], axis=0)
    assert gap(Game(CYCLIC, references.mean(0)), together, TAU) < 1e-3


@pytest.mark.parametrize("answers", [1, 2, 5])
def test_any_number_of_answers_can_be_measured(answers: int) -> None:
    spec = Comparison("rlhf_flow.sandbox.styles.cyclic", measure="rlhf_flow.sandbox.styles.measure")
    spec.check()
    judge = spec.open(Place())
    scored = judge.score(side_by_side(("polite", list(ANSWERS.values())[:answers]), ("grumpy", ["?"] * answers)))
    assert scored.batch_metrics.keys() == {"gap", "gap_by_tone", *(f"style/{name}" for name in STYLES)}
    assert judge.score(Rollouts(1, (), ())).batch_metrics == {}


# -- beside the world -------------------------------------------------------------------------------------------------


def test_the_world_is_the_same_whatever_its_judges_of_style_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "sandbox"
    shutil.copytree(Path(world.__file__).parent, copy)
    monkeypatch.setattr(world, "__file__", str(copy / "world.py"))
    before = world.key(world.Size())
    for name in world.OUTSIDE:
        (copy / name).write_text("changed\n")
    assert world.key(world.Size()) == before
    (copy / "policy.py").write_text("changed\n")
    assert world.key(world.Size()) != before


def test_building_the_world_reads_nothing_from_outside() -> None:
    names = {f"rlhf_flow.sandbox.{name.removesuffix('.py')}" for name in world.OUTSIDE}
    code = f"import sys, rlhf_flow.sandbox.build; print({names!r} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


@pytest.mark.slow
def test_the_experiment_trains_and_evaluates_by_the_judge_with_the_cycle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RLHF_FLOW_HOME", str(tmp_path))
    built = world.locate()
    built.root.mkdir()
    built.facts.write_text("{}")
    asked = config.compose("experiment=cyclic")
    assert asked.scorer == Comparison("rlhf_flow.sandbox.styles.cyclic", measure="rlhf_flow.sandbox.styles.measure")
    assert asked.evaluate.scorer is None, "the one that training uses"
    assert asked.model.path == str(built.policy)
    other = config.compose("experiment=cyclic", "scorer=transitive").scorer
    assert other.function == "rlhf_flow.sandbox.styles.transitive"
    other.check()
