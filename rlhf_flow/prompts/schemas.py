"""Schemas of public data sets: each maps a row to the columns prompt, chosen and rejected.

Answers with ratings or ranks become a pair, the best against the worst; a row whose answers are equally good has none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rlhf_flow.prompts.annotation_exports import ARGILLA, LABEL_STUDIO, Comparison, argilla, label_studio

Values = Mapping[str, object]
Turn = dict[str, object]  # {role, content}
TURN = re.compile(r"(?:\A|\n\n)\s*(Human|Assistant):")
SPEAKERS = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bing", "bard", "model"), "assistant"),
    "system": "system",
}


class UnreadableError(ValueError):
    """A value of the row is not as the schema expects it."""


@dataclass(frozen=True)
class Schema:
    """The columns of a data set and how they are read."""

    columns: tuple[str, ...]  # every row has these
    read: Callable[[Values], Values]  # a row -> prompt and, if it has answers, chosen, rejected, score_chosen, ...
    summary: str
    uses: tuple[str, ...] = ()  # optional columns that `read` consumes
    asks: bool = False  # recognised by its columns although it has a column `prompt`, as prompts without answers have

    def fits(self, values: Values) -> bool:
        return set(self.columns) <= values.keys()


# -- prompts and one answer -------------------------------------------------------------------------------------------


def _question(values: Values) -> Values:
    return {"prompt": values["question"]}


def _alpaca(values: Values) -> Values:
    parts = [text for text in (values["instruction"], values.get("input")) if isinstance(text, str) and text.strip()]
    return {"prompt": "\n\n".join(parts), "chosen": values["output"]}


def _completion(values: Values) -> Values:
    """A completion that is marked as undesirable is no answer to learn."""
    return {} if values.get("label") is False else {"chosen": values["completion"]}


def _turns_in(column: str) -> Callable[[Values], Values]:
    """A reader of a column of {role, content}."""
    return lambda values: _demonstration(_chat(values[column], column))


def _sharegpt(values: Values) -> Values:
    turns = [_turn_of(turn) for turn in _chat(values["conversations"], "conversations")]
    answers = {
        name: _turn_of(values[name])["content"] for name in ("chosen", "rejected") if isinstance(values.get(name), dict)
    }
    return {"prompt": turns, **answers} if answers else _demonstration(turns)


def _demonstration(turns: Sequence[object]) -> Values:
    """A conversation; its last answer is `chosen`."""
    last = turns[-1] if turns else None
    if isinstance(last, dict) and last.get("role") == "assistant":
        return {"prompt": [*turns[:-1]], "chosen": last.get("content")}
    return {"prompt": [*turns]}


def _turn_of(turn: object) -> Turn:
    if not isinstance(turn, dict) or not {"from", "value"} <= turn.keys():
        raise UnreadableError(f"expected an object with `from` and `value`, found {type(turn).__name__}")
    if turn["from"] not in SPEAKERS:
        raise UnreadableError(f"`from` must be one of {', '.join(SPEAKERS)}, found {turn['from']!r:.60}")
    return {"role": SPEAKERS[turn["from"]], "content": turn["value"]}


# -- a better and a worse answer --------------------------------------------------------------------------------------


def _implicit(values: Values) -> Values:
    """The conversation is the common prefix of both answers; of texts, up to its last blank."""
    chosen, rejected = values["chosen"], values["rejected"]
    if isinstance(chosen, str) and isinstance(rejected, str):
        end = next((at for at, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), 0)
        end = max(chosen.rfind(blank, 0, end) for blank in " \n") + 1
        return {"prompt": chosen[:end], "chosen": chosen[end:], "rejected": rejected[end:]}
    return {"prompt": _chat(chosen, "chosen")[:-1]}


def _dialogues(values: Values) -> Values:
    """`Human:` and `Assistant:` in one text; the prompt is in its own column or at the start of both answers."""
    if isinstance(values.get("prompt"), str):
        return {"prompt": _dialogue(values["prompt"], "prompt", open_end=True)}
    return {
        "prompt": _dialogue(values["chosen"], "chosen")[:-1],
        **{name: _dialogue(values[name], name) for name in ("chosen", "rejected")},
    }


def _dialogue(text: object, column: str, *, open_end: bool = False) -> list[Turn]:
    """The turns of a text; `open_end` removes an empty last turn of the assistant."""
    found = list(TURN.finditer(text)) if isinstance(text, str) else []
    if not isinstance(text, str) or not found or text[: found[0].start()].strip():
        raise UnreadableError(f"column {column!r} must begin with Human: or Assistant:, found {text!r:.60}")
    ends = [*(turn.start() for turn in found[1:]), len(text)]
    turns: list[Turn] = [
        {"role": "user" if turn[1] == "Human" else "assistant", "content": text[turn.end() : end].strip()}
        for turn, end in zip(found, ends, strict=True)
    ]
    return turns[:-1] if open_end and turns[-1] == {"role": "assistant", "content": ""} else turns


def _pair(first: object, second: object, margin: float) -> Values:
    """`margin` > 0: the first is better; 0: there is no pair."""
    if not margin:
        return {}
    return {"chosen": first, "rejected": second} if margin > 0 else {"chosen": second, "rejected": first}


def _numbered(values: Values) -> Values:
    better = values.get("better_response_id", values.get("safer_response_id"))
    if better not in (0, 1):
        raise UnreadableError(f"better_response_id must be 0 or 1, found {better!r:.60}")
    return _pair(values["response_0"], values["response_1"], 1 if better == 0 else -1)


def _lettered(values: Values) -> Values:
    first = _first_wins(values)
    pair = _pair(values["response_a"], values["response_b"], first - 0.5)
    return {**pair, "preference": max(first, 1 - first)} if pair else {}


def _arena(values: Values) -> Values:
    """Two conversations that differ in their last answers."""
    a, b = (_chat(values[name], name) for name in ("conversation_a", "conversation_b"))
    return {"prompt": a[:-1], **_pair(a, b, _first_wins(values) - 0.5)}


def _first_wins(values: Values) -> float:
    """P(the first is better), from a probability or the winner's name."""
    if isinstance(p := values.get("prob_b"), int | float) and 0 <= p <= 1:
        return 1 - p
    winner = str(values.get("winner", values.get("preference"))).lower()
    for name, p in (("a", 1.0), ("b", 0.0), ("tie", 0.5)):
        if winner in (name, f"model_{name}", f"response_{name}", f"{name} (bothbad)"):
            return p
    raise UnreadableError("expected prob_b in [0, 1], or a winner that is model_a, model_b or tie")


