"""A byte-level tokenizer, made in a moment: every text has tokens, and the template is the test's own."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

CORPUS = (
    "Tell me a story about a cat and a dog.",
    "Why is the sky blue at noon and red at night?",
    "the the a a of and to",
)
TURNS = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ eos_token }}{% endfor %}"
REPLY = "{% if add_generation_prompt %}<|assistant|>{% endif %}"
CHAT = TURNS + REPLY
CHAT_WITH_BOS = "{{ bos_token }}" + CHAT


def tokenizer(*, template: str | None = CHAT_WITH_BOS, encode_adds_bos: bool = True) -> PreTrainedTokenizerFast:
    special = ["<pad>", "<s>", "</s>"]
    core = Tokenizer(BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(CORPUS, BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet))
    if encode_adds_bos:
        core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    made = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    made.chat_template = template
    return made
