"""The preference model agrees with a forward pass of its own, one question at a time."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from rlhf_flow.scorer.models.preference_model import PreferenceJudge, PreferenceModel
from rlhf_flow.specs import Place
from rlhf_flow.tokenization.pairwise_prompt import Question, answer_token, has_fields
from rlhf_flow.types import Message, Scored
from tests.scorer.conftest import Checkpoint, rollouts
from tests.support.tokenizer import tokenizer

pytestmark = pytest.mark.slow

ANSWERS = [["a cat", "", "a dog and a cat and the sky"], ["why", "x" * 70, "日本語"]]
TEMPLATE = "{conversation} [1] {first} [2] {second} ?"


def one_by_one(path: str, before: str, after: str, words: str = "AB") -> np.ndarray:
    """The oracle: no batch, no padding, float64; both orders by hand. P(i beats j) for i < j, else NaN: [2, 3, 3]."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64).eval()
    own = AutoTokenizer.from_pretrained(path)
    letters = own.convert_tokens_to_ids(list(words))
    wins = np.full((2, 3, 3), np.nan)

    def first_wins(question: str, first: str, second: str) -> float:
        text = f"{before}user: {question} [1] {first} [2] {second} ?{after}"
        ids = own(text, add_special_tokens=False)["input_ids"]
        assert ids.count(own.bos_token_id) == 1
        with torch.no_grad():
            logps = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)[letters]
        return float(logps.softmax(-1)[0])

    asked = rollouts(*ANSWERS)
    for b, (prompt, texts) in enumerate(zip(asked.prompts, ANSWERS, strict=True)):
        question = prompt.messages[0].content
        for i, j in combinations(range(3), 2):
            forth = first_wins(question, texts[i], texts[j])
            back = first_wins(question, texts[j], texts[i])
            wins[b, i, j] = (forth + 1 - back) / 2
    return wins


def judged(path: str, *answers: list[str], **fields: Any) -> Scored:
    spec = PreferenceModel(path, **{"template": TEMPLATE, **fields})
    spec.check()
    return spec.open(Place()).score(rollouts(*(answers or ANSWERS)))


def agree(scored: Scored, expected: np.ndarray) -> None:
    above = ~np.isnan(expected)
    assert np.ptp(expected[above]) > 0.01
    np.testing.assert_allclose(scored.wins[above], expected[above], atol=1e-5)
    assert (scored.wins + scored.wins.swapaxes(1, 2) == 1).all()
    np.testing.assert_allclose(scored.utility, scored.wins.mean(-1), atol=1e-6)


@pytest.mark.parametrize("tied", [False, True], ids=["", "tied"])
@pytest.mark.parametrize("budget", [1, 300, 10_000])
def test_a_batch_compares_as_each_question_alone(budget: int, tied: bool, checkpoint: Checkpoint) -> None:
    path = checkpoint(head=False, tied=tied)
    scored = judged(path, batch_tokens=budget)
    agree(scored, one_by_one(path, "<s><|user|>", "</s><|assistant|>"))
    turned = scored.counts["judge/inconsistent"]
    assert scored.counts == {
        "judge/asked": 6,
        "judge/verdicts": 6,
        "judge/queries": 6,
        "judge/truncated": 0,
        "judge/inconsistent": turned,
        "judge/abstained": 0,
    }
    assert turned == scored.pair_flags["inconsistent"].sum() / 2


def test_without_a_chat_template_the_question_stands_alone(checkpoint: Checkpoint) -> None:
    path = checkpoint(head=False, template=False)
    agree(judged(path, format="plain"), one_by_one(path, "<s>", ""))


def test_the_words_may_be_others(language_path: str) -> None:
    scored = judged(language_path, first="1", second="2")
    agree(scored, one_by_one(language_path, "<s><|user|>", "</s><|assistant|>", words="12"))