def _signed(values: Values) -> Values:
    """HelpSteer3: negative if the first is better."""
    strength = values["overall_preference"]
    if not isinstance(strength, int | float):
        raise UnreadableError(f"overall_preference must be a number, found {strength!r:.60}")
    return {"prompt": values["context"], **_pair(values["response1"], values["response2"], -strength)}


# -- answers with ratings or ranks ------------------------------------------------------------------------------------


def _completions(values: Values) -> Values:
    rated = [
        (one.get("response"), next((one[key] for key in ("fine-grained_score", "overall_score", "score", "rating")
                                    if isinstance(one.get(key), int | float)), None))
        for one in _objects(values["completions"], "completions")
    ]  # fmt: skip
    return {"prompt": values["instruction"], **_best_and_worst(rated)}


def _generations(values: Values) -> Values:
    answers, ratings = _chat(values["generations"], "generations"), _chat(values["ratings"], "ratings")
    if len(answers) != len(ratings):
        raise UnreadableError(f"generations and ratings must be as many, found {len(answers)} and {len(ratings)}")
    return {"prompt": values["instruction"], **_best_and_worst(list(zip(answers, ratings, strict=True)))}


def _ranked(values: Values) -> Values:
    rated = [(one.get("answer"), -rank if isinstance(rank := one.get("rank"), int | float) else None)
             for one in _objects(values["answers"], "answers")]  # fmt: skip
    pair = _best_and_worst(rated)
    prompt = values["prompt"]
    dialogue = isinstance(prompt, str) and TURN.match(prompt)
    answers = {name: pair[name] for name in ("chosen", "rejected") if name in pair}
    return {"prompt": _dialogue(prompt, "prompt", open_end=True) if dialogue else prompt, **answers}


