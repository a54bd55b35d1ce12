"""Checks of tokenizers: chat templates and special tokens of the policy and the scorers, side by side."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_flow.doctor.checkpoints import Named
from rlhf_flow.doctor.finding import Finding, from_error, ok, problem, warning
from rlhf_flow.tokenization.chat_template import load_tokenizer
from rlhf_flow.tokenization.end_tokens import named_ends
from rlhf_flow.weights.model_sizes import read_sizes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
NEUTRAL = {"temperature": 1.0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
CHAT = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
UNLIMITED = 10**9  # tokenizers without a limit report at least this


@dataclass(frozen=True)
class Tokens:
    """The tokenizer of one checkpoint: a row of the table."""

    key: str
    template: str  # the first digits of the chat template's hash; empty without one
    bos: str
    eos: str
    pad: str
    template_bos: int  # BOS tokens that the template writes before a chat
    encoder_bos: bool  # whether encoding a plain text adds a BOS
    size: int  # of the vocabulary
    rows: int | None  # of the model's embedding
    longest: int | None  # the context in tokens, of model and tokenizer
    ends: dict[int, tuple[str, ...]]  # the tokens that end an answer, and the files that name each
    sampling: tuple[str, ...]  # sampling defaults of the generation config


def read(named: Named, folder: Path) -> Tokens | Finding:
    """The tokenizer of a checkpoint with a config.json, or a problem if it does not load."""
    trust = named.trust_remote_code
    try:
        tokenizer = load_tokenizer(str(folder), template=named.template, key=named.key, trust_remote_code=trust)
        return _row(named, folder, tokenizer)
    except (ValueError, KeyError, OSError) as error:
        return from_error("tokens", error)


def _row(named: Named, folder: Path, tokenizer: PreTrainedTokenizerBase) -> Tokens:
    sizes = read_sizes(str(folder), trust_remote_code=named.trust_remote_code)
    generation = folder / "generation_config.json"
    defaults = json.loads(generation.read_text()) if generation.is_file() else {}
    limits = [
        limit for limit in (sizes.positions, tokenizer.model_max_length) if limit is not None and limit < UNLIMITED
    ]
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


def check(row: Tokens, named: Named, *, generates: bool) -> Iterator[Finding]:
    """A finding for each fault; one ok if there is none. `generates`: whether something must end its answers."""
    findings = [*_faults(row, named, generates=generates)]
    yield from findings
    if not findings:
        yield ok("tokens", f"{row.key}: template {row.template or 'none'}, EOS {row.eos}, padding {row.pad or 'none'}")


def _faults(row: Tokens, named: Named, *, generates: bool) -> Iterator[Finding]:
    group = "prompts" if named.kind == "policy" else named.key.removesuffix(".path")
    if named.chat and not row.template:
        yield problem(
            "tokens",
            f"{row.key} has no chat template, but {group}.format=chat",
            f"{group}.format=plain, or {row.key.removesuffix('path')}chat_template.file=<a Jinja file>",
        )
    if row.template_bos > 1:
        yield warning(
            "tokens",
            f"the chat template of {row.key} writes BOS {row.template_bos} times; rlhf_flow keeps one, other programs "
            "keep all",
            "remove the extra ones from chat_template.jinja",
        )
    if row.rows is not None and row.size > row.rows:
        yield problem(
            "tokens",
            f"the tokenizer of {row.key} has {row.size} tokens, but its embedding has {row.rows} rows",
            "use the folder that both were saved to, or call model.resize_token_embeddings()",
        )
    if generates and not row.ends:
        yield problem(
            "tokens", f"{row.key} has no EOS token: no answer could end", "set eos_token in tokenizer_config.json"
        )
    if unknown := [end for end in row.ends if end >= row.size]:
        yield problem(
            "tokens",
            f"generation_config.json of {row.key} ends answers with {unknown[0]}, but the tokenizer has {row.size} "
            "tokens",
            "correct eos_token_id there",
        )
    if row.sampling and generates:
        yield warning(
            "tokens",
            f"generation_config.json of {row.key} has {', '.join(row.sampling)}; rlhf_flow ignores it, but a server of "
            "the trained policy would use it",
            f"{' '.join(f'answers.{each}' for each in row.sampling)} if the run should use it, else remove it there",
        )


def room(row: Tokens, *, prompt: int, answer: int, limit: int | None) -> Iterator[Finding]:
    """Whether the longest prompt and answer fit into the context. `limit`: of the engine, in tokens."""
    if limit is not None and prompt + answer > limit:
        yield warning(
            "tokens",
            f"prompts.max_tokens={prompt} plus answers of {answer} exceeds the context of {row.key}, {limit} tokens: "
            "a prompt of that length would stop the run",
            f"prompts.max_tokens={max(1, limit - answer)}, or shorter draws",
        )


def table(rows: Sequence[Tokens]) -> Iterator[str]:
    """The rows side by side, one line each."""
    texts = ("template", "BOS", "EOS", "ends", "padding", "BOS written by")
    heads = ["", *texts, "tokens/rows", "context", "generation config"]
    lines = [heads]
    for row in rows:
        writers = [f"template x{row.template_bos}"] * bool(row.template_bos) + ["encoder"] * row.encoder_bos
        cells = (row.template, row.bos, row.eos, ",".join(map(str, row.ends)), row.pad, ", ".join(writers))
        sizes = (f"{row.size}/{row.rows or '?'}", str(row.longest or "?"), ", ".join(row.sampling) or "none")
        lines.append([row.key, *(cell or "none" for cell in cells), *sizes])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()


def _shown(token: str | None, id: int | None) -> str:
    return "" if token is None or id is None else f"{token} {id}"
