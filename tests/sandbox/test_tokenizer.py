import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_flow.sandbox.tokenizer import ROLES, answer_tokens, prompt_tokens, train_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["Water the roses.", "Describe the garden in two sentences."], vocabulary=300, max_length=64)


@given(text=st.text())
def test_any_text_comes_out_as_it_went_in(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_there_is_one_bos_and_it_is_in_the_template(tokenizer):
    assert tokenizer.encode("Water the roses.") == tokenizer.encode("Water the roses.", add_special_tokens=False)
    tokens = prompt_tokens(tokenizer, "Describe the garden.")
    assert tokens.count(tokenizer.bos_token_id) == 1
    assert tokens[0] == tokenizer.bos_token_id


def test_a_finished_conversation_is_the_prompt_the_answer_and_eos(tokenizer):
    question = {"role": "user", "content": "Describe the garden."}
    reply = {"role": "assistant", "content": "Ferns love the rain."}
    asked = tokenizer.apply_chat_template([question], add_generation_prompt=True, return_dict=False)
    whole = tokenizer.apply_chat_template([question, reply], return_dict=False)
    assert asked == prompt_tokens(tokenizer, "Describe the garden.")
    assert whole == asked + answer_tokens(tokenizer, "Ferns love the rain.")


def test_a_system_message_comes_first(tokenizer):
    messages = [{"role": "system", "content": "Be curt."}, {"role": "user", "content": "Hello"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<s><|system|>Be curt.<|user|>Hello<|assistant|>"


def test_it_is_saved_and_loaded_as_any_other(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "Wörter, 言葉  and\tspaces "
    assert loaded.decode(loaded.encode(text)) == text
    assert loaded.chat_template == tokenizer.chat_template
    assert (loaded.bos_token_id, loaded.eos_token_id, loaded.pad_token_id) == (0, 1, 2)
    assert loaded.convert_tokens_to_ids(list(ROLES)) == [3, 4, 5]
    assert loaded.model_max_length == 64
