"""Bring the words for a side, a tie, or a relation of two sides into one notation."""

from __future__ import annotations

import re
from collections.abc import Mapping

from rlhf_flow.scorer.llm.reply_text import values

EDGE = r"[\s*_`\"'.:!,()\[\]{}$。！：、-]*"  # what models put around a word to stress it
WORTH = {  # P(the first is better)
    **dict.fromkeys(("A", "1", "Ⓐ", "FIRST"), 1.0),
    **dict.fromkeys(("B", "2", "Ⓑ", "SECOND"), 0.0),
    **dict.fromkeys(("C", "TIE"), 0.5),
}
NOUN = (
    r"(?:answer|assistant|response|reply|output|model|option|candidate|completion|choice|solution|system|chatbot|ai"
    r"|version|text|回答|答案|助手|模型|选项|回复|応答|antwort|réponse|respuesta|resposta|risposta|ответ|вариант|응답|답변)"
)
TIE = (
    r"(?:(?:it(?:'s| is)\s+)?(?:an?\s+)?(?:tied?|draw|toss-?up)(?:\s*[-(,:]?\s*both\s*(?:bad|good)\)?)?"
    r"|bothbad|even|same"
    r"|(?:they\s+are\s+)?(?:both\s*(?:answers\s+|responses\s+)?)?(?:are\s+)?(?:about\s+)?(?:equal|equivalent"
    r"|equally\s+\w+)"
    r"|both(?:\s*(?:are\s+)?(?:bad|good))?|neither(?:\s+(?:one|answer|response)?\s*(?:is\s+)?(?:better|wins))?|none"
    r"|no\s+(?:clear\s+)?(?:winner|preference|difference)|平局|平手|一样好|引き分け|同等|unentschieden|gleich(?:\s+gut)?"
    r"|remis|égalité|empate|pareggio|ничья|무승부)"
)
RELATIONS = r"(?:>{1,3}|={1,2}|≈|~=?|<{1,3}|≻|≺|≫|≪)"
RELATION = re.compile(rf"([AB12ⒶⒷ])\s*({RELATIONS})\s*([AB12ⒶⒷ])")
ALONE = re.compile(rf"{EDGE}(?:(?:the\s+)?(?P<side>[abc12ⒶⒷ]|first|second)|(?P<tie>{TIE})){EDGE}", re.IGNORECASE)
BETTER = r"(?:better|best|superior|preferable|preferred|stronger|(?:the\s+)?(?:clear\s+)?winner)"
ADVERBS = r"(?:(?:\w+ly|much|far|the|an?|bit|still|also|overall|indeed|ultimately)\s+)*"


def side(text: str) -> float | None:
    """P(the first is better) of a text that is a side, a tie, a relation, or "A is better"; None for other text."""
    if text.count("[") != text.count("]"):  # cut
        return None
    if (alone := ALONE.fullmatch(text)) is not None:
        return worth_of(alone["side"] or "c")
    if (related := re.fullmatch(f"{EDGE}{RELATION.pattern}{EDGE}", text)) is not None:
        left, right = worth_of(related[1]), worth_of(related[3])
        if left == right:
            return None
        return 0.5 if related[2][0] in "=≈~" else left if related[2][0] in ">≻≫" else right
    named = re.fullmatch(rf"{EDGE}([ABⒶⒷ])\s+(?:is\s+{ADVERBS}{BETTER}|wins){EDGE}", text)
    return None if named is None else side(named[1])


def worth_of(word: str) -> float:
    return WORTH[word.upper()]


# -- one notation -----------------------------------------------------------------------------------------------------

