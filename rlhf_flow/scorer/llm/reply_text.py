"""The visible text of a reply, without hidden thoughts, control tokens and quotes; and the JSON values in it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

# Tags of hidden thoughts: (family, opening tag, closing tag). A tag in `code` is a mention of it.
THOUGHTS = (
    ("think", r"<(?:antml:|seed:)?think(?:ing)?>", r"</(?:antml:|seed:)?think(?:ing)?>"),
    ("think", r"\[THINK(?:ING)?\]", r"\[/THINK(?:ING)?\]"),
    ("think", r"◁think▷", r"◁/think▷"),
    ("think", r"<\|?START_THINKING\|?>", r"<\|?END_THINKING\|?>"),
    ("think", r"<\|begin_of_thought\|>", r"<\|end_of_thought\|>"),
    ("think", r"<\|inner_prefix\|>", r"<\|inner_suffix\|>"),
    ("think", r"<unused94>(?:thought)?", r"<unused95>"),
    ("think", r"<\|channel>thought", r"<channel\|>"),
    ("thought", r"<thoughts?>", r"</thoughts?>"),
    ("reasoning", r"<(?:reasoning|rationale)>", r"</(?:reasoning|rationale)>"),
    ("scratchpad", r"<scratch_?pad>", r"</scratch_?pad>"),
    ("reflection", r"<reflection>", r"</reflection>"),
    ("analysis", r"<analysis>", r"</analysis>"),
    ("monologue", r"<inner_monologue>", r"</inner_monologue>"),
    ("process", r"\bHere(?:'s| is) my thought process:", r"\bHere(?:'s| is) my response:"),  # Granite
)
TAG = re.compile(
    "|".join(f"(?P<o{at}>(?<!`){opens})|(?P<c{at}>(?<!`){closes})" for at, (_, opens, closes) in enumerate(THOUGHTS)),
    re.IGNORECASE,
)
FINAL = re.compile(r"<\|channel\|>\s*final\b[^<]*<\|message\|>(.*?)(?:<\|(?:end|return|start|call)\|>|\Z)", re.DOTALL)
BARE_HARMONY = re.compile(r"\A\s*analysis(?=[A-Z\"'(])")  # the same, decoded without its control tokens
ENDS = re.compile(
    r"<\|(?:im_end|eot_id|eom_id|end|return|endoftext|end_of_text|end_of_turn|end_of_solution"
    r"|END_RESPONSE)\|>|</s>|<eos>"
    r"|<end_of_turn>|<｜end▁of▁sentence｜>|\[/?INST\]"
)
CONTROL = re.compile(r"<[|｜][^<>|｜]{1,40}[|｜]>|</?s>|<bos>|<start_of_turn>(?:model)?|\u200b|\ufeff")
FENCE = re.compile(r"^[ \t]*(`{3,}+|~{3,}+)[ \t]*(\w*)[^\n]*\n(.*?)(?:^[ \t]*\1[ \t]*$|\Z)", re.DOTALL | re.MULTILINE)
QUOTE = re.compile(r"^[ \t]*>[^\n]*$", re.MULTILINE)


def visible(text: str) -> str:
    """The text without hidden thoughts and control tokens; empty if a thought is not closed.

    A closing tag without an opening one ends a thought that the chat template opened: all text before it is hidden.
    """
    if "<|channel|>" in text:
        finals = FINAL.findall(text)
        text = finals[-1] if finals else ""
    elif BARE_HARMONY.match(text):
        _, final, text = text.rpartition("assistantfinal")
        text = text if final else ""
    kept, open_families, at = "", list[str](), 0
    for tag in TAG.finditer(text):
        name = tag.lastgroup or ""
        family = THOUGHTS[int(name[1:])][0]
        if not open_families:
            kept += text[at : tag.start()]
        at = tag.end()
        if name[0] == "o":
            open_families += [family] if family not in open_families else []
        elif family in open_families:
            del open_families[open_families.index(family) :]
        elif not open_families:
            kept = ""
    if open_families:
        return ""
    return CONTROL.sub("", _first_turn((kept + text[at:]).lstrip())).strip()


def own_words(text: str) -> str:
    """The visible text without code blocks and block quotes, in which a judge quotes the answers.

    A reply that is one code block or quote, or ends with a JSON block, stands for its content.
    """
    fences = list(FENCE.finditer(text))
    rest = QUOTE.sub("", FENCE.sub("", text)).strip()
    if not rest:
        return fences[-1][3].strip() if fences else re.sub(r"^[ \t]*>[ \t]?", "", text, flags=re.MULTILINE).strip()
    if fences and not text[fences[-1].end() :].strip():  # formats put the verdict last
        content, before = fences[-1][3].strip(), QUOTE.sub("", FENCE.sub("", text[: fences[-1].start()])).strip()
        if content.startswith("{") or re.search(r"(?:verdict|winner|choice|decision|judge?ment)\W*\Z", before, re.I):
            return f"{before}\n{content}"
    return rest


def _first_turn(text: str) -> str:
    """Text after the end of the model's turn is a conversation that it makes up."""
    turns = [turn for turn in ENDS.split(text) if CONTROL.sub("", turn).strip()]
    return turns[0] if turns else ""


# -- JSON -------------------------------------------------------------------------------------------------------------

# JSON as language models write it: with comments, trailing commas, single quotes, bare keys and Python's constants.
# The library json-repair also makes objects of text that is none, and completes half objects.
TOKEN = re.compile(
    r"""(?P<string>"(?:[^"\\\n]|\\.)*")|(?P<single>'(?:[^'\\\n]|\\.)*')|(?P<comment>//[^\n]*|/\*.*?\*/|\#[^\n]*)"""
    r"""|(?P<comma>,(?=(?:\s|//[^\n]*|/\*.*?\*/)*[}\]]))|(?P<key>[A-Za-z_][\w\-]*(?=\s*:))|(?P<constant>True"""
    r"""|False|None)\b"""
    r"""|(?P<fraction>-?\d+(?:\.\d+)?\s*/\s*\d+(?:\.\d+)?)|(?P<open>[{\[])|(?P<close>[}\]])|(?P<other>[\w.+\-]+|.)""",
    re.DOTALL,
)
OPENING = re.compile(r"[{\[]")
CONSTANTS = {"True": "true", "False": "false", "None": "null"}
LONGEST = 100_000  # characters of one value
DEEPEST = 20  # levels


def values(text: str) -> Iterator[tuple[object, int, int]]:
    """The outermost complete objects and lists in a text, each with its start and end."""
    at, tries = 0, 0
    while (found := OPENING.search(text, at)) is not None and tries < 200:
        begin = found.start()
        read = _value(text, begin)
        if read is None:
            at, tries = begin + 1, tries + 1
        else:
            value, at = read
            yield value, begin, at


def _value(text: str, begin: int) -> tuple[object, int] | None:
    """The value that begins there, and its end; None if it is incomplete or invalid."""
    written, depth = [], 0
    for token in TOKEN.finditer(text, begin, begin + LONGEST):
        kind, piece = token.lastgroup, token[0]
        depth += (kind == "open") - (kind == "close")
        if depth > DEEPEST:
            return None
        written.append(_strict(kind, piece))
        if depth == 0:
            try:
                return json.loads("".join(written)), token.end()
            except (ValueError, RecursionError):
                return None
    return None


def _strict(kind: str | None, piece: str) -> str:
    if kind in ("comment", "comma"):
        return " "
    if kind == "single":
        return json.dumps(piece[1:-1].replace("\\'", "'"))
    if kind in ("key", "fraction"):
        return json.dumps(piece)
    return CONSTANTS.get(piece, piece)
