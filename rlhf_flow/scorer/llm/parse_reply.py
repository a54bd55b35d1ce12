"""Parse a judge's reply: which answer its last clear verdict prefers. A reply without one is an abstention.

`verdict` brings the visible reply into one notation (`normal`), and then tries the forms of a verdict, the most
explicit first: the whole reply, marked or labelled verdicts (`_explicit`), sentences (`_statements`). A reply that
contradicts itself without naming one verdict as final is not clear: it is never guessed. The letters' probabilities, if
the endpoint gives them, make the preference soft (RLHF Workflow, arXiv:2405.07863).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from rlhf_flow.scorer.llm.reply_text import own_words, visible
from rlhf_flow.scorer.llm.verdict_words import ADVERBS, BETTER, EDGE, NOUN, RELATIONS, TIE, normal, side, worth_of


@dataclass(frozen=True)
class Reply:
    """The text of a reply, and if known the log-probs, in nats, of the candidates for its first token."""

    text: str
    begins: tuple[tuple[str, float], ...] = ()  # the likeliest first
    cut: bool = False  # at max_tokens

    def as_json(self) -> str:
        return json.dumps({"text": self.text, "begins": self.begins, **({"cut": True} if self.cut else {})})

    @classmethod
    def from_json(cls, written: str) -> Reply:
        held = json.loads(written)
        return cls(held["text"], tuple((token, logp) for token, logp in held["begins"]), held.get("cut", False))


def preference(reply: Reply) -> float | None:
    """P(the first is better); None without a clear verdict.

    The expected verdict over the first token's candidates, if the reply is a letter, its log-probs are known and the
    likeliest candidate is a letter. Otherwise the verdict in the text: 1, 0, or 1/2 for a tie.
    """
    stated = verdict(reply.text, cut=reply.cut)
    words = [(_letter(token), logp) for token, logp in reply.begins]
    if stated is None or _letter(reply.text) is None or not words or words[0][0] is None:
        return stated
    most = words[0][1]
    weights = [(worth, math.exp(logp - most)) for worth, logp in words if worth is not None]
    return sum(worth * weight for worth, weight in weights) / sum(weight for _, weight in weights)


def _letter(token: str) -> float | None:
    word = re.fullmatch(rf"[▁Ġ]?{EDGE}(a|b|c|1|2|tie){EDGE}", token, re.IGNORECASE)
    return None if word is None else worth_of(word[1])


def verdict(text: str, *, cut: bool = False) -> float | None:
    """1 if the visible reply prefers A, 0 for B, 1/2 for C or a tie; None if it is not clear.

    In a reply that was cut at max_tokens, only a verdict at its very start counts.
    """
    words = normal(own_words(visible(text)))
    if words.count("[[") > words.count("]]"):  # cut
        words = words[: words.rindex("[[")]
    if (whole := side(words)) is not None:
        return whole
    explicit = _explicit(words)
    if cut and (not explicit or words[: explicit[0].begin].strip()):
        return None
    return _last_explicit(words, explicit) if explicit else _agreed(words)


# -- explicit verdicts ------------------------------------------------------------------------------------------------

LABEL = (
    rf"(?:(?:final|overall|my|the)\s+)*(?:verdict|judge?ment|winner|decision|choice|preference|preferred"
    rf"|better|best|selection"
    rf"|conclusion|overall|vote|pick|(?:(?:better|best|preferred|winning|chosen|superior|stronger)\s+)(?:one|{NOUN}))"
    r"|(?:最终)?(?:结论|判决|裁决|判断|判定|评判|胜者|结果)|勝者|結論|urteil|fazit|gewinner|veredicto|veredito|verdetto|ganador"
    r"|vincitore|gagnant|вердикт|вывод|победитель|판정|결론|bessere\s+antwort|meilleure\s+réponse|mejor\s+respuesta"
    r"|melhor\s+resposta|migliore\s+risposta|risposta\s+migliore|лучший\s+ответ|更好的(?:回答|答案|回复)"
)
WEAK_LABEL = (
    rf"(?:(?:final|my|the)\s+)*(?:{NOUN}|result|evaluation)"  # "Answer: A" may be the answer to the prompt itself
)
COLON = (
    r"(?:\s*[(\[][^()\[\]\n]{0,30}[)\]])?\s*"
    r"(?:[:=→|–—-]|->|=>|\b(?:is|ist|est|es|è|é)\b:?(?:\s+(?:die|la|le|a)\b)?|[是为は])[ \t]*"
)
AROUND = r"[\s\"'(\[{$|:]*"
# What may follow a side in a verdict: not "A good answer", "A or B", "A if ...", "A is wrong".
BEHIND = (
    r"(?=[ \t\"')\]}|]*(?:[ \t]*(?:\Z|\n|[;。！}<\[]|[.!](?!\w)|,(?!\s*(?:or\b|and\b|[ABC12ⒶⒷ]\b))"
    r"|\((?!\s*(?:if|or)\b)|[–—-]\s|:)"
    r"|\s+(?:because|since|as|due|by|over|with|wins|rather\s+than|(?:is\s+)?better\s+than\s+[ABⒶⒷ]|between)\b"
    rf"|\s+is\s+{ADVERBS}(?:{BETTER}|correct|right)\b))"
)
RELATED = rf"[AB12ⒶⒷ]\s*{RELATIONS}\s*[AB12ⒶⒷ]"
TOLD = rf"(?P<said>{RELATED}|[ABC12ⒶⒷ](?![\w>=<+#&@%/]|'\w)|[abc](?=\W*(?:\n|\Z))|(?i:{TIE})\b)"
NEAR = 200  # characters before a verdict that are searched for a retraction
FORMS = (  # anywhere in the reply
    re.compile(
        r"(?<![\"'])\[\[\s*(?:(?i:verdict|winner)\s*:\s*)?(?P<said>[^\[\]\n]{1,40}?)\s*\]\](?!\s*(?:if|for|means"
        r"|when)\b)(?P<on>\s+(?!(?:because|since|as|for|due|by|over|wins|is\s+(?:the|my))\b)[a-z])?"
    ),
    re.compile(rf"(?<![\w-])(?i:{LABEL}){COLON}{AROUND}{TOLD}{BEHIND}"),
    re.compile(rf"\b(?i:ranking|order|comparison){COLON}{AROUND}(?P<said>{RELATED}){BEHIND}"),
    re.compile(rf"^[\s#>\d.)|-]*(?i:{LABEL})[\s:|]*\n[\s|:\-]*{AROUND}{TOLD}{BEHIND}", re.MULTILINE),
    re.compile(
        rf"\A{AROUND}{TOLD}(?=[\"')\]}}.!]*[ \t]*(?:\n|\Z)|(?:,|\s+[–—-]+)?\s+(?:because|since|as|it\s+is)\b"
        rf"|[ \t]*\((?!\s*if))"
    ),
    re.compile(rf"^{AROUND}{TOLD}[\"')\]}}.!。]*\s*\Z", re.MULTILINE),
    re.compile(
        rf"\b(?i:overall|in conclusion|therefore|thus|hence|so|ultimately|in the end|finally)"
        rf",?\s+(?![12]){TOLD}[\s\"')\]}}.!]*\Z"
    ),
)
WEAK = re.compile(rf"^[\s#>-]*(?i:{WEAK_LABEL}){COLON}{AROUND}{TOLD}{BEHIND}", re.MULTILINE)
UNSURE = re.compile(
    r"\b(?:not|never|hardly|nor|neither|whether|if|unless|could|might|may|cannot|maybe|perhaps|either|unclear"
    r"|unsure|example|e\.g|such as"
    r"|like|previous|previously|initial|initially|earlier|at first|says|said|states|claims|asserts|writes"
    r"|wrote|asks|hard to|difficult to|impossible"
    r"|reply with|respond with|answer with|end with|output|choose between|was|than)\b|n't\b",
    re.IGNORECASE,
)
TURNS = re.compile(
    r"\b(?:wait|actually|on second thoughts?|on reflection|scratch that|correction|i take (?:it|that) back"
    r"|change my (?:mind|verdict))\b|\bno,",
    re.I,
)


@dataclass(frozen=True)
class Found:
    """A verdict in a text, with its place."""

    worth: float | None  # None: an unclear verdict
    begin: int
    end: int
    weak: bool = False


def _explicit(text: str) -> list[Found]:
    """In the order in which they stand; of two that overlap, the one that begins first."""
    every = [_found(match, text, weak=form is WEAK) for form in (*FORMS, WEAK) for match in form.finditer(text)]
    kept = list[Found]()
    for one in sorted(every, key=lambda one: (one.begin, one.weak, -one.end)):
        if not kept or one.begin >= kept[-1].end:
            kept.append(one)
    return kept


def _found(match: re.Match[str], text: str, *, weak: bool) -> Found:
    """Not clear if the words before it retract it: "I am not sure the winner is A"."""
    begin, end = match.start(), match.end("said")
    before = re.split(r"[.!?;:,\n]|\b(?:so|thus|hence|therefore)\b", text[max(0, begin - NEAR) : begin])[-1]
    unsure = UNSURE.search(before) or match.groupdict().get("on")  # "[[A]] is shorter" is talk of A
    return Found(None if unsure else side(match["said"]), begin, end, weak)


def _last_explicit(text: str, found: list[Found]) -> float | None:
    """The last one; None if it is one of alternatives, or the text after it prefers another."""
    last, at = found[-1], len(found) - 1
    while at and _alternatives(text, found[at - 1], found[at]):
        at -= 1
    if any(one.worth != last.worth for one in found[at:]):
        return None
    if last.weak and any(one.worth != last.worth for one in found if not one.weak):
        return None
    tail = text[last.end :]
    if TURNS.search(tail) or any(worth != last.worth for worth, _ in _statements(tail, CONTRARY)):
        return None
    return last.worth


def _alternatives(text: str, one: Found, other: Found) -> bool:
    """Whether two verdicts are offered as a choice: "[[A]] or [[B]]", or lines that differ in nothing else."""
    between = text[one.end : other.begin]
    if re.fullmatch(r"[^\w\n.!?]*(?:(?:or|and|vs|versus|maybe|perhaps)[^\w\n.!?]*)*", between, re.IGNORECASE):
        return True
    return bool(re.fullmatch(r"[^\n]*\n[^\n]*", between)) and _shape(text, one) == _shape(text, other)


def _shape(text: str, one: Found) -> str:
    """The line of a verdict, up to it, without a list's number or bullet."""
    line = text[max(text.rfind("\n", 0, one.end) + 1, one.begin - NEAR) : one.end - 1]
    return "list" if re.match(r"\s*(?:\d+[.)]|[-•])\s", line) else re.sub(r"\W+", "", line)