KEY = re.compile(
    r"(?:(?:my|final|overall|the)_)*(?:verdict|winner|win|choice|chosen|decision|judge?ment|preference"
    r"|preferred|better|best"
    r"|selected|selection|result|answer|conclusion|vote|pick|output|final)(?:_(?:answer|response|model"
    r"|assistant|option|output|one))?"
)
PAIR = re.compile(r"""(?<!\\)["'](\w+)["']\s*:\s*(?:["']([^"'\n]*)["']|(?=\d)(\d)(?=\s*[,}]))""")
TAGS = re.compile(f"<({KEY.pattern}|response)>" + r"\s*(?P<held>[^<>]{0,200}?)\s*</\1>", re.IGNORECASE | re.DOTALL)
BOXED = re.compile(r"\$*\\boxed\s*\{(?P<held>(?:[^{}]|\{[^{}]*\})*)\}\$*")
LATEX = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mathbf)\s*\{([^{}]*)\}")
PLAIN = str.maketrans(
    {
        **dict.fromkeys("“”„«»「」『』", '"'),
        **dict.fromkeys("‘’", "'"),
        **dict(zip("：＞＜＝【】（）", ":><=[]()", strict=True)),
        "*": "",
        "`": "",
    }
)
BEFORE = rf"(?<![A-Za-z])(?:the\s+)?(?i:{NOUN})(?:[ \t]+|_|-|[ \t]*#[ \t]*)?"
NAMED = (
    (re.compile(rf"{BEFORE}\(?(A|1)\)?(?![A-Za-z0-9_']|\.\d)"), "Ⓐ"),
    (re.compile(rf"{BEFORE}\(?(B|2)\)?(?![A-Za-z0-9_']|\.\d)"), "Ⓑ"),
    (re.compile(rf"\b(?i:{NOUN})(?:_a\b|[ \t]*\(a\))"), "Ⓐ"),
    (re.compile(rf"\b(?i:{NOUN})(?:_b\b|[ \t]*\(b\))"), "Ⓑ"),
    (re.compile(rf"\b(?i:the\s+first)\s+(?i:one|{NOUN})\b|第一个{NOUN}?"), "Ⓐ"),
    (re.compile(rf"\b(?i:the\s+second)\s+(?i:one|{NOUN})\b|第二个{NOUN}?"), "Ⓑ"),
    (re.compile(rf"\b(?i:{NOUN})[ _]C\b"), "C"),
)


def normal(text: str) -> str:
    """Verdicts in objects, tags and boxes become [[A]], [[B]], [[C]], or [[?]] if unclear; named sides, such as
    "Response 1" and "model_a", become Ⓐ and Ⓑ; markdown emphasis is removed."""
    parts, at = [], 0
    for value, begin, end in values(text):
        if isinstance(value, dict) or (isinstance(value, list) and value and isinstance(value[-1], dict)):
            held = _of_object(value if isinstance(value, dict) else value[-1])
            parts += [text[at:begin], "\n", _marked(held[0] if len(set(held)) == 1 else None) if held else "", "\n"]
            at = end
    text = "".join([*parts, text[at:]])
    if text.lstrip().startswith("{"):  # cut
        found = [side(_sides(pair[2] or pair[3])) for pair in PAIR.finditer(text) if KEY.fullmatch(_key(pair[1]))]
        text = _marked(found[-1]) if found else ""
    for holds in (BOXED, TAGS):
        text = holds.sub(_unwrapped, LATEX.sub(r"\1", text))
    return _sides(text)


def _unwrapped(held: re.Match[str]) -> str:
    worth = side(_sides(held["held"]))
    return held["held"] if worth is None else f" {_marked(worth)} "


def _sides(text: str) -> str:
    text = re.sub(r"(?<![A-Za-z0-9])_{1,3}|_{1,3}(?![A-Za-z0-9])", " ", text.translate(PLAIN))
    text = text.replace(" :", ":")
    for named, symbol in NAMED:
        text = named.sub(symbol, text)
    return text


def _marked(worth: float | None) -> str:
    return "[[?]]" if worth is None else {1.0: "[[A]]", 0.0: "[[B]]", 0.5: "[[C]]"}[worth]


def _key(key: str) -> str:
    return re.sub(r"[\W_]+", "_", key).strip("_").lower()


def _of_object(held: Mapping[str, object], depth: int = 2) -> list[float | None]:
    """The verdicts in an object's verdict keys; None for an unclear one."""
    worths = list[float | None]()
    for key, value in held.items():
        if KEY.fullmatch(_key(key)):
            if isinstance(value, dict):
                worths += _of_object(value, depth - 1) if depth else []
            elif isinstance(value, str | int) and not isinstance(value, bool):
                worths.append(side(_sides(str(value))))
    return worths
