"""A judge of pairs that asks a stub, and what it spent."""

from __future__ import annotations

from pathlib import Path

from rlhf_flow.scorer.llm.budget import Budget, Spent
from rlhf_flow.scorer.llm.endpoint import Endpoint
from rlhf_flow.scorer.llm.judge import Judge, PairJudge
from rlhf_flow.specs import Place
from rlhf_flow.types import Rollouts, Scored
from tests.support.stub_endpoint import Behaviour, Said, Stub, says

TEMPLATE = "{conversation}##{first}##{second}"
CALL = 11  # tokens that a stub says a call took


def answers(question: str) -> tuple[str, str]:
    _, first, second = question.split("##")
    return first, second


def later_wins(question: str, before: int) -> Said:
    """Says the letter of the answer that stands later in the alphabet, and C for equal initials."""
    first, second = answers(question)
    return says("C" if first[0] == second[0] else "A" if first > second else "B")


def judge(
    url: str,
    folder: Path,
    *,
    endpoint: dict[str, object] | None = None,
    fields: dict[str, object] | None = None,
    **budget: object,
) -> Judge:
    (folder / "template.txt").write_text(TEMPLATE)
    return Judge(
        "m",
        **(fields or {}),
        template=str(folder / "template.txt"),
        endpoint=Endpoint(url, **{"patience_seconds": 120, "timeout_seconds": 20, **(endpoint or {})}),
        budget=Budget(**{"account": "run", "cache": str(folder / "cache.sqlite"), **budget}),
    )


def opened(url: str, folder: Path, **fields: object) -> PairJudge:
    spec = judge(url, folder, **fields)
    spec.check()
    return spec.open(Place())


def scored(behaviour: Behaviour, folder: Path, asked: Rollouts, **fields: object) -> Scored:
    with Stub(behaviour) as stub:
        return opened(stub.url, folder, **fields).score(asked)


def spent(folder: Path) -> Spent:
    held = judge("http://127.0.0.1:1", folder).budget.open()
    try:
        return held.spent
    finally:
        held.close()
