"""Engines that were opened for mixtures: what they draw is the mixture, token by token, and never anything stale."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from rlhf_flow.engine.huggingface import HuggingFace
from rlhf_flow.engine.vllm.spec import VLLM
from rlhf_flow.protocols import Engine
from rlhf_flow.specs import Place
from rlhf_flow.types import Mixture, Policy, Prompt, Response, Rollouts, SamplingParams
from rlhf_flow.weights.source import InMemoryWeights
from tests.engine.conftest import Mixed, World

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from tests.engine.conftest import Opener, Server

DRAW = SamplingParams("warm", n=3, max_tokens=20)
TOLERANCE = 1e-4  # nats, largest difference of one log-prob in float32
MIXED = Mixed(policy=1, reference=0, weight=0.3)


def flat(rollouts: Rollouts) -> list[Response]:
    return [response for group in rollouts.responses for response in group]


def tokens(rollouts: Rollouts) -> list[list[int]]:
    return [response.tokens.tolist() for response in flat(rollouts)]


def draw(engine: Engine, world: World, prompts: list[Prompt], of: int | Mixed, how: SamplingParams = DRAW) -> Rollouts:
    """From weights of a seed or from a mixture; the log-probs that come with the answers are checked."""
    asked = world.mixture(of) if isinstance(of, Mixed) else world.start if of == 0 else world.policy(of)
    rollouts = engine.generate(prompts, asked, how, round=1, seed=7)
    assert {response.policy for response in flat(rollouts)} == {asked.sha256}
    assert {response.source for response in flat(rollouts)} == {"mixture" if isinstance(of, Mixed) else "policy"}
    assert world.worst_error(of, rollouts, [response.logps for response in flat(rollouts)]) < TOLERANCE
    return rollouts


# -- what is drawn ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "weight", [0.125, -0.4, *(pytest.param(weight, marks=pytest.mark.soak) for weight in (0.5, 0.9))]
)
def test_logps_are_those_of_the_mixture_of_two_plain_forwards(
    mixer: Engine, world: World, prompts: list[Prompt], weight: float
) -> None:
    mixed = replace(MIXED, weight=weight)
    rollouts = draw(mixer, world, prompts, mixed)
    assert world.worst_error(mixed, rollouts, mixer.logps(rollouts, world.mixture(mixed))) < TOLERANCE
    for alone in (1, 0):  # the bound would see either of the two, and a weight that is a little off
        assert world.worst_error(alone, rollouts, [response.logps for response in flat(rollouts)]) > 1000 * TOLERANCE
    near = replace(mixed, weight=weight + 1e-3)
    assert world.worst_error(near, rollouts, [response.logps for response in flat(rollouts)]) > TOLERANCE


def test_a_draw_shapes_the_mixture_and_its_logps_stay_raw(mixer: Engine, world: World, prompts: list[Prompt]) -> None:
    draw(mixer, world, prompts, MIXED, SamplingParams("cold", n=2, temperature=0.5, top_p=0.8, top_k=20, max_tokens=8))
    greedy = draw(mixer, world, prompts[:6], MIXED, SamplingParams(n=1, temperature=0, max_tokens=12))
    for prompt, (response,) in zip(prompts[:6], greedy.responses, strict=True):
        read = [*prompt.tokens, *response.tokens.tolist()]
        best = world.distributions(MIXED, read)[len(prompt.tokens) - 1 : -1].argmax(-1)
        assert best.tolist() == response.tokens.tolist()


@pytest.mark.parametrize(("weight", "alone"), [(0.0, 1), (1.0, 0)])
def test_at_its_ends_a_mixture_is_one_of_the_two(
    mixer: Engine, world: World, prompts: list[Prompt], weight: float, alone: int
) -> None:
    mixed = draw(mixer, world, prompts, replace(MIXED, weight=weight))
    assert tokens(mixed) == tokens(draw(mixer, world, prompts, alone))


def test_a_policy_mixed_with_itself_is_itself(mixer: Engine, world: World, prompts: list[Prompt]) -> None:
    assert tokens(draw(mixer, world, prompts, Mixed(1, 1, 0.5))) == tokens(draw(mixer, world, prompts, 1))


def test_the_answers_of_a_mixture_do_not_depend_on_the_batch(
    mixer: Engine, world: World, prompts: list[Prompt]
) -> None:
    together = tokens(draw(mixer, world, prompts, MIXED))
    reverse = draw(mixer, world, prompts[::-1], MIXED)
    assert together == [response.tokens.tolist() for group in reverse.responses[::-1] for response in group]
    for index in (0, 5, 31):
        assert together[3 * index : 3 * index + 3] == tokens(draw(mixer, world, [prompts[index]], MIXED))


def test_a_mixing_engine_draws_the_policy_as_any_engine_does(
    mixer: Engine, engine: Engine, world: World, prompts: list[Prompt]
) -> None:
    assert tokens(draw(mixer, world, prompts, 1)) == tokens(draw(engine, world, prompts, 1))


# -- frequencies ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> World:
    """So few tokens that all answers can be listed."""
    return World(tmp_path_factory.mktemp("small"), vocabulary=6)


def exact(world: World, prompt: Prompt, of: int | Mixed, length: int) -> dict[tuple[int, ...], float]:
    """The probability of every answer of at most `length` tokens."""
    probabilities, open_ends = {}, {(): 1.0}
    for _ in range(length):
        longer = {}
        for answer, mass in open_ends.items():
            after = np.exp(world.distributions(of, [*prompt.tokens, *answer])[-1].astype(np.float64))
            longer |= {(*answer, token): mass * after[token] / after.sum() for token in range(world.vocabulary)}
        probabilities |= {answer: mass for answer, mass in longer.items() if answer[-1] == 1}
        open_ends = {answer: mass for answer, mass in longer.items() if answer[-1] != 1}
    return probabilities | open_ends


def distance(counts: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Total variation between relative frequencies [..., A] and probabilities [A]."""
    return np.abs(counts / counts.sum(-1, keepdims=True) - probabilities).sum(-1) / 2


