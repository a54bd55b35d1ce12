"""Records exported from Argilla or Label Studio: two answers and the verdict of each annotator."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

ARGILLA = ("fields", "responses")  # the columns of a record
LABEL_STUDIO = ("data", "annotations")
ANSWERS = ("response", "answer", "completion", "generation", "chosen", "rejected", "output")  # prefixes of names
PROMPTS = ("prompt", "instruction", "question", "messages", "conversation", "input", "text")
TIES = ("tie", "both", "equal", "same", "neutral", "none")
SIDES = {"left": "first", "right": "second", "a": "first", "b": "second", "1": "first", "2": "second"}


class NoComparisonError(ValueError):
    """A record does not compare two answers."""


@dataclass(frozen=True)
class Comparison:
    """Two answers to a prompt, and the annotators' verdicts."""

    prompt: object  # a text or a list of {role, content}
    first: object
    second: object
    verdicts: Mapping[str, str]  # annotator -> first, second, tie or skip


def comparison(values: Mapping[str, object]) -> Comparison | None:
    """The comparison of a record; None if it is a record of neither tool. Raises NoComparisonError if it has none."""
    if set(ARGILLA) <= values.keys():
        return argilla(values)
    return label_studio(values) if set(LABEL_STUDIO) <= values.keys() else None


def argilla(values: Mapping[str, object]) -> Comparison:
    """A record of Argilla 1 or 2: `fields`, and `responses` by question or by annotator."""
    fields = values["fields"]
    if not isinstance(fields, dict):
        raise NoComparisonError("`fields` must be an object")
    prompt, (first, second) = _texts(fields)
    verdicts = {}
    for annotator, value, submitted in _responses(values["responses"]):
        if submitted:
            verdicts[annotator] = _verdict(value, first, second)
    return Comparison(fields[prompt], fields[first], fields[second], verdicts)


def label_studio(values: Mapping[str, object]) -> Comparison:
    """A task of Label Studio (export format JSON) with a pairwise comparison or a choice."""
    data, annotations = values["data"], values["annotations"]
    if not isinstance(data, dict) or not isinstance(annotations, list):
        raise NoComparisonError("`data` must be an object and `annotations` a list")
    names: tuple[str, str] | None = None
    verdicts = {}
    for annotation in annotations:
        by = annotation.get("completed_by")
        annotator = str(by.get("email", by.get("id")) if isinstance(by, dict) else by)
        if annotation.get("was_cancelled"):
            verdicts[annotator] = "skip"
            continue
        for result in annotation.get("result", []):
            to = str(result.get("to_name", "")).split(",")
            if len(to) == 2 and set(to) <= data.keys():
                names = (to[0], to[1])
            value = result.get("value", {})
            chosen = value.get("selected", value.get("choices"))
            if chosen is not None:
                verdicts[annotator] = _verdict(chosen, *(names or _texts(data)[1]))
    prompt, found = _texts(data)
    first, second = names or found
    return Comparison(data[prompt], data[first], data[second], verdicts)


def _texts(fields: Mapping[str, object]) -> tuple[str, tuple[str, str]]:
    """The names of the prompt and of the two answers, in the order of the record."""
    answers = [name for name in fields if name.lower().startswith(ANSWERS)]
    prompts = [name for name in fields if name not in answers]
    prompts.sort(key=lambda name: not name.lower().startswith(PROMPTS))
    if len(answers) != 2 or not prompts:
        raise NoComparisonError(
            f"expected a prompt and two answers (named {', '.join(ANSWERS)}), found {', '.join(fields) or 'nothing'}"
        )
    return prompts[0], (answers[0], answers[1])


def _responses(responses: object) -> Iterator[tuple[str, object, bool]]:
    """Annotator, value, and whether it was submitted."""
    if isinstance(responses, dict):  # question -> responses; the first question compares
        for one in next(iter(responses.values()), None) or []:
            yield _annotator(one), one.get("value"), one.get("status", "submitted") == "submitted"
    for one in responses if isinstance(responses, list) else []:  # one for each annotator
        value: object = next(iter((one.get("values") or {}).values()), None)
        submitted = one.get("status", "submitted") == "submitted"
        yield _annotator(one), value.get("value") if isinstance(value, dict) else value, submitted


def _annotator(response: Mapping[str, object]) -> str:
    return str(response.get("user_id") or response.get("user") or "argilla")


def _verdict(value: object, first: str, second: str) -> str:
    """first, second or tie. `value`: the name of an answer, or a ranking [{value, rank}, ...]."""
    if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
        ranks = {str(one.get("value")): one.get("rank") for one in value}
        one, other = ranks.get(first), ranks.get(second)
        if not isinstance(one, int) or not isinstance(other, int):
            raise NoComparisonError(f"expected ranks of {first!r} and {second!r}, found {ranks}")
        return "tie" if one == other else "first" if one < other else "second"
    name = str(value[0] if isinstance(value, list) and len(value) == 1 else value)
    if name in (first, second):
        return "first" if name == first else "second"
    short = name.lower()
    if short.startswith(TIES):
        return "tie"
    if short in SIDES:
        return SIDES[short]
    raise NoComparisonError(f"expected {first!r}, {second!r} or tie as the better answer, found {name!r:.60}")
