"""Questions of one or more turns, from the files of benchmarks or held out by a run, and the answers to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rlhf_flow.config.schema import RunConfig
from rlhf_flow.evaluation.answers import Answers, answers
from rlhf_flow.evaluation.contestants import Contestant
from rlhf_flow.prompts.bad_rows import BadRowError
from rlhf_flow.prompts.files import read
from rlhf_flow.prompts.limits import Limits
from rlhf_flow.prompts.parse import Row
from rlhf_flow.report.format import slug
from rlhf_flow.storage.jsonl import write_lines

NO_REPLY = "(no answer)"  # what a later turn shows of an empty reply: a chat cannot hold one


@dataclass(frozen=True)
class Question:
    """What the user says, turn by turn. `row`: the question as its file has it."""

    id: str
    turns: tuple[str, ...]
    row: Mapping[str, object]


@dataclass(frozen=True)
class Dialogue:
    """A question and the replies of one contestant, one for each turn."""

    question: Question
    replies: tuple[str, ...] = ()
    tokens: int = 0  # of all replies


def read_rows(path: Path, key: str) -> list[Row]:
    """The rows of a file of JSON lines, JSON, CSV or parquet. Raises ValueError if one cannot be read."""
    rows = []
    for row in read(str(path), key, Limits()):
        if isinstance(row, BadRowError):
            raise row
        rows.append(row)
    return rows


def read_questions(path: Path) -> list[Question]:
    """The questions of AlpacaEval, MT-Bench or Arena-Hard, or of a file with a column `prompt`.

    Raises ValueError if a row has no text, or if two rows have the same id.
    """
    found: dict[str, Question] = {}
    for row in read_rows(path, "--prompts"):
        values = row.values
        turns = values.get("turns", [values.get("instruction", values.get("prompt"))])
        texts = [
            one.get("content") if isinstance(one, dict) else one for one in (turns if isinstance(turns, list) else [])
        ]
        if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
            raise row.error("expected a text in the column turns, instruction or prompt", "correct the row")
        id = str(values.get("question_id", values.get("uid", row.number)))
        if id in found:
            raise row.error(f"another row has the id {id!r}, too", "give every row its own id")
        found[id] = Question(id, tuple(map(str, texts)), values)
    return list(found.values())


def dialogues(
    contestants: Sequence[Contestant], config: RunConfig, *, prompts: Path | None, out: Path
) -> dict[str, list[Dialogue]]:
    """The answers of each contestant, by name, to the questions of a file; None: to the run's held-out prompts.

    Of a held-out chat of several turns, the question is its last turn. Every later turn of a question is asked after
    the contestant's own replies to the earlier ones.
    """
    if prompts is None:
        given = answers(contestants, config, prompts=None, out=out)
        return {one.name: [_held_out(one, at) for at in range(len(one.rollouts.prompts))] for one in given}
    held: dict[str, list[Dialogue]] = {
        one.name: [Dialogue(question) for question in read_questions(prompts)] for one in contestants
    }
    for turn in range(max(len(each.question.turns) for each in held[contestants[0].name])):
        files = {name: _write(out / "questions", name, turn, each) for name, each in held.items()}
        for given_answers in answers(contestants, config, prompts=files, out=out):
            held[given_answers.name] = _extended(held[given_answers.name], given_answers)
    return held


def _held_out(one: Answers, at: int) -> Dialogue:
    prompt, (response,) = one.rollouts.prompts[at], one.rollouts.responses[at]
    question = Question(prompt.id, (prompt.messages[-1].content,), prompt.meta)
    return Dialogue(question, (response.text,), len(response.tokens))


def _write(folder: Path, name: str, turn: int, held: Sequence[Dialogue]) -> Path:
    """The file of prompts of a turn: the conversation so far, of the questions that have this turn."""
    lines = []
    for one in held:
        asked = one.question.turns
        if turn < len(asked):
            pairs = zip(asked[:turn], one.replies, strict=True)
            said = [
                part for user, reply in pairs for part in (("user", user), ("assistant", reply.strip() or NO_REPLY))
            ]
            chat = [{"role": role, "content": text} for role, text in (*said, ("user", asked[turn]))]
            lines.append({"id": one.question.id, "prompt": chat})
    return write_lines(folder / f"{slug(name)}-{turn + 1}.jsonl", lines)


def _extended(held: Sequence[Dialogue], given: Answers) -> list[Dialogue]:
    replies = {
        prompt.id: response
        for prompt, (response,) in zip(given.rollouts.prompts, given.rollouts.responses, strict=True)
    }
    return [
        replace(one, replies=(*one.replies, reply.text), tokens=one.tokens + len(reply.tokens))
        if (reply := replies.get(one.question.id)) is not None
        else one
        for one in held
    ]