def _helpfulness(values: Values) -> Values:
    rated = [(one.get("response"), one.get("helpfulness")) for one in _objects(values["response"], "response")]
    return _best_and_worst(rated)


def _best_and_worst(rated: Sequence[tuple[object, object]]) -> Values:
    known = [(score, answer) for answer, score in rated if isinstance(score, int | float) and score == score]
    if len({score for score, _ in known}) < 2:
        return {}
    (high, chosen), (low, rejected) = max(known, key=lambda one: one[0]), min(known, key=lambda one: one[0])
    return {"chosen": chosen, "rejected": rejected, "score_chosen": high, "score_rejected": low}


def _objects(value: object, column: str) -> list[Turn]:
    found = _chat(value, column)
    if not all(isinstance(one, dict) for one in found):
        raise UnreadableError(f"column {column!r} must be a list of objects")
    return [one for one in found if isinstance(one, dict)]


def _chat(value: object, column: str) -> list[object]:
    if not isinstance(value, list) or not value:
        raise UnreadableError(f"column {column!r} must be a list that is not empty, found {type(value).__name__}")
    return value


# -- exports of annotation tools --------------------------------------------------------------------------------------


def _voted(read: Callable[[Values], Comparison]) -> Callable[[Values], Values]:
    """The answer that most annotators prefer is `chosen`."""

    def pair(values: Values) -> Values:
        found = read(values)
        verdicts = [*found.verdicts.values()]
        first, second = verdicts.count("first"), verdicts.count("second")
        return {"prompt": found.prompt, **_pair(found.first, found.second, first - second)}

    return pair


SCHEMAS: dict[str, Schema] = {  # the first that fits is taken
    "argilla": Schema(ARGILLA, _voted(argilla), "fields → prompt and answers, most votes → chosen"),
    "label_studio": Schema(LABEL_STUDIO, _voted(label_studio), "data → prompt and answers, most votes → chosen"),
    "nectar": Schema(("prompt", "answers"), _ranked, "answers → chosen (best rank), rejected (worst)", asks=True),
    "ultrafeedback": Schema(
        ("instruction", "completions"), _completions,
        "instruction → prompt, completions → chosen (best rating), rejected (worst)",
    ),
    "ratings": Schema(
        ("instruction", "generations", "ratings"), _generations,
        "instruction → prompt, generations → chosen (best rating), rejected (worst)",
    ),
    "helpsteer": Schema(
        ("prompt", "response", "helpfulness"), _helpfulness,
        "responses to the same prompt → chosen (most helpful), rejected (least)",
    ),
    "helpsteer3": Schema(
        ("context", "response1", "response2", "overall_preference"), _signed,
        "context → prompt, overall_preference → chosen and rejected",
    ),
    "pku_saferlhf": Schema(
        ("prompt", "response_0", "response_1"), _numbered,
        "better_response_id (or safer_response_id) → chosen and rejected",
        uses=("better_response_id",),
    ),
    "response_a_b": Schema(
        ("prompt", "response_a", "response_b"), _lettered,
        "response_a and response_b → chosen and rejected by prob_b or winner",
        uses=("prob_b", "winner", "preference"),
    ),
    "arena": Schema(
        ("conversation_a", "conversation_b", "winner"), _arena, "conversations → prompt, winner → chosen and rejected"
    ),
    "hh": Schema(("chosen", "rejected"), _dialogues, "Human:/Assistant: turns → prompt, chosen, rejected"),
    "implicit": Schema(("chosen", "rejected"), _implicit, "the conversation in chosen and rejected → prompt"),
    "orca": Schema(("question",), _question, "question → prompt"),
    "sharegpt": Schema(("conversations",), _sharegpt, "conversations → prompt, the last answer → chosen"),
    "messages": Schema(("messages",), _turns_in("messages"), "messages → prompt, the last answer → chosen"),
    "lmsys": Schema(("conversation",), _turns_in("conversation"), "conversation → prompt, the last answer → chosen"),
    "completion": Schema(("prompt", "completion"), _completion, "completion → chosen"),
    "alpaca": Schema(("instruction", "output"), _alpaca, "instruction and input → prompt, output → chosen"),
}  # fmt: skip
