import random

from hypothesis import given
from hypothesis import strategies as st

from rlhf_flow.sandbox.request import COUNTS, Request, every_request, understand, word


@given(st.sampled_from(every_request()), st.integers())
def test_a_request_is_understood_from_each_of_its_wordings(asked, seed):
    assert understand(word(asked, random.Random(seed))) == asked


@given(st.text())
def test_any_prompt_is_read_without_error(text):
    assert isinstance(understand(text), Request)


def test_what_a_prompt_does_not_say_or_says_twice_is_not_asked_for():
    nothing = Request(kind=None, topic=None, tone=None, count=None, reason=False)
    assert understand("Solve this in C++.") == nothing
    assert understand("Name three or four birds of the garden or the sky.") == nothing


def test_every_request_is_there_once():
    every = every_request()
    assert len(set(every)) == len(every)
    assert {one.count for one in every if one.kind == "advice"} == set(COUNTS)
