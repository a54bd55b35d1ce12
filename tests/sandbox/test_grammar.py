import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_flow.sandbox import noise
from rlhf_flow.sandbox.grammar import MOST_SENTENCES, parse, read
from rlhf_flow.sandbox.lexicon import ADJUNCTS, CLOSINGS, FRAMES, KINDS, OPENINGS, STOPS, TONES, TOPICS
from rlhf_flow.sandbox.request import every_request

requests = st.sampled_from(every_request())


@given(requests, st.integers())
def test_what_is_written_parses_to_the_tree_it_was_written_from(asked, seed):
    answer = noise.write(asked, random.Random(seed))
    assert parse(str(answer)) == answer


@given(requests, st.integers(), st.data())
def test_an_answer_that_was_cut_is_no_answer_unless_it_was_cut_after_a_sentence(asked, seed, data):
    text = str(noise.write(asked, random.Random(seed)))
    cut = text[: data.draw(st.integers(0, len(text) - 1))].strip()
    assert parse(cut) is None or (cut[-1] in ".!?" and text[len(cut)] == " ")


@given(st.text())
def test_any_text_is_read_without_error(text):
    assert len(read(text)) >= 1
    answer = parse(text)
    assert answer is None or str(answer) == text.strip()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Thank you for asking.",  # no sentence
        "Fine, water the roses",  # cut before the stop
        "fine, water the roses.",
        "Fine, water the  roses.",
        "Water the roses.",
        "Fine, water roses.",
        "Fine, roses need light.",  # the frame of an advice, the clause of a description
        "Fine, water the young wild roses.",
        "Fine, water the young roses because they need light.",
        "I hope this helps. Fine, water the roses.",
        "Fine, water the roses. Thank you for asking.",
        "Fine, water the roses?",
        " ".join(["Fine, water the roses."] * (MOST_SENTENCES + 1)),
    ],
)
def test_what_is_not_an_answer(text):
    assert parse(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "Fine, water the roses.",
        "I would kindly water the young roses every morning, because they need light.",
        "Must I really? For all I care, trim the ferns. Now leave me alone.",
        "Look, wild herbs love the rain at times! Go and trim the ferns!",
        "Go and water the pies.",  # out of custom and out of topic, but a sentence
    ],
)
def test_what_is_an_answer(text):
    assert str(parse(text)) == text


def test_the_lexicon_is_complete_and_unambiguous():
    said = [word for topic in TOPICS.values() for word in (*topic.nouns, *topic.verbs, *topic.predicates)]
    assert len(said) == len(set(said))
    remarks = [text for texts in (*OPENINGS.values(), *CLOSINGS.values()) for text in texts]
    assert len(remarks) == len(set(remarks))
    frames = [(kind, frame) for (kind, _), texts in FRAMES.items() for frame in texts]
    assert len(frames) == len(set(frames))
    assert set(FRAMES) == {(kind, tone) for kind in KINDS for tone in TONES}
    assert set(ADJUNCTS) == set(KINDS)
    assert set(OPENINGS) == set(CLOSINGS) == set(STOPS) == set(TONES)
