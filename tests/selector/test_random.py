from __future__ import annotations

from collections import Counter

from rlhf_flow.selector.random import Random
from rlhf_flow.types import Rollouts, Scored
from tests.support.worlds import response, scored, sides


def world(seed: int = 0) -> Scored:
    responses = [[response(k, b=b, seed=seed) for k in range(4)] for b in range(300)]
    return scored(responses, [[1.0, 2.0, 3.0, 4.0]] * 300)


def chosen(world: Scored) -> list[frozenset[str]]:
    return [frozenset((pair.first, pair.second)) for pair in Random().select(world).pairs]


def test_all_pairs_are_drawn_about_equally_often() -> None:
    by_index = Counter(tuple(sorted(id.split("/")[2] for id in pair)) for pair in chosen(world()))
    assert len(by_index) == 6 and min(by_index.values()) > 25  # 50 expected of each


def test_the_draw_belongs_to_prompt_round_and_run() -> None:
    here = world()
    assert chosen(here) == chosen(world())
    assert chosen(here) != chosen(world(seed=9))
    later = Rollouts(2, here.rollouts.prompts, here.rollouts.responses)
    assert chosen(here) != chosen(Scored(later, here.utility, here.wins))
    alone = Rollouts(1, here.rollouts.prompts[7:8], here.rollouts.responses[7:8])
    assert chosen(Scored(alone, here.utility[7:8], here.wins[7:8])) == chosen(here)[7:8]


def test_the_draw_is_the_one_of_earlier_versions() -> None:
    """A round that an earlier version began is finished with the same pairs, in the same order."""
    equals = scored([[response(k, b=b) for k in range(4)] for b in range(6)], [[1.0] * 4] * 6)
    drawn = [pair[:2] for pair in sides(Random(label="soft").select(equals))]
    assert drawn == [(3, 1), (1, 3), (3, 1), (0, 2), (0, 2), (2, 3)]