def test_whole_answers_are_as_frequent_as_the_mixture_says(
    request: pytest.FixtureRequest, opener: Opener, small: World
) -> None:
    """Over 20 000 answers, against what multinomial draws from the exact mixture are away from it.

    The distance of an exact sampler varies by about 6 % around its mean, so the bound of 1.3 means lies 5 standard
    deviations up; that of the mixture whose weight is off by 0.05 lies beyond it.
    """
    prompts, length = [Prompt(f"x{i}", (), (0, 3, 4, 5, 3)) for i in range(4)], 3
    how = SamplingParams(n=5000, max_tokens=length)
    if "huggingface" in request.node.name:  # 24 answers at a time would take long
        mixer = HuggingFace(batch=4000).open(small.model, Place(), mixes=True)
    else:
        mixer = opener.fresh(small, mixes=True)
    due = exact(small, prompts[0], MIXED, length)
    assert len(due) == 1 + 5 + 25 * 6 and sum(due.values()) == pytest.approx(1)
    index, probabilities = {answer: row for row, answer in enumerate(due)}, np.array([*due.values()])
    drawn = mixer.generate(prompts, small.mixture(MIXED), how, round=1, seed=11)
    counts = np.bincount([index[tuple(answer)] for answer in tokens(drawn)], minlength=len(due))

    simulated = distance(np.random.default_rng(0).multinomial(counts.sum(), probabilities, size=400), probabilities)
    bound = 1.3 * simulated.mean()
    assert bound > simulated.mean() + 3.5 * simulated.std()
    assert distance(counts, probabilities) < bound
    for other in (1, 0, replace(MIXED, weight=0.35)):
        assert distance(counts, np.array([*exact(small, prompts[0], other, length).values()])) > bound


# -- weights ----------------------------------------------------------------------------------------------------------

SCENES: dict[str, tuple[int | Mixed, ...]] = {
    "the policy changes": (Mixed(1, 0, 0.3), Mixed(2, 0, 0.3), Mixed(1, 0, 0.3)),
    "the reference changes": (Mixed(1, 0, 0.3), Mixed(1, 2, 0.3), Mixed(1, 0, 0.3)),
    "both change places": (Mixed(1, 2, 0.3), Mixed(2, 1, 0.3), Mixed(1, 2, 0.3)),
    "the weight changes": (Mixed(1, 0, 0.3), Mixed(1, 0, 0.7), Mixed(1, 0, 0.0), Mixed(1, 0, 1.0), Mixed(1, 0, 0.3)),
    "one alone in between": (Mixed(1, 0, 0.3), 1, Mixed(1, 0, 0.3), 0, Mixed(1, 0, 0.3), 2, Mixed(1, 0, 0.3)),
    "from one to the other": (0, 1, 0, 1, 2, 0),
}


