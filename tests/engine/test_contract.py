"""What every engine promises, tried on each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from rlhf_flow.protocols import Engine
from rlhf_flow.seeds import derive
from rlhf_flow.types import Policy, Prompt, Response, Rollouts, SamplingParams
from rlhf_flow.weights.source import InMemoryWeights

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from torch import Tensor

    from tests.engine.conftest import Opener, World

    State = dict[str, Tensor]

DRAW = SamplingParams("warm", n=4, max_tokens=40)
TOLERANCE = 1e-4  # nats, largest difference of one log-prob in float32


def flat(rollouts: Rollouts) -> list[Response]:
    return [response for group in rollouts.responses for response in group]


def same_answers(left: Sequence[Response], right: Sequence[Response]) -> bool:
    return all(a.id == b.id and np.array_equal(a.tokens, b.tokens) for a, b in zip(left, right, strict=True))


def test_sampled_logps_are_those_of_a_plain_float32_forward(
    engine: Engine, world: World, prompts: list[Prompt]
) -> None:
    rollouts = engine.generate(prompts, world.start, DRAW, round=1, seed=7)
    assert world.worst_error(0, rollouts, [response.logps for response in flat(rollouts)]) < TOLERANCE
    assert world.worst_error(0, rollouts, engine.logps(rollouts, world.start)) < TOLERANCE


def test_logps_stay_raw_when_the_draw_is_not(engine: Engine, world: World, prompts: list[Prompt]) -> None:
    draw = SamplingParams("cold", n=2, temperature=0.5, top_p=0.8, top_k=20, max_tokens=8)
    rollouts = engine.generate(prompts, world.start, draw, round=1, seed=7)
    assert world.worst_error(0, rollouts, [response.logps for response in flat(rollouts)]) < TOLERANCE


def test_a_text_that_stops_ends_an_answer_as_its_end_token_does(
    engine: Engine, world: World, prompts: list[Prompt]
) -> None:
    plain = flat(engine.generate(prompts, world.start, DRAW, round=1, seed=7))
    rollouts = engine.generate(prompts, world.start, replace(DRAW, stop=["7 w", "w9"]), round=1, seed=7)
    stopped = 0
    for whole, answer in zip(plain, flat(rollouts), strict=True):
        lengths = range(len(whole.tokens))  # a special token among the others has no text
        texts = [" ".join(f"w{token}" for token in whole.tokens[: at + 1] if token > 2) for at in lengths]
        ends = [at for at in lengths if any(one in texts[at] for one in ("7 w", "w9"))]
        length = ends[0] + 1 if ends else len(whole.tokens)
        assert answer.tokens.tolist() == whole.tokens[:length].tolist()
        assert np.allclose(answer.logps, whole.logps[:length], atol=TOLERANCE)
        assert answer.truncated == (whole.truncated and not ends)
        assert whole.text.startswith(answer.text) and "7 w" not in answer.text and "w9" not in answer.text
        stopped += bool(ends)
    assert stopped > 0
    assert world.worst_error(0, rollouts, engine.logps(rollouts, world.start)) < TOLERANCE


def test_min_p_leaves_out_what_is_much_less_likely(engine: Engine, world: World, prompts: list[Prompt]) -> None:
    strict = flat(
        engine.generate(prompts, world.start, SamplingParams("one", n=1, min_p=1.0, max_tokens=8), round=1, seed=7)
    )
    greedy = flat(
        engine.generate(prompts, world.start, SamplingParams("one", n=1, temperature=0, max_tokens=8), round=1, seed=7)
    )
    assert [one.tokens.tolist() for one in strict] == [one.tokens.tolist() for one in greedy]


def test_a_repetition_penalty_makes_tokens_differ_and_logps_stay_raw(
    engine: Engine, world: World, prompts: list[Prompt]
) -> None:
    def distinct(rollouts: Rollouts) -> float:
        return float(np.mean([len(set(one.tokens.tolist())) / len(one.tokens) for one in flat(rollouts)]))

    rollouts = engine.generate(prompts, world.start, replace(DRAW, repetition_penalty=8.0), round=1, seed=7)
    assert distinct(rollouts) > distinct(engine.generate(prompts, world.start, DRAW, round=1, seed=7)) + 0.05
    assert world.worst_error(0, rollouts, [response.logps for response in flat(rollouts)]) < TOLERANCE


def test_each_answer_says_what_it_is(engine: Engine, world: World, prompts: list[Prompt]) -> None:
    rollouts = engine.generate(prompts, world.start, DRAW, round=3, seed=7)
    assert rollouts.round == 3
    assert rollouts.prompts == tuple(prompts)
    for prompt, group in zip(prompts, rollouts.responses, strict=True):
        assert [response.id for response in group] == [f"3/warm/{k}/{prompt.id}" for k in range(4)]
        assert [response.seed for response in group] == [derive(7, 3, prompt.id, "warm") + k for k in range(4)]
        assert {response.policy for response in group} == {world.start.sha256}
        assert {response.draw for response in group} == {DRAW}
    for response in flat(rollouts):
        assert response.tokens.dtype == np.int32
        assert response.logps.dtype == np.float32
        assert response.logps.shape == response.tokens.shape
        assert response.text == " ".join(f"w{token}" for token in response.tokens if token > 2)  # no specials


def test_an_answer_ends_with_the_end_token_or_is_truncated(engine: Engine, world: World, prompts: list[Prompt]) -> None:
    responses = flat(engine.generate(prompts, world.start, DRAW, round=1, seed=7))
    for response in responses:
        ends = (response.tokens == 1).nonzero()[0].tolist()
        if response.truncated:
            assert ends == [] and len(response.tokens) == DRAW.max_tokens
        else:
            assert ends == [len(response.tokens) - 1]
    assert {response.truncated for response in responses} == {True, False}


def test_the_same_seed_gives_the_same_answers_and_another_seed_others(
    engine: Engine, world: World, prompts: list[Prompt]
) -> None:
    once = flat(engine.generate(prompts, world.start, DRAW, round=1, seed=7))
    again = flat(engine.generate(prompts, world.start, DRAW, round=1, seed=7))
    assert same_answers(once, again)
    for other in (
        engine.generate(prompts, world.start, DRAW, round=1, seed=8),
        engine.generate(prompts, world.start, DRAW, round=2, seed=7),
        engine.generate(prompts, world.start, replace(DRAW, name="other"), round=1, seed=7),
    ):
        differ = [not np.array_equal(a.tokens, b.tokens) for a, b in zip(once, flat(other), strict=True)]
        assert np.mean(differ) > 0.9


def test_the_answers_to_a_prompt_differ(engine: Engine, world: World, prompts: list[Prompt]) -> None:
    rollouts = engine.generate(prompts, world.start, DRAW, round=1, seed=7)
    distinct = [len({tuple(response.tokens) for response in group}) for group in rollouts.responses]
    assert np.mean(distinct) > 3.5


def test_answers_do_not_depend_on_the_batch(engine: Engine, world: World, prompts: list[Prompt]) -> None:
    together = engine.generate(prompts, world.start, DRAW, round=1, seed=7)
    reverse = engine.generate(prompts[::-1], world.start, DRAW, round=1, seed=7)
    assert same_answers(flat(together), [r for group in reverse.responses[::-1] for r in group])
    for index in (0, 5, 31):
        alone = engine.generate([prompts[index]], world.start, DRAW, round=1, seed=7)
        assert same_answers(together.responses[index], alone.responses[0])


def test_more_answers_begin_with_the_fewer(engine: Engine, world: World, prompts: list[Prompt]) -> None:
    few = engine.generate(prompts[:4], world.start, replace(DRAW, n=2), round=1, seed=7)
    many = engine.generate(prompts[:4], world.start, DRAW, round=1, seed=7)
    for left, right in zip(few.responses, many.responses, strict=True):
        assert same_answers(left, right[:2])


def test_no_prompts_give_no_answers(engine: Engine, world: World) -> None:
    assert engine.generate([], world.start, DRAW, round=1, seed=7).responses == ()


# -- distributions ----------------------------------------------------------------------------------------------------


def expected(logps: np.ndarray, draw: SamplingParams) -> np.ndarray:
    """The exact distribution of one token: temperature, the top_k likeliest, the fewest that reach top_p."""
    weights = np.exp(logps.astype(np.float64) / draw.temperature)
    probs = np.zeros_like(weights)
    order = np.argsort(-weights)
    kept = order[: draw.top_k or len(order)]
    mass = weights[kept] / weights[kept].sum()
    size = next(size for size in range(1, len(kept) + 1) if mass[:size].sum() >= draw.top_p or size == len(kept))
    probs[kept[:size]] = mass[:size] / mass[:size].sum()
    return probs


def least_certain(world: World, prompts: Sequence[Prompt]) -> Prompt:
    return min(prompts, key=lambda prompt: world.distributions(0, prompt.tokens)[-1].max())


@pytest.mark.parametrize(
    "draw",
    [
        SamplingParams("plain", n=4000, max_tokens=1),
        SamplingParams("cold", n=4000, temperature=0.6, max_tokens=1),
        SamplingParams("few", n=4000, top_k=7, max_tokens=1),
        SamplingParams("nucleus", n=4000, top_p=0.7, max_tokens=1),
        SamplingParams("all", n=4000, temperature=1.5, top_k=30, top_p=0.8, max_tokens=1),
    ],
    ids=lambda draw: draw.name,
)
def test_first_tokens_follow_the_exact_distribution(
    engine: Engine, world: World, prompts: list[Prompt], draw: SamplingParams
) -> None:
    prompt = least_certain(world, prompts)
    probs = expected(world.distributions(0, prompt.tokens)[-1], draw)
    drawn = flat(engine.generate([prompt], world.start, draw, round=1, seed=11))
    counts = np.bincount([int(response.tokens[0]) for response in drawn], minlength=len(probs))
    assert counts[probs == 0].sum() == 0
    often = probs * draw.n >= 5  # the rest is one cell
    cells = [*zip(counts[often], probs[often] * draw.n, strict=True)]
    if (~often & (probs > 0)).any() and (rest := probs[~often].sum() * draw.n) >= 1:
        cells.append((counts[~often].sum(), rest))
    chi_square = sum((seen - due) ** 2 / due for seen, due in cells)
    freedom = len(cells) - 1
    assert freedom >= 3
    assert chi_square < freedom + 4 * np.sqrt(2 * freedom) + 4


def test_the_chi_square_bound_would_see_a_wrong_temperature(
    engine: Engine, world: World, prompts: list[Prompt]
) -> None:
    prompt, draw = least_certain(world, prompts), SamplingParams("cold", n=4000, temperature=0.6, max_tokens=1)
    drawn = flat(engine.generate([prompt], world.start, draw, round=1, seed=11))
    counts = np.bincount([int(response.tokens[0]) for response in drawn], minlength=128)
    wrong = expected(world.distributions(0, prompt.tokens)[-1], replace(draw, temperature=0.7)) * draw.n
    often = wrong >= 5
    chi_square = ((counts - wrong)[often] ** 2 / wrong[often]).sum()
    freedom = often.sum() - 1
    assert chi_square > freedom + 4 * np.sqrt(2 * freedom) + 4


def test_a_greedy_answer_takes_the_likeliest_token_each_time(
    engine: Engine, world: World, prompts: list[Prompt]
) -> None:
    rollouts = engine.generate(
        prompts[:6], world.start, SamplingParams(n=1, temperature=0, max_tokens=12), round=1, seed=7
    )
    for prompt, (response,) in zip(prompts[:6], rollouts.responses, strict=True):
        tokens = [*prompt.tokens, *response.tokens.tolist()]
        best = world.distributions(0, tokens)[len(prompt.tokens) - 1 : -1].argmax(-1)
        assert best.tolist() == response.tokens.tolist()


# -- what is refused --------------------------------------------------------------------------------------------------


def test_a_prompt_that_does_not_fit_is_refused_by_name(engine: Engine, world: World) -> None:
    prompt = Prompt("long", (), tuple([0] + [5] * 99))
    exact = engine.generate([prompt], world.start, SamplingParams(n=1, max_tokens=28), round=1, seed=7)
    assert len(exact.responses[0]) == 1
    with pytest.raises(ValueError, match=r"'long' has 100 tokens.*max_tokens=29.*max_model_len=128"):
        engine.generate([prompt], world.start, SamplingParams(n=1, max_tokens=29), round=1, seed=7)


def test_an_empty_prompt_is_refused_by_name(engine: Engine, world: World, prompts: list[Prompt]) -> None:
    with pytest.raises(ValueError, match="'void' has no tokens"):
        engine.generate([*prompts, Prompt("void", (), ())], world.start, DRAW, round=1, seed=7)


# -- weights ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["untied", "tied"])
def test_new_weights_answer_and_old_ones_come_back(
    opener: Opener, worlds: Mapping[str, World], prompts: list[Prompt], kind: str
) -> None:
    world = worlds[kind]
    engine = opener.shared(world)
    before = engine.generate(prompts, world.start, DRAW, round=1, seed=7)
    assert world.worst_error(0, before, [response.logps for response in flat(before)]) < TOLERANCE

    policy = world.policy(1)
    after = engine.generate(prompts, policy, DRAW, round=1, seed=7)  # the same prompts: a stale prefix cache would show
    assert {response.policy for response in flat(after)} == {policy.sha256}
    assert world.worst_error(1, after, [response.logps for response in flat(after)]) < TOLERANCE
    assert not same_answers(flat(before), flat(after))

    assert same_answers(flat(before), flat(engine.generate(prompts, world.start, DRAW, round=1, seed=7)))


def test_a_probe_of_other_weights_stops_the_draw(engine: Engine, world: World, prompts: list[Prompt]) -> None:
    stale = world.policy(1, probed_as=2, name="fresh")
    with pytest.raises(RuntimeError, match=r"does not hold policy 'fresh' of round 1 .* allows 0\.001 in float32"):
        engine.generate(prompts, stale, DRAW, round=1, seed=7)
    good = world.policy(1)  # the same hash, which the engine must not believe it holds
    rollouts = engine.generate(prompts, good, DRAW, round=1, seed=7)
    assert world.worst_error(1, rollouts, [response.logps for response in flat(rollouts)]) < TOLERANCE


def damaged(change: Callable[[State], None]) -> Callable[[Policy], Policy]:
    def damage(policy: Policy) -> Policy:
        state = policy.weights.load()
        change(state)
        return replace(policy, sha256="0" * 64, weights=InMemoryWeights(state))

    return damage


def lose(state: State) -> None:
    del state["model.layers.1.mlp.up_proj.weight"]


def rename(state: State) -> None:
    state["module.norm.weight"] = state.pop("model.norm.weight")


def narrow(state: State) -> None:
    state["lm_head.weight"] = state["lm_head.weight"][:-1]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lose, r"lacks model\.layers\.1\.mlp\.up_proj\.weight"),
        (rename, r"lacks model\.norm\.weight.*has unknown module\.norm\.weight"),
        (narrow, r"has misshaped lm_head\.weight \(127, 64\) instead of \(128, 64\)"),
    ],
    ids=["partial", "misnamed", "misshaped"],
)
def test_a_wrong_state_dict_is_refused_before_anything_changes(
    engine: Engine, world: World, prompts: list[Prompt], change: Callable[[State], None], says: str
) -> None:
    held = world.policy(1)
    before = engine.generate(prompts, held, DRAW, round=1, seed=7)
    with pytest.raises(ValueError, match=says):
        engine.generate(prompts, damaged(change)(world.policy(2)), DRAW, round=1, seed=7)
    unloadable = replace(held, weights=InMemoryWeights({}))  # answers only if the engine still holds it
    assert same_answers(flat(before), flat(engine.generate(prompts, unloadable, DRAW, round=1, seed=7)))
    assert world.worst_error(1, before, engine.logps(before, unloadable)) < TOLERANCE


def test_a_tied_head_must_be_named(opener: Opener, worlds: Mapping[str, World], prompts: list[Prompt]) -> None:
    """vLLM on the CPU would keep the old head without a word."""
    world = worlds["tied"]
    engine = opener.shared(world)
    policy = world.policy(1)
    state = policy.weights.load()
    del state["lm_head.weight"]
    with pytest.raises(ValueError, match=r"lacks lm_head\.weight"):
        engine.generate(prompts, replace(policy, weights=InMemoryWeights(state)), DRAW, round=1, seed=7)