# -- sentences --------------------------------------------------------------------------------------------------------

ONE = r"(?P<one>[ⒶⒷ]|\b[AB]\b)"
ASIDE = r"(?!\s+(?:than\s+[\wⒶⒷ]+\s+)?(?:in|at|on|for|with|when|where|regarding)\b(?!\s+(?:every|all|balance)))"
WINS = (
    rf"(?:\w+ly\s+)?(?:wins|beats|outperforms|surpasses|(?:provides|provided|gives|gave|offers|offered)"
    rf"\s+{ADVERBS}{BETTER}\s+(?i:{NOUN})(?!\s+to\b){ASIDE})\b"
)
GOOD = (
    rf"{ONE}(?:\s+is|'s)\s+{ADVERBS}{BETTER}\b{ASIDE}"
    rf"|{ONE.replace('one', 'won')}(?:\s+{WINS}|\s*(?:更好|更佳|更优|胜出|获胜|が優れて|の方が(?:良い|優れ)))"
    rf"|\b(?i:only)\s+{ONE.replace('one', 'only')}\s+is\s+(?:correct|right)\b{ASIDE}"
)
GOOD_TO_BE = r"(?:good|helpful|accurate|correct|clear|complete|relevant|useful|convincing)"
BAD = (
    rf"{ONE.replace('one', 'bad')}\s+(?:is\s+(?:{ADVERBS}(?:worse|inferior|weaker)\b{ASIDE}"
    rf"|(?:(?:outperformed|beaten|surpassed)\s+by|not\s+(?:\w+\s+)?as\s+{GOOD_TO_BE}\s+as"
    rf"|{ADVERBS}less\s+{GOOD_TO_BE}\s+than)\s+[ABⒶⒷ]{ASIDE})|loses\b)"
)
CHOSEN = (
    r"(?:\b(?i:I|we)(?:'d|'ll|'m|\s+am)?\s+(?:would\s+|will\s+|do\s+|have\s+to\s+)?(?:\w+ly\s+)?(?:prefer|choose|pick"
    r"|select|favou?r|vote for|go with|side with|opt for|lean(?:ing)? towards?|going with)"
    r"|^\W*(?i:going with|leaning towards?|(?:\w+ly\s+)?prefer))(?::\s*|\s+)"
    + ONE.replace("one", "chosen")
    + r"(?!\s+(?:would|could|might|may|is|was)\b)"
)
EVEN = (
    r"(?P<even>\b(?:both|they|[ⒶA]\s+and\s+[ⒷB]|(?:the\s+)?(?:two\s+)?(?:answers|responses))\s+(?:answers\s+"
    r"|responses\s+)?are\s+(?:\w+ly\s+)*?"
    r"(?:equal|equally\s+\w+|equivalent|tied|identical)\b|\bit(?:'s|\s+is)\s+a\s+(?:tie|draw)\b"
    r"|\bneither\s+(?:one\s+|answer\s+|response\s+)?is\s+better\b|\bno\s+clear\s+winner\b)"
)
STATEMENT = re.compile(f"{GOOD}|{BAD}|{CHOSEN}|(?i:{EVEN})")
CONTRARY = re.compile(f"{STATEMENT.pattern}|{ONE.replace('one', 'right')}\\s+is\\s+{ADVERBS}(?:right|correct)\\b")
CLAUSE = re.compile(r"(?<=[.!?。！？])\s+|\n+|;|\b(?:but|while|whereas|although|though|however)\b", re.IGNORECASE)
IN_THE_END = re.compile(
    r"\b(?:overall|therefore|thus|hence|in conclusion|in summary|ultimately|on balance|all in all|in the end"
    r"|finally)\b",
    re.I,
)


