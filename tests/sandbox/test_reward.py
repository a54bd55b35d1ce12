import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_flow.sandbox import noise, policy, reward, tokenizer
from rlhf_flow.sandbox.request import every_request, word


@pytest.fixture(scope="module")
def judged():
    """A small model, its tokenizer, and comparisons of unequal numbers of answers."""
    from transformers import LlamaForCausalLM

    rng = random.Random(0)
    asked = [(request, word(request, rng)) for request in rng.sample(every_request(), 3)]
    answers = [[str(noise.write(request, rng)) for _ in range(n)] for n, (request, _) in enumerate(asked, start=1)]
    words = tokenizer.train_tokenizer([text for given in answers for text in given], vocabulary=300, max_length=256)
    body = LlamaForCausalLM(policy.config(words, width=32, layers=2, positions=256))
    comparisons = [reward.compare(words, prompt, given, rng) for (_, prompt), given in zip(asked, answers, strict=True)]
    return reward.reward_head(body, seed=1).eval(), words, comparisons


def test_answers_that_share_a_row_are_rewarded_as_if_each_had_its_own(judged):
    import torch

    model, _, comparisons = judged
    with torch.no_grad():
        found = reward.rewards_of(model, comparisons)
        alone = [
            model(input_ids=torch.tensor([one.prompt + answer])).logits[0, 0]
            for one in comparisons
            for answer in one.answers
        ]
    assert found.shape == (6,)
    torch.testing.assert_close(found, torch.stack(alone), atol=1e-5, rtol=0)


def test_a_comparison_holds_the_tokens_that_any_judge_sees(judged):
    _, words, comparisons = judged
    for one in comparisons:
        prompt = words.decode(one.prompt).removeprefix("<s><|user|>").removesuffix("<|assistant|>")
        for answer in one.answers:
            messages = [
                {"role": "user", "content": prompt},
                {"role": "assistant", "content": words.decode(answer).removesuffix("</s>")},
            ]
            text = words.apply_chat_template(messages, tokenize=False)
            assert words.encode(text, add_special_tokens=False) == one.prompt + answer


@given(st.sampled_from(["", "Fine.", "Fine, water the roses. Look, herbs need light!"]), st.integers())
def test_any_answer_can_be_spoiled(answer, seed):
    spoiled = reward.spoil(answer, random.Random(seed))
    assert set(spoiled.split()) <= set(answer.split())
