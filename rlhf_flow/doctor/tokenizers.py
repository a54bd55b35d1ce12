"""Templates and special tokens of policy and judges, side by side: where they differ, and where one is broken."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_flow.doctor.checkpoints import Named
from rlhf_flow.doctor.finding import Finding, ok, problem, refusal, warning
from rlhf_flow.tokenization.chat_template import load_tokenizer
from rlhf_flow.tokenization.end_tokens import named_ends
from rlhf_flow.weights.model_sizes import read_sizes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
NEUTRAL = {"temperature": 1.0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
CHAT = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
ENDLESS = 10**9  # what tokenizers say that know no limit


@dataclass(frozen=True)
class Tokens:
    """A row of the table."""

    key: str
    template: str  # the first digits of its hash; empty without one
    bos: str
    eos: str
    pad: str
    template_bos: int  # how many the template writes in front of a chat
    encoder_bos: bool  # whether encoding a plain text adds one
    size: int  # of the vocabulary
    rows: int | None  # of the model's embedding
    longest: int | None  # tokens that model and tokenizer take
    ends: dict[int, tuple[str, ...]]  # the tokens that end an answer, and where each is named
    sampling: tuple[str, ...]  # what the generation config would change


def read(named: Named, folder: Path) -> Tokens | Finding:
    """Of a checkpoint with a config.json."""
    trust = named.trust_remote_code
    try:
        tokenizer = load_tokenizer(str(folder), template=named.template, key=named.key, trust_remote_code=trust)
        return _row(named, folder, tokenizer)
    except (ValueError, KeyError, OSError) as error:
        return refusal("tokens", error)


def _row(named: Named, folder: Path, tokenizer: PreTrainedTokenizerBase) -> Tokens:
    sizes = read_sizes(str(folder), trust_remote_code=named.trust_remote_code)
    generation = folder / "generation_config.json"
    defaults = json.loads(generation.read_text()) if generation.is_file() else {}
    limits = [limit for limit in (sizes.positions, tokenizer.model_max_length) if limit is not None and limit < ENDLESS]
    template = tokenizer.chat_template
    return Tokens(
        key=named.key,
        template="" if template is None else hashlib.sha256(str(template).encode()).hexdigest()[:8],
        bos=_shown(tokenizer.bos_token, tokenizer.bos_token_id),
        eos=_shown(tokenizer.eos_token, tokenizer.eos_token_id),
        pad=_shown(tokenizer.pad_token, tokenizer.pad_token_id),
        template_bos=0 if template is None else _leading_bos(tokenizer),
        encoder_bos=tokenizer.bos_token_id is not None
        and list(tokenizer("a")["input_ids"])[:1] == [tokenizer.bos_token_id],
        size=len(tokenizer),
        rows=sizes.vocabulary or None,
        longest=min(limits, default=None),
        ends={token: tuple(where) for token, where in named_ends(str(folder), tokenizer).items()},
        sampling=tuple(
            f"{key}={defaults[key]}"
            for key in SAMPLING
            if defaults.get(key) is not None and defaults[key] != NEUTRAL.get(key)
        ),
    )


def _leading_bos(tokenizer: PreTrainedTokenizerBase) -> int:
    text = str(tokenizer.apply_chat_template(CHAT, tokenize=False))
    tokens = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    return next((at for at, token in enumerate(tokens) if token != tokenizer.bos_token_id), len(tokens))


def check(row: Tokens, named: Named, *, answers_end: bool) -> Iterator[Finding]:
    """`answers_end`: whether it generates, so that something must end its answers."""
    findings = [*_faults(row, named, answers_end=answers_end)]
    yield from findings
    if not findings:
        yield ok("tokens", f"{row.key}: template {row.template or 'none'}, EOS {row.eos}, padding {row.pad or 'none'}")


def _faults(row: Tokens, named: Named, *, answers_end: bool) -> Iterator[Finding]:
    group = "prompts" if named.kind == "policy" else named.key.removesuffix(".path")
    if named.chat and not row.template:
        yield problem(
            "tokens",
            f"{row.key} has no chat template, and {group}.format is chat",
            f"{group}.format=plain, or save a template with its tokenizer",
        )
    if row.template_bos > 1:
        yield warning(
            "tokens",
            f"the template of {row.key} writes BOS {row.template_bos} times: one is kept here, and "
            "other programs read them all",
            "take the extra ones out of chat_template.jinja",
        )
    if row.rows is not None and row.size > row.rows:
        yield problem(
            "tokens",
            f"the tokenizer of {row.key} has {row.size} tokens, and its embedding {row.rows} rows",
            "give the folder that both were saved to, or model.resize_token_embeddings()",
        )
    if answers_end and not row.ends:
        yield problem(
            "tokens", f"{row.key} names no EOS: no answer could end", "set eos_token in tokenizer_config.json"
        )
    if unknown := [end for end in row.ends if end >= row.size]:
        yield problem(
            "tokens",
            f"generation_config.json of {row.key} ends answers with {unknown[0]}, and the tokenizer "
            f"has {row.size} tokens",
            "correct eos_token_id there",
        )
    if row.sampling and answers_end:
        yield warning(
            "tokens",
            f"generation_config.json of {row.key} has {', '.join(row.sampling)}: not used here, "
            "where draws say it, but by whoever serves the policy later",
            "put them into sampler.draws if you mean them, or take them out",
        )
    if row.pad and row.pad == row.eos:
        yield warning(
            "tokens",
            f"padding and EOS of {row.key} are one token, {row.eos}: who ignores padding passes over "
            "the end of an answer",
            "give it a padding token of its own",
        )


def room(row: Tokens, *, prompt: int, answer: int, limit: int | None) -> Iterator[Finding]:
    """Whether the longest prompts and answers go into the model. `limit`: tokens that the engine reads."""
    if limit is not None and prompt + answer > limit:
        yield warning(
            "tokens",
            f"prompts.max_tokens={prompt} and answers of {answer} are more than the {limit} tokens "
            f"that {row.key} reads: a prompt so long would stop the run",
            f"prompts.max_tokens={max(1, limit - answer)}, or shorter draws",
        )


def table(rows: Sequence[Tokens]) -> Iterator[str]:
    """The rows, one line each."""
    heads = (
        "",
        "template",
        "BOS",
        "EOS",
        "ends",
        "padding",
        "BOS written by",
        "tokens/rows",
        "reads",
        "generation config",
    )
    lines = [heads]
    for row in rows:
        by = [f"template x{row.template_bos}"] * bool(row.template_bos) + ["encoder"] * row.encoder_bos
        config = [*row.sampling]
        sizes = f"{row.size}/{row.rows or '?'}"
        lines.append(
            (
                row.key,
                row.template or "none",
                row.bos or "none",
                row.eos or "none",
                ",".join(map(str, row.ends)) or "none",
                row.pad or "none",
                ", ".join(by) or "nobody",
                sizes,
                str(row.longest or "?"),
                ", ".join(config) or "none",
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    for line in lines:
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()


def _shown(token: str | None, id: int | None) -> str:
    return "" if token is None or id is None else f"{token} {id}"
