"""Parse the marks in a judge's reply: a number for each criterion, or none if one of them is not clear."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping

from rlhf_flow.scorer.llm.reply_text import values, visible

NAMES = ("criterion", "criteria", "name", "aspect", "dimension", "category", "key", "metric")
MARKS = ("mark", "score", "rating", "value", "points", "grade", "number")
WRAPPERS = ("marks", "scores", "ratings", "evaluation", "result", "results", "criteria", "rubric", "grades", "output")
NUMBER = re.compile(
    r"\s*([+-]?\d+(?:[.,]\d+)?)\s*(?:(?:/|out of|of)\s*(\d+(?:\.\d+)?))?\s*(?:points?|pts?\.?)?\s*\.?\s*"
)
MARK = r"[+-]?\d+(?:[.,]\d+)?(?:\s*(?:/|out of)\s*\d+(?:\.\d+)?)?"
WORD = r"(?:mark|score|rating)"
ALTERNATIVE = re.compile(r"\W*(?:or|and|vs\.?|versus|to)?\W*", re.IGNORECASE)
STRESS = re.compile(r"[*_`]+")


def marks(text: str, criteria: Collection[str], *, low: float, high: float) -> dict[str, float] | None:
    """The mark of each criterion, in [low, high], from the last JSON value in the visible reply that has all of them,
    or else from lines or table rows such as "helpful: 8/10".

    None if a mark is missing, no number or out of range (nothing is clipped), or if lines contradict each other.
    """
    shown = visible(text)
    names = {_plain(name): name for name in criteria}
    wholes = [(held, begin, end) for value, begin, end in values(shown) if (held := _held(value, names)) is not None]
    found = _last(shown, wholes, names) if wholes or "{" in shown else _lines(shown, names)
    if found is None:
        return None
    numbers = {name: _number(found[plain], high) for plain, name in names.items()}
    return numbers if all(low <= number <= high for number in numbers.values()) else None


def _last(
    text: str, wholes: list[tuple[Mapping[str, object], int, int]], names: Collection[str]
) -> Mapping[str, object] | None:
    """The last value; None if it is one of two alternatives, or is followed by a truncated one."""
    if not wholes:
        return None
    held, begin, end = wholes[-1]
    if any(name in _plain(text[end:].rpartition("{")[2]) for name in names) and "{" in text[end:]:
        return None
    if len(wholes) > 1 and wholes[-2][0] != held and ALTERNATIVE.fullmatch(text[wholes[-2][2] : begin]):
        return None
    return held


def _plain(name: object) -> str:
    return re.sub(r"[\s_\-]+", " ", STRESS.sub("", str(name))).strip().lower()


def _held(value: object, names: Collection[str], depth: int = 3) -> Mapping[str, object] | None:
    """Criterion -> its value in a JSON value; None unless all criteria are there."""
    if isinstance(value, list):
        value = _listed(value)
    if not isinstance(value, dict):
        return None
    plain = {_plain(key): given for key, given in value.items()}
    named = {_criterion(key, names): given for key, given in value.items()}
    if set(names) <= named.keys() and len(named) == len(value):
        return named
    inner = [_held(plain[key], names, depth - 1) for key in WRAPPERS if key in plain] if depth else []
    complete = [held for held in inner if held is not None]
    return complete[0] if len(complete) == 1 else None


def _criterion(key: object, names: Collection[str]) -> str:
    """The criterion that a key names; "helpful_score" and "Helpful (1-10)" name "helpful"."""
    plain = _plain(key)
    short = re.sub(rf"\s*\([^)]*\)$|\s*{WORD}$", "", plain)
    return short if plain not in names and short in names else plain


def _listed(items: list[object]) -> dict[str, object] | None:
    """[{"criterion": "helpful", "mark": 8}, ...] or [{"helpful": 8}, ...] as one object; None if a name comes twice."""
    pairs: list[tuple[str, object]] = []
    for item in items:
        if not isinstance(item, dict):
            return None
        plain = {_plain(key): given for key, given in item.items()}
        name = next((plain[key] for key in NAMES if isinstance(plain.get(key), str)), None)
        pairs += plain.items() if name is None else [(_plain(name), plain)]
    merged = dict(pairs)
    return merged if len(merged) == len(pairs) else None


def _lines(text: str, names: Collection[str]) -> Mapping[str, object] | None:
    """From lines such as "**helpful**: 8", "- helpful (clear and short): 8/10" and "| helpful | 8 | why |", from tags,
    headings, and tables whose columns are the criteria.
    """
    found: dict[str, str] = {}
    for name, mark in (*_marked(text, names), *_columns(text, names)):
        if found.setdefault(name, mark) != mark:
            return None
    return found if set(names) <= found.keys() else None


def _marked(text: str, names: Collection[str]) -> Iterator[tuple[str, str]]:
    text = STRESS.sub("", text)
    for name in names:
        pattern = r"[\s_\-]+".join(map(re.escape, name.split()))
        before = rf"(?:^|[,;])[ \t|>#•\-]*(?:\d+[.)]\s*)?[\"']?(?:{WORD}\s+(?:for|of)\s+)?"
        begins = rf"{before}{pattern}[\"']?(?:[ \t]*{WORD})?[ \t]*"
        forms = (
            rf"{begins}(?:\([^)\n]*\))?[ \t]*(?:[:=：|–—-]|is\b)[ \t|\"']*({MARK})(?![\w.]*\d|\s*(?:[-–—]|to|or)\s*\d)",
            rf"{begins}\(\s*(\d+(?:[.,]\d+)?\s*(?:/|out of)\s*\d+)\s*\)",
            rf"{begins}[:：]?[ \t]*\n+[ \t>]*(?:{WORD}[ \t]*[:=：][ \t]*)?({MARK})[ \t]*$",
            rf"<{pattern}>\s*({MARK})\s*</{pattern}>",
        )
        yield from ((name, row[1]) for form in forms for row in re.finditer(form, text, re.IGNORECASE | re.MULTILINE))


def _columns(text: str, names: Collection[str]) -> Iterator[tuple[str, str]]:
    """From each row of a table with a column for each criterion."""
    rows = [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in STRESS.sub("", text).splitlines()
        if line.count("|") >= len(names) - 1 > 0
    ]
    head = next((at for at, row in enumerate(rows) if set(names) <= {_plain(cell) for cell in row}), len(rows))
    for row in rows[head + 1 :]:
        yield from (
            (_plain(name), mark)
            for name, mark in zip(rows[head], row, strict=False)
            if _plain(name) in names and re.fullmatch(MARK, mark, re.IGNORECASE)
        )


def _number(value: object, high: float) -> float:
    """Of 8, "8", "8/10" or {"score": 8, ...}; NaN for anything else, such as "4/5" if high is 10."""
    if isinstance(value, dict):
        plain = {_plain(key): given for key, given in value.items()}
        given = [plain[key] for key in MARKS if key in plain]
        return _number(given[0], high) if len(given) == 1 and not isinstance(given[0], dict) else math.nan
    if isinstance(value, str):
        found = NUMBER.fullmatch(STRESS.sub("", value))
        if found is None or (found[2] is not None and float(found[2]) != high):
            return math.nan
        return float(found[1].replace(",", "."))
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value)
    except OverflowError:  # an integer that no float holds
        return math.nan
