"""Answers in the files that AlpacaEval, MT-Bench and Arena-Hard judge.

AlpacaEval: https://github.com/tatsu-lab/alpaca_eval. MT-Bench: `fastchat/llm_judge` of
https://github.com/lm-sys/FastChat. Arena-Hard: https://github.com/lmarena/arena-hard-auto.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rlhf_flow.evaluation.questions import Dialogue
from rlhf_flow.report.format import slug
from rlhf_flow.storage.jsonl import write_lines
from rlhf_flow.system.files import write_text


def export(form: str, name: str, answered: Sequence[Dialogue], out: Path) -> Path:
    """Write the answers of one contestant in the format `form`, a key of `FORMATS`. Returns the path.

    The benchmarks call the model by the name of the file.
    """
    return FORMATS[form](slug(name), answered, out)


def _alpaca_eval(name: str, answered: Sequence[Dialogue], out: Path) -> Path:
    """One list; `dataset` is that of the question, if it has one."""
    rows = [
        {
            **{key: one.question.row[key] for key in ("dataset",) if key in one.question.row},
            "instruction": one.question.turns[0],
            "output": one.replies[0],
            "generator": name,
        }
        for one in answered
    ]
    path = out / "alpaca_eval" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    return path


def _mt_bench(name: str, answered: Sequence[Dialogue], out: Path) -> Path:
    rows = [_by_question(name, one, list(one.replies)) for one in answered]
    return write_lines(out / "mt_bench" / "model_answer" / f"{name}.jsonl", rows)


def _arena_hard(name: str, answered: Sequence[Dialogue], out: Path) -> Path:
    """Questions with a `question_id` are of its first layout, those with a `uid` of the present one."""
    rows = [_of_arena(name, one) for one in answered]
    return write_lines(out / "arena_hard" / "model_answer" / f"{name}.jsonl", rows)


def _of_arena(name: str, one: Dialogue) -> dict[str, object]:
    if "question_id" in one.question.row:
        return _by_question(name, one, [{"content": reply, "token_len": one.tokens} for reply in one.replies])
    pairs = zip(one.question.turns, one.replies, strict=True)
    said = [part for user, reply in pairs for part in (("user", user), ("assistant", {"answer": reply}))]
    return {
        "uid": one.question.id,
        "ans_id": _id(name, one),
        "model": name,
        "messages": [{"role": role, "content": content} for role, content in said],
        "tstamp": time.time(),
        "metadata": {"token_len": one.tokens},
    }


def _by_question(name: str, one: Dialogue, turns: Sequence[object]) -> dict[str, object]:
    """A row of MT-Bench, which Arena-Hard had at first, too."""
    return {
        "question_id": one.question.row.get("question_id", one.question.id),
        "answer_id": _id(name, one),
        "model_id": name,
        "choices": [{"index": 0, "turns": list(turns)}],
        "tstamp": time.time(),
    }


def _id(name: str, one: Dialogue) -> str:
    return hashlib.sha256(json.dumps([name, one.question.id, *one.replies]).encode()).hexdigest()[:22]


FORMATS: dict[str, Callable[[str, Sequence[Dialogue], Path], Path]] = {
    "alpaca_eval": _alpaca_eval,
    "mt_bench": _mt_bench,
    "arena_hard": _arena_hard,
}
