"""Configurations that version 0.1 wrote, in today's names."""

from __future__ import annotations

from rlhf_flow.config import renamed


def test_keys_inside_of_a_renamed_section_are_renamed_too() -> None:
    old = {"paging": {"pairs": 20, "pages": 2}, "memory": {"size": 1}, "scorer": {"of": {"piece": 8}}}
    assert renamed.configuration(old) == {
        "resampling": {"min_pairs": 20, "max_batches": 2},
        "replay": {"size": 1},
        "scorer": {"base": {"request_size": 8}},
    }


def test_a_switch_that_has_become_a_choice_is_read() -> None:
    old = {"learner": {"training": {"gradient_checkpointing": False}}}
    assert renamed.configuration(old) == {"learner": {"training": {"gradient_checkpointing": "off"}}}


def test_what_may_change_by_now_is_no_part_of_an_old_identity() -> None:
    old = {"given.prompts.path": "a.jsonl", "given.sha256": "b", "seed": 1}
    assert renamed.identity(old) == renamed.ADDED | {"seed": 1}
