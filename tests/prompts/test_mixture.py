"""Several data sets in one run: shares of a round, rounds of their own, and what each does with its rows."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from rlhf_flow.config.identity import identity
from rlhf_flow.prompts.mixture import MixedPrompts, MixedSource, Mixture, shares, source_of
from tests.prompts.conftest import Write
from tests.support.configured import configured


@pytest.fixture
def mixture(write: Write):
    """Makes a mixture of `easy`, 40 rows, and `hard`, 20 rows, with these keys of each and of both."""
    paths = {
        name: write([{"prompt": f"{name} question {at}"} for at in range(rows)], f"{name}.jsonl")
        for name, rows in (("easy", 40), ("hard", 20))
    }

    def made(easy: dict, hard: dict, **keys: object) -> Mixture:
        sources = [MixedSource("easy", paths["easy"], **easy), MixedSource("hard", paths["hard"], **hard)]
        return Mixture(sources=sources, **({"batch": 8, "held_out": 6} | keys))

    return made


@pytest.fixture
def mixed(mixture, tokenizer: PreTrainedTokenizerFast):
    """As `mixture`, opened."""
    return lambda easy, hard, **keys: mixture(easy, hard, **keys).open(tokenizer, seed=0)


@pytest.fixture
def pooled(mixture, tokenizer: PreTrainedTokenizerFast):
    return lambda easy, hard: mixture(easy, hard).pool(tokenizer, seed=0)


def of_round(prompts: MixedPrompts, round: int, page: int = 0) -> dict[str | None, int]:
    return dict(Counter(source_of(prompt) for prompt in prompts.batch(round, page)))


def test_each_round_has_the_share_of_each_source_and_an_epoch_repeats_nothing(mixed) -> None:
    prompts = mixed({"weight": 3}, {}, held_out=0)
    rounds = [prompts.batch(round) for round in range(1, 6)]
    assert all(of_round(prompts, round) == {"easy": 6, "hard": 2} for round in range(1, 6))
    ids = [prompt.id for batch in rounds for prompt in batch]
    assert len(set(ids)) == len(ids) == 40
    assert prompts.batch(3) == rounds[2]  # a function of the round alone
    assert [source_of(one) for one in rounds[0]] != [source_of(one) for one in rounds[1]]  # shuffled together
    assert of_round(prompts, 1, page=1) == {"easy": 6, "hard": 2}


def test_a_pool_has_the_shares_and_as_many_rows_as_they_allow(pooled) -> None:
    prompts = pooled({"weight": 3}, {})  # 40 and 20 rows
    assert of_round(prompts, 1) == of_round(prompts, 2) == {"easy": 40, "hard": 13}
    assert not prompts.held_out() and prompts.batch(1) != prompts.batch(2)
    assert of_round(pooled({"weight": 1}, {"weight": 3}), 1) == {"easy": 7, "hard": 19}
    with pytest.raises(ValueError, match=r"hard has 20 rows, .* easy gives it none\. Fix: more rows of hard"):
        pooled({"weight": 0.01}, {})


def test_a_curriculum_begins_and_ends_sources(mixed) -> None:
    prompts = mixed({"to_round": 3}, {"from_round": 2, "weight": 3})
    seen = [of_round(prompts, round) for round in (1, 2, 3, 4, 5)]
    assert seen == [{"easy": 8}, {"easy": 2, "hard": 6}, {"easy": 2, "hard": 6}, {"hard": 8}, {"hard": 8}]
    assert "from round 1: 8 easy; from round 2: 2 easy, 6 hard; from round 4: 8 hard" in prompts.summary
    assert mixed({"to_round": 3}, {"from_round": 2}).sha256 != prompts.sha256


def test_what_is_held_out_is_counted_by_source(mixed) -> None:
    prompts = mixed({}, {})
    counts, held_out = prompts.counts, Counter(source_of(prompt) for prompt in prompts.held_out())
    assert counts["held_out"] == 6 == counts["held_out/easy"] + counts["held_out/hard"]
    assert dict(held_out) == {name: counts[f"held_out/{name}"] for name in ("easy", "hard")}
    assert counts["training/easy"] == 40 - held_out["easy"]


def test_each_source_has_its_own_system_message_template_and_columns(
    write: Write, tokenizer: PreTrainedTokenizerFast
) -> None:
    one = write([{"text": "One?"}], "one.jsonl")
    other = write([{"prompt": "Two?"}], "two.jsonl")
    sources = [
        MixedSource("one", one, system="Be brief.", columns={"prompt": "text", "template": "Q: {prompt}\nA:"}),
        MixedSource("two", other),
    ]
    opened = Mixture(sources=sources, batch=2, held_out=0, system="Be kind.").open(tokenizer, seed=0)
    found = {source_of(prompt): [message.content for message in prompt.messages] for prompt in opened.batch(1)}
    assert found == {"one": ["Be brief.", "Q: One?\nA:"], "two": ["Be kind.", "Two?"]}
    assert {prompt.id for prompt in opened.batch(1)} == {"one/row-1", "two/row-1"}


@pytest.mark.parametrize("streaming", [False, True])
def test_a_source_may_be_the_first_rows_of_a_split_with_a_split_for_evaluation(
    streaming: bool, write: Write, tmp_path: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pytest.importorskip("datasets").config, "HF_DATASETS_CACHE", tmp_path / "cache")
    for split in ("train", "test"):
        write([{"prompt": f"{split} {at}"} for at in range(5)], f"hub/{split}.jsonl")
    hub = MixedSource("hub", str(tmp_path / "hub"), split="train", held_out_split="test", first=2, streaming=streaming)
    sources = [hub, MixedSource("file", write([{"prompt": "file 0"}, {"prompt": "file 1"}]))]
    opened = Mixture(sources=sources, batch=4).open(tokenizer, seed=0)
    assert sorted(one.messages[0].content for one in opened.batch(1)) == ["file 0", "file 1", "train 0", "train 1"]
    assert [one.messages[0].content for one in opened.held_out()] == ["test 0", "test 1"]


def test_a_run_that_began_before_a_source_had_these_keys_resumes() -> None:
    given = {"prompts@given.prompts": "mixture", "given.prompts.sources": "[{name: one, path: one.jsonl}]"}
    keys = identity(configured(**given))
    new = ("revision", "held_out_split", "first", "streaming")
    assert all(keys.get(f"given.prompts.sources.0.{name}") is None for name in new)  # an absent key counts as null


def test_shares_add_up_to_the_batch() -> None:
    assert shares({"a": 1, "b": 1, "c": 1}, 8) == {"a": 3, "b": 3, "c": 2}
    assert shares({"a": 0.75, "b": 0.25}, 64) == {"a": 48, "b": 16}
    with pytest.raises(ValueError, match=r"prompts\.batch=4: .* b has a weight of 1, .*Fix: prompts\.batch=11 or more"):
        shares({"a": 9, "b": 1}, 4)


@pytest.mark.parametrize(
    ("easy", "hard", "problem"),
    [
        ({"weight": 0}, {}, r"easy: weight must be > 0, got 0\. Fix: leave the source out"),
        ({"from_round": 3, "to_round": 2}, {}, r"easy: no round is from 3 to 2\. Fix: from_round >= 1"),
        ({"to_round": 0}, {}, r"easy: no round is from 1 to 0"),
        ({"to_round": 2}, {"from_round": 4}, r"round 3 has no source\. Fix: from_round=1 or no to_round"),
        ({"to_round": 2}, {"to_round": 4}, r"round 5 has no source"),
        ({"columns": {"promt": "x"}}, {}, r"easy: no column 'promt'\. Fix: one of prompt, id"),
        ({"streaming": True}, {}, r"easy: streaming is a key of Hugging Face data sets\. Fix: split=train"),
        ({"config": "main"}, {}, r"easy: config is a key of Hugging Face data sets"),
        ({"split": "train", "held_out_path": "x"}, {}, r"easy: held_out_path is a key of files\. Fix: held_out_split"),
        ({}, {"columns": {"prompt": "text"}}, r"prompts\.sources, hard: .*expected a column 'text'"),
        ({}, {"weight": 20}, r"hard: 18 prompts for training, and its share of a round is 38\. Fix: lower"),
    ],
)
def test_mistakes_are_refused(easy: dict, hard: dict, problem: str, mixed) -> None:
    with pytest.raises(ValueError, match=problem):
        mixed(easy, hard, **({"batch": 40} if hard.get("weight") == 20 else {}))


def test_two_sources_have_two_names() -> None:
    with pytest.raises(ValueError, match="each by its own name, got a, a"):
        Mixture(sources=[MixedSource("a", "x"), MixedSource("a", "y")])
