"""Games are played by the project's own loop: what the tabular parts must be for that to prove anything."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rlhf_flow.games.engine import TabularEngine
from rlhf_flow.games.game import LOGITS, Board, Game, mixed
from rlhf_flow.games.solvers import Choice, Descent, Fit
from rlhf_flow.objective.dpo import DPO
from rlhf_flow.selector.only_pair import OnlyPair
from rlhf_flow.types import Mixture, Policy, SamplingParams
from rlhf_flow.verify import bradley_terry, play
from rlhf_flow.verify.games import CYCLE, LONGER, NUMBERS
from rlhf_flow.verify.setting import EXACT, SAMPLED, SELF_PLAY
from rlhf_flow.weights.fingerprint import fingerprint
from rlhf_flow.weights.source import InMemoryWeights


def policy_of(board: Board, *policies: np.ndarray) -> Policy:
    state = {LOGITS: board.logits(policies)}
    return Policy("policy", 0, fingerprint(state), InMemoryWeights(state))


@pytest.mark.parametrize("game", [CYCLE, LONGER])
def test_a_table_holds_any_policy_over_the_answers(game: Game) -> None:
    board = Board((game,))
    policy = np.array([0.2, 0.3, 0.5])
    (found,) = board.probabilities(board.logits([policy]))
    assert found == pytest.approx(policy, abs=1e-15)


def test_an_engine_that_enumerates_gives_every_answer_its_mass() -> None:
    board = Board((CYCLE, LONGER))
    policies = (np.array([0.2, 0.3, 0.5]), np.array([0.6, 0.1, 0.3]))
    drawn = TabularEngine(board).generate(
        board.prompts(), policy_of(board, *policies), SamplingParams(), round=1, seed=0
    )
    for group, policy in zip(drawn.responses, policies, strict=True):
        assert [one.mass for one in group] == pytest.approx(policy)
        assert [float(np.sum(one.logps)) for one in group] == pytest.approx(np.log(policy), abs=1e-6)
    assert [one.tokens.tolist() for one in drawn.responses[1]] == [list(answer) for answer in LONGER.answers]


def test_samples_follow_the_policy_and_do_not_depend_on_the_batch() -> None:
    board = Board((LONGER,))
    policy = np.array([0.2, 0.3, 0.5])
    engine = TabularEngine(board, enumerates=False)
    prompts = board.prompts(copies=50)
    held = policy_of(board, policy)
    drawn = engine.generate(prompts, held, SamplingParams(n=200), round=3, seed=1)
    alone = engine.generate(prompts[7:8], held, SamplingParams(n=200), round=3, seed=1)
    texts = [[one.text for one in group] for group in drawn.responses]
    assert texts[7] == [one.text for one in alone.responses[0]]
    flat = [text for group in texts for text in group]
    shares = [flat.count(" ".join(map(str, answer))) / len(flat) for answer in LONGER.answers]
    assert shares == pytest.approx(policy, abs=4 * np.sqrt(0.25 / len(flat)))


def test_a_mixture_is_normalised_at_every_token() -> None:
    board = Board((LONGER,))
    one, other = np.array([0.2, 0.3, 0.5]), np.array([0.6, 0.1, 0.3])
    mixture = Mixture(policy_of(board, one), policy_of(board, other), 0.25)
    drawn = TabularEngine(board).generate(board.prompts(), mixture, SamplingParams(), round=1, seed=0)

    # by hand: the first token, 0 or 1, and behind a 1 the second
    def blend(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return a**0.75 * b**0.25 / (a**0.75 * b**0.25).sum()

    first = blend(np.array([0.2, 0.8]), np.array([0.6, 0.4]))
    second = blend(np.array([0.3, 0.5]) / 0.8, np.array([0.1, 0.3]) / 0.4)
    expected = [first[0], *(first[1] * second)]
    assert [answer.mass for answer in drawn.responses[0]] == pytest.approx(expected, abs=1e-14)
    whole = blend(one, other)
    assert np.abs(np.array(expected) - whole).max() > 1e-3  # another distribution than the mixture of whole answers


def test_weights_0_and_1_of_a_mixture_are_its_policies() -> None:
    board = Board((LONGER,))
    one, other = board.logits([np.array([0.2, 0.3, 0.5])]), board.logits([np.array([0.6, 0.1, 0.3])])
    assert torch.allclose(mixed(one, other, 0.0), one.log_softmax(-1))
    assert torch.allclose(mixed(one, other, 1.0), other.log_softmax(-1))


def test_the_methods_find_the_same_policy() -> None:
    """The RLHF optimum of a judge of numbers, by gradient steps, to the minimum, and by choice from a class."""
    worth = np.log(NUMBERS.wins[:, 0] / NUMBERS.wins[0, :])
    best = NUMBERS.reference * np.exp(worth)
    best = best / best.sum()
    board = Board((NUMBERS,))
    others = [board.logits([np.array(policy)]) for policy in ([0.6, 0.3, 0.1], [0.1, 0.1, 0.8])]
    for method, rounds, within in (
        (Fit(), 1, 1e-9),
        (Fit(bound=20.0), 1, 1e-9),
        (Descent(lr=5.0, steps=400), 1, 1e-6),
        (Choice([*others, board.logits([best])]), 1, 1e-12),
    ):
        played = play(NUMBERS, objective=DPO(beta=1.0), sampler=SELF_PLAY, selector=EXACT, rounds=rounds, method=method)
        assert played.of()[-1] == pytest.approx(best, abs=within), method


def test_a_bound_holds_where_labels_have_no_minimum() -> None:
    game = bradley_terry([0.0, 30.0], [0.5, 0.5])
    played = play(game, objective=DPO(beta=1.0), sampler=SELF_PLAY, selector=EXACT, rounds=1, method=Fit(bound=3.0))
    odds = np.log(played.of()[-1][1] / played.of()[-1][0])
    assert odds == pytest.approx(6.0, abs=1e-6)  # one logit up by the bound, the other down


def test_games_side_by_side_learn_as_if_alone() -> None:
    other = bradley_terry([0.3, -0.4, 0.1], [0.2, 0.2, 0.6])
    for method in (Fit(), Descent(lr=0.7, steps=3)):
        setting = {"objective": DPO(beta=0.5), "sampler": SELF_PLAY, "selector": EXACT, "rounds": 3, "method": method}
        both, alone = play(NUMBERS, other, **setting), play(other, **setting)
        assert both.of(1) == pytest.approx(alone.of(0), abs=1e-9)


def test_a_game_of_samples_is_the_same_for_the_same_seed() -> None:
    def last(seed: int) -> list[float]:
        played = play(
            CYCLE,
            objective=DPO(),
            sampler=SELF_PLAY,
            selector=SAMPLED,
            rounds=3,
            exact=False,
            copies=20,
            seed=seed,
            method=Descent(lr=1.0),
        )
        return played.of()[-1].tolist()

    assert last(1) == last(1) != last(2)


def test_games_of_different_sizes_are_played_one_after_another() -> None:
    with pytest.raises(ValueError, match="equally many answers"):
        play(CYCLE, bradley_terry([0, 1], [0.5, 0.5]), objective=DPO(), sampler=SELF_PLAY, selector=EXACT, rounds=1)


def test_rounds_without_a_pair_publish_what_they_start_from() -> None:
    """Two sampled answers are often equal, and equal answers are no pair."""
    certain = Game(np.array([[0.5, 0.6], [0.4, 0.5]]), np.array([0.9, 0.1]))
    played = play(
        certain, objective=DPO(), selector=OnlyPair(label="hard"), method=Descent(1.0), rounds=60, exact=False
    )
    same = (np.diff(played.of(), axis=0) == 0).all(-1)
    assert 10 < same.sum() < 60