def _statements(text: str, form: re.Pattern[str]) -> Iterator[tuple[float | None, bool]]:
    """The verdict of each clause, None if it is unsure, and whether the clause is a conclusion."""
    for clause in CLAUSE.split(text):
        for match in form.finditer(clause):
            groups = {name: held for name, held in match.groupdict().items() if held is not None}
            worth = 0.5 if "even" in groups else worth_of(next(iter(groups.values())))
            worth = 1 - worth if "bad" in groups else worth
            before, behind = clause[: match.start()], clause[match.end() :]
            unsure = (
                UNSURE.search(before)
                or clause.rstrip().endswith("?")
                or re.search(r"\b(?:if|unless|except|not)\b", behind)
            )
            yield (None if unsure else worth), bool(IN_THE_END.search(clause))


def _agreed(text: str) -> float | None:
    """The verdict of all sentences; if they differ, that of a final conclusion, or of all after a "wait, no"."""
    found = list(_statements(text, STATEMENT))
    worths = {worth for worth, _ in found}
    if not found or None in worths:
        return None
    if len(worths) == 1 or found[-1][1]:
        return found[-1][0]
    turns = [turn.end() for turn in TURNS.finditer(text)]
    rest = {worth for worth, _ in _statements(text[turns[-1] :], STATEMENT)} if turns else set()
    return rest.pop() if len(rest) == 1 else None
