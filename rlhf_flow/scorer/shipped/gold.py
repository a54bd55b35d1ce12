"""Compare an answer with the gold answer, as text or as a number.

Model output is never evaluated as code: numbers are parsed by the grammar below. The gold answer is `meta["answer"]`:
that of `prompts.columns.answer`, or a column of that name.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from rlhf_flow.types import Message

Messages = tuple[Message, ...]
Meta = Mapping[str, object]

IGNORED = ("unicode", "case", "punctuation", "articles", "space")


def exact_answer(
    messages: Messages,
    answer: str,
    meta: Meta,
    *,
    where: str = "whole",
    marker: str = "####",
    ignore: Sequence[str] = ("space",),
    without_gold: str = "refuse",
) -> float | None:
    r"""1 if the answer is the gold answer, else 0.

    where   whole: the answer; boxed: the contents of the last \boxed{...}; marker: the text after the last `marker`
    ignore  normalization of both: unicode (NFKC), case, punctuation, articles (a, an, the), space (runs of white
            space, and white space at the ends); always applied in this order
    without_gold  a prompt without a gold answer: refuse raises ValueError, abstain is an abstention
    """
    _check("where", ("whole", "boxed", "marker"), where)
    for name in ignore:
        _check("ignore", IGNORED, name)
    gold = _gold(meta, without_gold)
    stated = _stated(answer, where, marker)
    if gold is None:
        return None
    return float(stated is not None and _normal(stated, ignore) == _normal(gold, ignore))


def numeric_answer(
    messages: Messages,
    answer: str,
    meta: Meta,
    *,
    where: str = "last",
    marker: str = "####",
    rel_tol: float = 0.0,
    abs_tol: float = 0.0,
    without_gold: str = "refuse",
) -> float | None:
    r"""1 if the number in the answer equals the gold answer, within the tolerance, else 0.

    where   last: the last number in the answer; boxed: the contents of the last \boxed{...}, if they are a number
            (a unit as \text, and x = before it, are allowed); marker: the first number after the last `marker`.
            An answer without a number is wrong
    rel_tol, abs_tol  the tolerance is the larger of rel_tol * |gold| and abs_tol; 0: equal as exact rationals
    without_gold  a prompt whose gold answer is missing or no number: refuse raises ValueError, abstain is an abstention

    Numbers are 12, -1.5, .5, 1,234.5, 3/4, \frac{3}{4}, 1.5e-3, 2 \times 10^{3}, $5 and 50%, which is 1/2, and 50
    against a number without a percent sign. Mixed numbers, other powers and decimal commas are not read.
    """
    _check("where", ("last", "boxed", "marker"), where)
    for key, value in {"rel_tol": rel_tol, "abs_tol": abs_tol}.items():
        if not 0 <= value < float("inf"):
            raise ValueError(f"{key} must be >= 0, got {value}")
    text = _gold(meta, without_gold)
    gold = None if text is None else _only(text)
    if gold is None and without_gold == "refuse":
        raise ValueError(
            f"the gold answer must be a number and nothing else, got {text!r}. "
            "Fix: correct it, or set without_gold=abstain."
        )
    if gold is None:
        return None
    stated = _stated(answer, where, marker)
    number = None if stated is None else _number(stated, where)
    return float(number is not None and number.is_close(gold, rel_tol=rel_tol, abs_tol=abs_tol))


# -- extraction ------------------------------------------------------------------------------------------------------


def _gold(meta: Meta, without_gold: str) -> str | None:
    _check("without_gold", ("refuse", "abstain"), without_gold)
    gold = meta.get("answer")
    if gold is None and without_gold == "refuse":
        raise ValueError(
            "the prompt has no gold answer. Fix: set prompts.columns.answer to the column that holds it, or "
            "without_gold=abstain if only some prompts have one."
        )
    return None if gold is None else str(gold)


def _stated(answer: str, where: str, marker: str) -> str | None:
    if where == "boxed":
        return _boxed(answer)
    if where == "marker":
        _, found, behind = answer.rpartition(marker)
        return behind if found else None
    return answer


def _boxed(text: str) -> str | None:
    r"""The contents of the last \boxed{...}, up to the matching brace."""
    _, found, behind = text.rpartition(r"\boxed")
    behind = behind.lstrip()
    if not found or not behind.startswith("{"):
        return None
    depth = 0
    for brace in re.finditer(r"\\.|[{}]", behind, re.DOTALL):  # an escaped brace is a character
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0 and brace[0] == "}":
            return behind[1 : brace.start()]
    return None


def _normal(text: str, ignore: Sequence[str]) -> str:
    if "unicode" in ignore:
        text = unicodedata.normalize("NFKC", text)
    if "case" in ignore:
        text = text.casefold()
    if "punctuation" in ignore:
        text = "".join(one for one in text if not unicodedata.category(one).startswith("P"))
    if "articles" in ignore:
        text = re.sub(r"\b(?:an?|the)\b", " ", text, flags=re.IGNORECASE)
    return " ".join(text.split()) if "space" in ignore else text


# -- numbers ----------------------------------------------------------------------------------------------------------

# Every quantifier is possessive or bounded: matching takes linear time.
_DIGITS = r"(?>(?>[0-9]{1,3}(?:,[0-9]{3}){1,20}+(?!,?[0-9])|[0-9]++)(?:\.[0-9]++)?+|\.[0-9]++)"
_POWER = r"\s{0,4}(?:\\times|\\cdot|[×·x*])\s{0,4}10\s{0,4}\^(?>\{(?P<braced>[-+]?[0-9]++)\}|(?P<bare>[-+]?[0-9]++))"
_NUMBER = rf"""
    (?<![A-Za-z0-9_.^]) (?<!\^\{{) (?<!\^\ )
    (?P<sign>[-+]?) (?:\\?[$€£])?+
    (?>
        \\[dtc]?frac\s{{0,4}}\{{\s{{0,4}}(?P<above>[-+]?{_DIGITS})\s{{0,4}}\}}\s{{0,4}}
                              \{{\s{{0,4}}(?P<below>{_DIGITS})\s{{0,4}}\}}
      | (?P<digits>{_DIGITS}) (?>[eE](?P<exponent>[-+]?[0-9]++)|{_POWER})?+ (?:\s{{0,4}}/\s{{0,4}}(?P<over>{_DIGITS}))?+
    )
    (?P<percent>\s{{0,4}}\\?%)?+
    (?!\s{{0,4}}\^(?!\s{{0,4}}\{{?\\circ))
"""
_ALONE = re.compile(
    rf"""
    \s*+ (?:\$|\\\()?+ \s*+ (?:[A-Za-z]\w*+ \s*+ = \s*+)?+
    {_NUMBER}
    (?: \s*+\\(?:text|mathrm|mbox)\{{[^{{}}]*+\}}(?:\^\{{?[0-9]\}}?)?+ | \^\{{?\\circ\}}? )?+
    \s*+ \.? (?:\$|\\\))?+ \.? \s*+
    """,
    re.VERBOSE,
)
_ANYWHERE = re.compile(_NUMBER, re.VERBOSE)
_THOUSANDS = re.compile(r"(?<=[0-9])(?:\\,|\{,\}|,\\!)(?=[0-9]{3})")  # LaTeX for the comma of 1,234
LONGEST = 1000  # characters of a number, and its largest power of ten


@dataclass(frozen=True)
class Number:
    """An exact rational, as written: 50 for 50%."""

    written: Fraction
    percent: bool

    @property
    def share(self) -> Fraction:
        return self.written / 100 if self.percent else self.written

    def is_close(self, gold: Number, *, rel_tol: float, abs_tol: float) -> bool:
        """If only one of the two has a percent sign, it may also be ignored."""
        readings = [(self.share, gold.share)]
        if self.percent != gold.percent:
            readings.append((self.written, gold.written))
        tolerances = Fraction(str(rel_tol)), Fraction(str(abs_tol))  # 0.1 as typed
        return any(abs(one - other) <= max(tolerances[0] * abs(other), tolerances[1]) for one, other in readings)


def _number(text: str, where: str) -> Number | None:
    if where == "boxed":
        return _only(text)
    found = [*_ANYWHERE.finditer(_plain(text))]
    return next(filter(None, map(_value, found if where == "marker" else reversed(found))), None)


def _only(text: str) -> Number | None:
    """The number, if the text is one, optionally with a unit, a name (`x = `) and math delimiters."""
    match = _ALONE.fullmatch(_plain(text))
    return None if match is None else _value(match)


def _plain(text: str) -> str:
    return _THOUSANDS.sub(",", text.replace("−", "-"))


def _value(match: re.Match[str]) -> Number | None:
    """None for a division by 0, and for too long a number."""
    power = int((match["exponent"] or match["braced"] or match["bare"] or "0")[:LONGEST])
    if len(match[0]) > LONGEST or abs(power) > LONGEST:
        return None
    above, below = _decimal(match["above"] or match["digits"]), _decimal(match["below"] or match["over"] or "1")
    if below == 0:
        return None
    size = above * Fraction(10) ** power / below
    return Number(-size if match["sign"] == "-" else size, percent=match["percent"] is not None)


def _decimal(digits: str) -> Fraction:
    return Fraction(digits.replace(",", ""))


def _check(key: str, allowed: Sequence[str], value: str) -> None:
    if value not in allowed:
        raise ValueError(f"{key} must be one of {', '.join(allowed)}, got {value!r}")
