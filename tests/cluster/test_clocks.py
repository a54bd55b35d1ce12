"""Clocks that are apart, read over a network that takes its time."""

from __future__ import annotations

import pytest
from nodes import raylets

from rlhf_flow.cluster.clocks import Answer, offset
from rlhf_flow.doctor import clocks
from rlhf_flow.doctor.network import ray_cluster


def test_the_round_trip_is_taken_off() -> None:
    assert offset([Answer(sent=10.0, said=12.5, got=11.0)]) == 2.0


def test_the_shortest_round_trip_is_believed() -> None:
    slow, fast = Answer(sent=0.0, said=9.0, got=10.0), Answer(sent=20.0, said=17.1, got=20.2)
    assert offset([slow, fast]) == offset([fast, slow]) == pytest.approx(-3.0)


def test_clocks_more_than_a_second_apart_are_told_with_the_way_out() -> None:
    (finding,) = clocks.judged({"a": -0.4, "b": 0.0, "c": 0.9})
    assert (finding.level, finding.subject) == ("warning", "network")
    assert "clock of c is 1.3 s ahead of that of a" in finding.says
    assert "chronyd" in finding.way_out
    (fine,) = clocks.judged({"a": -0.4, "b": 0.5})
    assert fine.level == "ok"


@pytest.mark.heavy
def test_two_nodes_of_one_machine_have_one_clock() -> None:
    with raylets(2) as cluster:
        reached, joined, compared = ray_cluster(cluster.address, {}, nodes=2)
    assert reached.level == joined.level == compared.level == "ok"
    assert joined.says == "cluster.nodes=2, joined: 2"
    assert "clocks of 2 nodes differ by 0." in compared.says