@pytest.mark.parametrize("keeps", [True, False], ids=["", "all logits"])
def test_gpt2_agrees_too_and_code_that_gives_all_logits(
    keeps: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer().save_pretrained(tmp_path)
    shape = {"vocab_size": len(tokenizer()), "initializer_range": 0.3, "n_layer": 2, "n_embd": 16, "n_head": 2}
    AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2", **shape)).save_pretrained(tmp_path)
    if not keeps:
        monkeypatch.setattr(
            "rlhf_flow.scorer.models.preference_model.signature", lambda forward: SimpleNamespace(parameters={})
        )
    agree(judged(str(tmp_path), batch_tokens=300), one_by_one(str(tmp_path), "<s><|user|>", "</s><|assistant|>"))


class Planted:
    """A model that prefers, by a nat each, the answer with more plus signs; and the first one, by `bias` nats."""

    device = torch.device("cpu")

    def __init__(self, words: Any, letters: tuple[int, int], bias: float) -> None:
        self.words, self.letters, self.bias = words, letters, bias
        self.batches: list[int] = []

    def forward(self, *, input_ids: torch.Tensor, attention_mask: torch.Tensor, use_cache: bool) -> Any:
        self.batches.append(len(input_ids))
        logits = torch.zeros(*input_ids.shape, len(self.words))
        for row, mask, out in zip(input_ids, attention_mask, logits, strict=True):
            end = int(mask.sum())
            first, second = self.words.decode(row[:end]).partition("[1]")[2].split("[2]")
            out[end - 1, self.letters[0]] = first.count("+") - second.count("+") + self.bias
        return SimpleNamespace(logits=logits)

    def __call__(self, **given: Any) -> Any:
        return self.forward(**given)


def planted(bias: float, *, budget: int = 10_000, **fields: Any) -> tuple[PreferenceJudge, Planted]:
    words = tokenizer()
    letters = (answer_token(words, "first", "A"), answer_token(words, "second", "B"))
    model = Planted(words, letters, bias)
    question = Question(words, "plain", TEMPLATE, "{content}", 512)
    spec = PreferenceModel("planted", template=TEMPLATE, format="plain", batch_tokens=budget, **fields)
    return PreferenceJudge(spec, model, question, letters), model


@pytest.mark.parametrize("bias", [0.0, 3.0, -40.0])
def test_a_liking_for_a_letter_is_averaged_out(bias: float) -> None:
    judge, _ = planted(bias)
    scored = judge.score(rollouts(["a", "b +", "+ c +", "d"]))

    def sigma(nats: float) -> float:
        return 1 / (1 + np.exp(-nats))

    def expected(more: float) -> float:
        return (sigma(more + bias) + 1 - sigma(-more + bias)) / 2

    plus = np.array([0, 1, 2, 0])
    wins = [[0.5 if i == j else expected(plus[i] - plus[j]) for j in range(4)] for i in range(4)]
    np.testing.assert_allclose(scored.wins[0], wins, atol=1e-6)
    assert scored.wins[0, 0, 3] == 0.5


def test_orders_that_contradict_are_marked_and_may_have_no_verdict() -> None:
    answers = ["a", "b +", "c +++++"]  # a bias of two nats hides the difference of one, and not that of four or five
    expected = np.zeros((1, 3, 3), dtype=bool)
    expected[0, [0, 1], [1, 0]] = True
    for bias in (2.0, -2.0):
        averaged = planted(bias)[0].score(rollouts(answers))
        strict = planted(bias, inconsistent="abstain")[0].score(rollouts(answers))
        for scored in (averaged, strict):
            np.testing.assert_array_equal(scored.pair_flags["inconsistent"], expected)
            assert scored.counts["judge/inconsistent"] == 1
        assert 0.5 > averaged.wins[0, 0, 1] > 0 and averaged.counts["judge/abstained"] == 0
        np.testing.assert_array_equal(np.isnan(strict.wins), expected)
        assert strict.counts["judge/abstained"] == 1


def test_in_a_knockout_only_those_who_meet_are_read() -> None:
    judge, model = planted(0.0, pairs="knockout")
    scored = judge.score(rollouts([f"{k} " + "+" * plus for k, plus in enumerate([3, 0, 5, 1, 7, 2, 6, 4])]))
    assert scored.counts["judge/queries"] == 28 - scored.counts["judge/spared"] <= 11
    assert sum(model.batches) == 2 * scored.counts["judge/queries"]
    assert scored.utility[0].argmax() == 4 and scored.utility[0].argmin() == 1


def test_equal_texts_are_not_asked_and_every_question_is_asked_once() -> None:
    judge, model = planted(0.0)
    scored = judge.score(rollouts(["+", "+", "-", "-"]))
    assert scored.counts["judge/queries"] == 1, "both orders are one comparison"
    assert sum(model.batches) == 2
    np.testing.assert_array_equal(scored.wins[0, 0] == 0.5, [True, True, False, False])
    planted(0.0)[0].close()


def test_batches_keep_to_their_budget() -> None:
    judge, model = planted(0.0, budget=60)
    judge.score(rollouts(["+", "++", "+++"]))
    assert len(model.batches) > 1
    assert sum(model.batches) == 6


def test_what_is_too_long_is_cut_and_counted(language_path: str) -> None:
    answers = ["short", "also short", "x" * 90]
    scored = judged(language_path, answers, max_tokens=90)
    assert (scored.counts["judge/queries"], scored.counts["judge/truncated"]) == (3, 2)
    assert scored.counts["judge/abstained"] == 0
    assert not np.isnan(scored.wins).any()
    whole = judged(language_path, answers)
    assert scored.wins[0, 0, 1] == pytest.approx(whole.wins[0, 0, 1], abs=1e-6)
    assert scored.wins[0, 0, 2] != whole.wins[0, 0, 2]


def test_what_is_too_long_is_not_compared_where_that_is_wanted(language_path: str) -> None:
    scored = judged(language_path, ["short", "also short", "x" * 90], max_tokens=90, too_long="abstain")
    assert (scored.counts["judge/queries"], scored.counts["judge/truncated"]) == (1, 0)
    assert scored.counts["judge/abstained"] == 2
    assert np.isnan(scored.wins[0, 2, :2]).all() and np.isnan(scored.wins[0, :2, 2]).all()
    np.testing.assert_allclose(scored.utility[0, 0], (0.5 + scored.wins[0, 0, 1]) / 2, atol=1e-6)
    assert scored.utility[0, 2] == 0.5


def test_the_conversation_is_cut_before_the_answers_are() -> None:
    words = tokenizer()
    talk = (Message("user", "q" * 30),)

    def read(longest: int, first: str, second: str) -> tuple[list[str], bool]:
        question = Question(words, "plain", "{conversation}|{first}|{second}", "{content}", longest)
        both, cut = question.both(talk, first, second, cut=True)
        assert both is not None and all(len(tokens) <= longest for tokens in both)
        return [words.decode(tokens, skip_special_tokens=True) for tokens in both], cut

    assert read(100, "a1", "b1") == (["q" * 30 + "|a1|b1", "q" * 30 + "|b1|a1"], False)
    assert read(20, "a1", "b1") == (["q" * 13 + "|a1|b1", "q" * 13 + "|b1|a1"], True)
    nines = ["|111111111|222222222", "|222222222|111111111"]
    assert read(21, "1" * 9, "2" * 40) == (nines, True), "a short answer loses nothing"


def test_a_conversation_has_its_turns() -> None:
    words = tokenizer()
    talk = (
        Message("system", "Be {brief}."),
        Message("user", "Why?"),
        Message("assistant", "So."),
        Message("user", "?"),
    )
    question = Question(words, "plain", "{conversation}\n{first}|{second}", "<{role}> {content}", 512)
    both, _ = question.both(talk, "{first}", "{}", cut=False)
    assert both is not None
    said = "<system> Be {brief}.\n\n<user> Why?\n\n<assistant> So.\n\n<user> ?\n{first}|{}"
    assert words.decode(both[0], skip_special_tokens=True) == said


def test_an_answer_that_is_not_finite_names_the_responses(checkpoint: Checkpoint) -> None:
    path = checkpoint(head=False)
    model = AutoModelForCausalLM.from_pretrained(path)
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    model.save_pretrained(path)
    with pytest.raises(FloatingPointError, match=r"responses '1/policy/1/q0' and '1/policy/0/q0' as nan .*float32"):
        judged(path, ["b", "a"])


def test_bfloat16_is_close(language_path: str) -> None:
    wide, narrow = judged(language_path).wins, judged(language_path, dtype="bfloat16").wins
    assert narrow.dtype == np.float32 and not np.array_equal(narrow, wide)
    np.testing.assert_allclose(narrow, wide, atol=0.05)


def test_weights_and_not_their_place_are_its_identity(language_path: str, reward_path: str) -> None:
    one, other = PreferenceModel(language_path), PreferenceModel(reward_path)
    assert one.fingerprint() != other.fingerprint()
    assert PreferenceModel("owner/judge", revision="abc").fingerprint() == "owner/judge@abc"
    assert one.loads_model and one.intransitive


@pytest.mark.parametrize(
    ("change", "fields", "said"),
    [
        ({"head": True}, {}, "causal language model.*LlamaForSequenceClassification.*scorer=reward_model"),
        ({"template": False}, {}, "Fix: .* or scorer.format=plain"),
        (
            {},
            {"first": "Yes"},
            r"scorer\.first must be one token of .*got 'Yes', which is 3 \('Y', 'e', 's'\)\. Fix: one",
        ),
        ({}, {"second": ""}, r"scorer\.second must be one token of .*which is 0 \(none\)"),
        ({}, {"max_tokens": 513}, r"scorer\.max_tokens must be <= 512"),
        ({}, {"max_tokens": 20}, r"scorer\.max_tokens must be >= \d+, which scorer.template takes alone, got 20"),
    ],
)
def test_what_cannot_be_asked_is_refused_without_loading_it(
    change: dict[str, Any], fields: dict[str, Any], said: str, checkpoint: Checkpoint
) -> None:
    path = checkpoint(**{"head": False, **change})
    (Path(path) / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=said):
        PreferenceModel(path, **fields).check()
    with pytest.raises(ValueError, match=said):
        PreferenceModel(path, **fields).open(Place())


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"scorer\.path=.* holds no config\.json"):
        PreferenceModel(str(tmp_path)).check()
    with pytest.raises(ValueError, match=r"no \*\.safetensors"):
        PreferenceModel(str(tmp_path)).fingerprint()
    with pytest.raises(ValueError, match=r"^scorer\.path=/no/such/folder: no such folder\. Fix: "):
        PreferenceModel("/no/such/folder").check()


def test_missing_weights_are_never_filled_with_random_numbers(checkpoint: Checkpoint) -> None:
    path = checkpoint(head=True)
    file = Path(path) / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"architectures": ["LlamaForCausalLM"]}))
    with pytest.raises(ValueError, match=r"has no weights for lm_head.weight"):
        PreferenceModel(path).open(Place())


@pytest.mark.parametrize(
    "fields",
    [
        {"path": ""},
        {"format": "xml"},
        {"template": "{first} or {second}?"},
        {"template": "{conversation} {first} {second} {third}"},
        {"template": "{conversation} {first} {second} {"},
        {"turn": "{role}"},
        {"second": "A"},
        {"max_tokens": 1},
        {"too_long": "drop"},
        {"batch_tokens": 0},
        {"dtype": "float16"},
        {"inconsistent": "flip"},
        {"pairs": "few"},
    ],
)
def test_values_are_checked(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"scorer\.{next(iter(fields))} must be .*, got"):
        PreferenceModel(**{"path": "judge", **fields})


def test_a_template_has_its_fields_and_no_others() -> None:
    assert has_fields("{a} and {{b}} and {a}", "a")
    assert not has_fields("{a} {}", "a")
    assert not has_fields("a", "a")
