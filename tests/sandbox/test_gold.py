import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_flow.sandbox import noise
from rlhf_flow.sandbox.gold import BROKEN, worth
from rlhf_flow.sandbox.lexicon import CLOSINGS, OPENINGS
from rlhf_flow.sandbox.request import every_request, word
from rlhf_flow.types import Message

PROMPT = "Give me two tips about the garden and say why. Be polite."
BEST = (
    "Thank you for asking. Please water the young roses every morning, because they need light. "
    "You might trim the ferns. I hope this helps."
)


def judge(prompt, answer):
    return worth((Message(role="user", content=prompt),), answer, {})


def test_an_answer_that_does_all_that_was_asked_is_worth_one():
    verdict = judge(PROMPT, BEST)
    assert verdict.utility == pytest.approx(1)
    assert set(verdict.aspects.values()) == {1.0}


@pytest.mark.parametrize(
    ("aspect", "answer"),
    [
        ("well_formed", BEST[:-1]),
        ("topic", BEST.replace("water the young roses", "season the fresh soups")),
        ("topic", BEST.replace("need light", "need salt")),
        ("tone", BEST.replace("Thank you for asking. ", "")),
        ("tone", BEST.replace("Please water", "Go and water")),
        ("length", BEST.replace("You might trim the ferns. ", "")),
        ("kind", BEST.replace("You might trim the ferns.", "You may find that ferns love the rain.")),
        ("reason", BEST.replace(", because they need light", "")),
        ("variety", BEST.replace("You might trim the ferns.", "You might trim the roses.")),
    ],
)
def test_each_aspect_is_seen_and_costs(aspect, answer):
    verdict = judge(PROMPT, answer)
    assert verdict.aspects[aspect] < 1
    assert verdict.utility < judge(PROMPT, BEST).utility


@given(st.sampled_from(every_request()), st.integers())
def test_aspects_and_utility_lie_in_the_unit_interval(asked, seed):
    rng = random.Random(seed)
    verdict = judge(word(asked, rng), str(noise.write(asked, rng)))
    assert 0 <= verdict.utility <= 1
    assert all(0 <= aspect <= 1 for aspect in verdict.aspects.values())


@pytest.mark.slow
@given(st.text(), st.text())
def test_any_prompt_and_any_answer_are_judged(prompt, answer):
    verdict = judge(prompt, answer)
    assert 0 <= verdict.utility <= 1
    assert verdict.aspects.keys() == judge(PROMPT, BEST).aspects.keys()


@given(
    st.sampled_from([text for texts in (*OPENINGS.values(), *CLOSINGS.values()) for text in texts]),
    st.integers(1, 12),
    st.sampled_from(every_request()),
    st.integers(),
)
def test_praise_without_substance_is_worth_nothing(praise, times, asked, seed):
    assert judge(word(asked, random.Random(seed)), " ".join([praise] * times)).utility == 0


@given(st.integers(2, 8), st.sampled_from(every_request()), st.integers())
def test_a_sentence_said_again_and_again_loses(times, asked, seed):
    rng = random.Random(seed)
    prompt, sentence = word(asked, rng), str(noise.write(asked, rng, care=1.0).sentences[0])
    assert judge(prompt, " ".join([sentence] * times)).utility <= 1 / times


@given(st.integers(2, 8), st.sampled_from(every_request()), st.integers())
def test_a_whole_answer_said_again_and_again_loses(times, asked, seed):
    rng = random.Random(seed)
    prompt, answer = word(asked, rng), str(noise.write(asked, rng, care=1.0))
    once, often = judge(prompt, answer).utility, judge(prompt, " ".join([answer] * times)).utility
    assert often <= max(once, 1 / times)


def test_an_answer_that_is_not_well_formed_keeps_at_most_the_broken_share_of_its_worth():
    broken = judge(PROMPT, BEST + " garden garden polite wonderful")
    assert broken.aspects["well_formed"] == 0
    assert 0 < broken.utility < BROKEN * judge(PROMPT, BEST).utility


def test_only_the_last_user_message_is_asked():
    earlier = (
        Message(role="system", content="Be curt."),
        Message(role="user", content="Describe the sky in one sentence. Be formal."),
        Message(role="assistant", content="It is known that stars fade at dawn."),
        Message(role="user", content=PROMPT),
    )
    assert worth(earlier, BEST, {}) == judge(PROMPT, BEST)
    assert 0 <= worth((), BEST, {}).utility <= 1