@pytest.mark.parametrize("scene", SCENES.values(), ids=[name.replace(" ", "-") for name in SCENES])
@pytest.mark.parametrize("kind", ["untied", pytest.param("tied", marks=pytest.mark.soak)])
def test_nothing_stale_is_drawn_from(
    mixers: Mapping[str, Engine], worlds: Mapping[str, World], prompts: list[Prompt], kind: str, scene: tuple
) -> None:
    """The same long prompts each time, so that keys and values of other weights would be found in a prefix cache."""
    seen: dict[int | Mixed, list[list[int]]] = {}
    for of in scene:
        answers = tokens(draw(mixers[kind], worlds[kind], prompts[::4], of, SamplingParams(n=2, max_tokens=8)))
        assert seen.setdefault(of, answers) == answers
    assert all(left != right for left, right in itertools.combinations(seen.values(), 2))


@pytest.fixture(scope="session")
def mixers(opener: Opener, worlds: Mapping[str, World]) -> Mapping[str, Engine]:
    return {kind: opener.shared(world, mixes=True) for kind, world in worlds.items()}


@pytest.mark.parametrize("stale", ["policy", "reference"])
def test_a_probe_of_other_weights_stops_the_draw_from_a_mixture(
    mixer: Engine, world: World, prompts: list[Prompt], stale: str
) -> None:
    mixed = replace(MIXED, **{stale: 3})
    wrong = replace(world.mixture(mixed), **{stale: world.policy(3, probed_as=2, name="fresh")})
    with pytest.raises(RuntimeError, match=r"does not hold policy 'fresh' of round 1 .* allows 0\.001 in float32"):
        mixer.generate(prompts, wrong, DRAW, round=1, seed=7)
    draw(mixer, world, prompts, mixed)  # the same hash, which the engine must not believe it holds


@pytest.mark.parametrize("damaged", ["policy", "reference"])
def test_a_wrong_state_dict_in_a_mixture_is_refused(
    mixer: Engine, world: World, prompts: list[Prompt], damaged: str
) -> None:
    before = draw(mixer, world, prompts, MIXED)
    state = world.state(2)
    del state["lm_head.weight"]
    wrong = replace(world.mixture(MIXED), **{damaged: replace(world.policy(2), weights=InMemoryWeights(state))})
    with pytest.raises(ValueError, match=r"lacks lm_head\.weight"):
        mixer.generate(prompts, wrong, DRAW, round=1, seed=7)
    assert tokens(before) == tokens(draw(mixer, world, prompts, MIXED))


def unloadable(policy: Policy) -> Policy:
    """Answers only where an engine holds it already."""
    return replace(policy, weights=InMemoryWeights({}))


def test_a_policy_in_either_slot_is_drawn_from_where_it_is(mixer: Engine, world: World, prompts: list[Prompt]) -> None:
    mixed = Mixed(1, 2, 0.3)
    draw(mixer, world, prompts[:4], mixed)
    policy, reference = unloadable(world.policy(1)), unloadable(world.policy(2))
    for asked, of in ((reference, 2), (policy, 1), (Mixture(policy, reference, 0.3), mixed)):
        rollouts = mixer.generate(prompts[:4], asked, DRAW, round=1, seed=7)
        assert world.worst_error(of, rollouts, [response.logps for response in flat(rollouts)]) < TOLERANCE


# -- what is refused --------------------------------------------------------------------------------------------------


def test_an_engine_that_was_not_opened_for_mixtures_says_so(
    engine: Engine, world: World, prompts: list[Prompt]
) -> None:
    with pytest.raises(ValueError, match=r"'policy' of round 1 and 'start' of round 0 .* open it with mixes=True"):
        engine.generate(prompts, world.mixture(MIXED), DRAW, round=1, seed=7)


@pytest.mark.parametrize("weight", [-1.1, 1.1, float("nan")])
def test_a_weight_out_of_its_range_is_refused(
    mixer: Engine, world: World, prompts: list[Prompt], weight: float
) -> None:
    with pytest.raises(ValueError, match=rf"must be in \[-1, 1\], got {weight}"):
        mixer.generate(prompts, world.mixture(replace(MIXED, weight=weight)), DRAW, round=1, seed=7)


def test_every_engine_says_that_it_can_mix() -> None:
    assert HuggingFace().can_mix and VLLM().can_mix


# -- what only vLLM can do wrong --------------------------------------------------------------------------------------


@pytest.mark.vllm
def test_a_crowded_cache_changes_no_answer_of_a_mixture(
    server: Server, vllm_opener: Opener, world: World, prompts: list[Prompt]
) -> None:
    crowded = server.open(VLLM(kv_cache_mib=1, max_num_seqs=16), world.model, mixes=True)
    roomy = vllm_opener.shared(world, mixes=True)
    assert tokens(draw(crowded, world, prompts, MIXED)) == tokens(draw(roomy, world, prompts, MIXED))
