"""The loop on a world that can be computed by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from rlhf_flow import loop
from rlhf_flow.metrics.alarms import Alarms
from rlhf_flow.protocols import TrainingRound
from rlhf_flow.types import Prompt, Rollouts, RoundRecord, Scored
from tests.support import toy

pytestmark = pytest.mark.slow


def metrics(root: Path) -> list[dict]:
    return [json.loads(line) for line in (root / "metrics.jsonl").read_text().splitlines()]


def final(root: Path) -> str:
    return json.loads((root / "final.json").read_text())["sha256"]


def test_rounds_make_better_answers_likelier(tmp_path: Path) -> None:
    toy.run(tmp_path, rounds=6)
    logits = np.asarray(json.loads((tmp_path / "rounds/00006/policy/logits.json").read_text()))
    worth = np.exp(toy.log_softmax(logits)) @ np.arange(toy.ANSWERS)  # expected utility of each prompt's answers
    assert worth.mean() > np.arange(toy.ANSWERS).mean() + 0.5


def test_a_round_samples_from_the_policy_the_round_before_published(tmp_path: Path) -> None:
    made = toy.run(tmp_path, rounds=3)
    records = made.ledger.records
    for before, record in pairwise(records):
        table = pq.read_table(tmp_path / f"rounds/{record.round:05d}/responses/00000.parquet")
        assert set(table["policy"].to_pylist()) == {before.policy} == {record.plan["samplers"]["policy"]}
        assert record.plan["anchors"] == {"reference": records[0].policy}
    assert len({record.policy for record in records}) == 4


def test_a_renewed_reference_is_the_policy_the_schedule_names(tmp_path: Path) -> None:
    records = toy.run(tmp_path, rounds=5, k=2).ledger.records
    named = [record.plan["anchors"]["reference"] for record in records[1:]]
    assert named == [records[0].policy, records[0].policy, records[2].policy, records[2].policy, records[4].policy]


def test_checkpoints_change_nothing_but_the_disk(tmp_path: Path) -> None:
    for name, settings in {
        "each": {},
        "few": {"every": 3},
        "inside": {"steps": 1},
        "last": {"every": 99, "steps": 2},
    }.items():
        toy.run(tmp_path / name, rounds=5, k=2, **settings)
    assert len({final(tmp_path / name) for name in ("each", "few", "inside", "last")}) == 1
    written = {
        name: sorted(path.parent.name for path in (tmp_path / name).glob("rounds/*/policy")) for name in ("few", "last")
    }
    assert written == {"few": ["00003", "00005"], "last": ["00005"]}


def test_a_run_stopped_between_rounds_goes_on_as_if_it_had_not(tmp_path: Path) -> None:
    for name, every in (("each", 1), ("few", 4)):
        toy.run(tmp_path / name / "whole", rounds=5, every=every)
        toy.run(tmp_path / name / "parts", rounds=2, every=every)
        toy.run(tmp_path / name / "parts", rounds=5, every=every)
        assert final(tmp_path / name / "parts") == final(tmp_path / name / "whole")


def test_observers_hear_every_round_once(tmp_path: Path) -> None:
    first = toy.run(tmp_path, rounds=2)
    second = toy.run(tmp_path, rounds=4)
    assert first.observers[0].rounds == [0, 1, 2]
    assert second.observers[0].rounds == [3, 4]


def test_a_round_without_useful_pairs_publishes_the_same_weights_and_says_so(tmp_path: Path) -> None:
    made = toy.run(tmp_path, rounds=2, selector=toy.NothingUseful(), alarms=Alarms(no_pairs="warn"))
    assert len({record.policy for record in made.ledger.records}) == 1
    line = metrics(tmp_path)[1]
    assert line["train/steps"] == 0
    assert line["pairs/tie"] == 4
    assert "train/loss" not in line  # not measured: absent, never zero


class Diverging(toy.Learner):
    def update(self, lesson: TrainingRound, first: int, last: int) -> Mapping[str, float]:
        raise FloatingPointError("the loss of pair 1/policy/0/p2, 1/policy/1/p2 is nan")


def test_a_non_finite_loss_stops_before_publishing(tmp_path: Path) -> None:
    made = toy.parts(tmp_path, rounds=2, learner=Diverging())
    with pytest.raises(FloatingPointError, match="pair 1/policy/0/p2"):
        loop.run(made)
    made.ledger.close()
    assert (tmp_path / "rounds/00001/stages/select.json").exists()
    assert not (tmp_path / "rounds/00001/stages/publish.json").exists()
    toy.run(tmp_path, rounds=2)
    toy.run(tmp_path.with_name("whole"), rounds=2)
    assert final(tmp_path) == final(tmp_path.with_name("whole"))


def test_final_names_a_policy_that_is_there_also_where_the_run_ends_early(tmp_path: Path) -> None:
    toy.run(tmp_path / "early", rounds=3, every=5)  # its last round leaves a checkpoint
    made = toy.parts(tmp_path / "cut", rounds=6, every=5)
    with pytest.raises(KeyboardInterrupt):
        loop.run(replace(made, observers=[StopAfter(3)]))
    made.ledger.close()
    assert not (tmp_path / "cut/final.json").exists()
    toy.run(tmp_path / "cut", rounds=3, every=5)  # now round 3 is the last, and left none
    for name in ("early", "cut"):
        pointer = json.loads((tmp_path / name / "final.json").read_text())
        assert (tmp_path / name / pointer["policy"]).is_dir()
    assert final(tmp_path / "cut") == final(tmp_path / "early")
    toy.run(tmp_path / "cut", rounds=6, every=5)
    toy.run(tmp_path / "whole", rounds=6, every=5)
    assert final(tmp_path / "cut") == final(tmp_path / "whole")


class StopAfter(toy.Recorder):
    def __init__(self, last: int) -> None:
        super().__init__()
        self.last = last

    def round(self, record: RoundRecord) -> None:
        if record.round == self.last:
            raise KeyboardInterrupt


class NobodyHeldOut(toy.Prompts):
    def held_out(self) -> tuple[Prompt, ...]:
        return ()


def test_a_run_without_held_out_prompts_is_a_run_without_evaluation(tmp_path: Path) -> None:
    toy.run(tmp_path, rounds=2, prompts=NobodyHeldOut())
    assert len(metrics(tmp_path)) == 3
    assert not any(key.startswith("eval/") for line in metrics(tmp_path) for key in line)


class Abstaining(toy.HigherIsBetter):
    """Says nothing of answers below 3."""

    def score(self, rollouts: Rollouts) -> Scored:
        scored = super().score(rollouts)
        return replace(scored, utility=np.where(scored.utility < 3, np.nan, scored.utility))


def test_an_abstention_is_no_reward_of_zero(tmp_path: Path) -> None:
    toy.run(tmp_path, rounds=1, scorer=Abstaining(), selector=toy.NothingUseful())
    assert metrics(tmp_path)[1]["reward/mean"] >= 3


def test_what_a_killed_clean_up_left_is_cleaned_up_by_the_next(tmp_path: Path) -> None:
    made = toy.run(tmp_path, rounds=5)
    left = tmp_path / "rounds/00001/policy"
    assert not left.exists()
    left.mkdir()
    toy.run(tmp_path, rounds=6)
    assert not left.exists()
    assert not made.ledger.has(1, "policy")


def test_old_checkpoints_go_and_the_best_and_the_named_stay(tmp_path: Path) -> None:
    made = toy.run(tmp_path, rounds=6, k=4)
    stays = {path.parent.name for path in tmp_path.glob("rounds/*/policy")}
    best = json.loads((tmp_path / "best.json").read_text())["round"]
    assert stays == {"00005", "00006", "00004"} | ({f"{best:05d}"} if best else set())
    toy.run(tmp_path, rounds=8, k=4)  # what went was not needed
    assert len(made.ledger.records) == 7


def test_every_response_is_in_one_bucket_and_every_prompt_in_one_pair_bucket(tmp_path: Path) -> None:
    toy.run(tmp_path, rounds=2)
    for line in metrics(tmp_path)[1:]:
        assert sum(v for k, v in line.items() if k.startswith("responses/") and k != "responses/sampled") == 12
        assert sum(v for k, v in line.items() if k.startswith("pairs/")) == 4


def test_an_anchor_is_scored_once_for_all_the_rounds_that_use_it(tmp_path: Path) -> None:
    toy.run(tmp_path, rounds=3)  # the learner sees two rounds, the reference is fixed
    seen: set[tuple[str, str]] = set()
    for path in sorted(tmp_path.glob("rounds/*/anchors/*.parquet")):
        for row in pq.read_table(path).to_pylist():
            assert (row["response"], row["policy"]) not in seen
            seen.add((row["response"], row["policy"]))
    assert {int(response.split("/")[0]) for response, _ in seen} == {1, 2, 3}


class FewAreUseful(toy.BestAndWorst):
    """Only prompts with an even number give pairs."""

    def select(self, scored: Scored) -> toy.Selection:
        odd = [int(prompt.id[1:]) % 2 for prompt in scored.rollouts.prompts]
        return super().select(replace(scored, utility=np.where(np.array(odd)[:, None], 0.0, scored.utility)))


@pytest.mark.parametrize(("enough", "pages", "asked"), [(None, 9, 4), (1, 9, 4), (100, 1, 4), (100, 2, 6), (100, 9, 6)])
def test_a_round_with_too_few_useful_pairs_asks_further_prompts(
    enough: int | None, pages: int, asked: int, tmp_path: Path
) -> None:
    toy.run(tmp_path, rounds=2, selector=FewAreUseful(), min_pairs=enough, max_batches=pages)
    for told in metrics(tmp_path)[1:]:
        assert told["responses/sampled"] == 3 * asked
        assert told["pairs/used"] + told["pairs/tie"] == asked
        assert sum(value for key, value in told.items() if key.startswith("responses/") and "sampled" not in key) == (
            3 * asked
        )


def test_further_pages_come_out_the_same_in_two_starts(tmp_path: Path) -> None:
    class Tired(toy.HigherIsBetter):
        asked = 0

        def score(self, rollouts: Rollouts) -> Scored:
            self.asked += 1
            if self.asked == 4:  # after the proxy of round 0 and the first page of round 1: the second one is sampled
                raise KeyboardInterrupt
            return super().score(rollouts)

    settings = {"rounds": 2, "selector": FewAreUseful(), "min_pairs": 100, "max_batches": 2}
    toy.run(tmp_path / "straight", **settings)
    with pytest.raises(KeyboardInterrupt):
        toy.run(tmp_path / "in two", scorer=Tired(), **settings)
    assert len(list((tmp_path / "in two/rounds/00001/stages").glob("sample.*"))) == 3
    toy.run(tmp_path / "in two", **settings)
    one, other = (tmp_path / name / "rounds/00002/policy/logits.json" for name in ("straight", "in two"))
    assert one.read_text() == other.read_text()
