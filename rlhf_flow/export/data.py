"""The data of a run as rows that TRL reads: preference pairs, the best answers, and labels of single answers.

Each function yields the rows of one round after the other, so that memory holds one round. Conversations are lists of
{role, content}; every row ends with its provenance.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa

from rlhf_flow.export.rounds import Rounds
from rlhf_flow.selector.worth import win_rates
from rlhf_flow.stages.run_data import Answer, Messages
from rlhf_flow.types import Response, Scored

CHAT = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
RUN = [
    ("run", pa.string()),  # name of the folder
    ("round", pa.int32()),
    ("algorithm", pa.string()),
    ("judge", pa.string()),
    ("prompt_id", pa.string()),
]
ONE = [
    ("score", pa.float64()),  # the scorer's utility; null: it gave none
    ("win_rate", pa.float64()),  # against the other answers to the prompt; null: it was compared with none
    *RUN,
    ("response_id", pa.string()),
    ("source", pa.string()),  # policy, reference, mixture or dataset
    ("policy", pa.string()),  # sha256 of the policy that sampled it; null: it is from a data set
    ("truncated", pa.bool_()),
]
PAIRS = pa.schema(
    [
        *((name, CHAT) for name in ("prompt", "chosen", "rejected")),
        ("preference", pa.float64()),  # P(chosen beats rejected): 1/2 is a tie
        ("weight", pa.float64()),
        *((f"{side}_score", pa.float64()) for side in ("chosen", "rejected")),
        *RUN,
        *((f"{side}_{name}", pa.string()) for side in ("chosen", "rejected") for name in ("id", "source", "policy")),
    ]
)
SFT = pa.schema([("prompt", CHAT), ("completion", CHAT), *ONE])
LABELS = pa.schema([("prompt", CHAT), ("completion", CHAT), ("label", pa.bool_()), *ONE])
Row = dict[str, object]


def pairs(rounds: Rounds, count: Counter[str]) -> Iterator[Row]:
    """Rows of `PAIRS`: what the rounds trained on. `count` gets the number of `ties`.

    Raises ValueError if the run trains on groups or on single answers.
    """
    for round in rounds.numbers:
        answers, scores = rounds.answers(round), rounds.utilities(round)
        for pair in rounds.pairs(round):
            if pair.get("others") or pair["second"] is None:
                kind = "groups of answers" if pair.get("others") else "single answers"
                raise ValueError(f"{rounds.run} trains on {kind}, which are no pairs. Fix: {instead(rounds)}.")
            preference = pair["preference"]
            sides = (answers[pair["first"]], answers[pair["second"]])
            better, worse = sides if preference >= 0.5 else sides[::-1]
            count["ties"] += preference == 0.5
            yield {
                "prompt": better.messages,
                "chosen": better.turn,
                "rejected": worse.turn,
                "preference": max(preference, 1 - preference),
                "weight": pair["weight"],
                **_side("chosen", better, scores),
                **_side("rejected", worse, scores),
                **rounds.provenance,
                "round": round,
                "prompt_id": pair["prompt"],
            }


def _side(side: str, answer: Answer, scores: Mapping[str, float]) -> Row:
    return {
        f"{side}_score": _known(scores.get(answer.id, math.nan)),
        f"{side}_id": answer.id,
        f"{side}_source": answer.source,
        f"{side}_policy": answer.policy or None,
    }


def best_answers(rounds: Rounds, count: Counter[str]) -> Iterator[Row]:
    """Rows of `SFT`: for each prompt, the complete answer with the highest score of the last round that has one.

    `count` gets the number of `unanswered` prompts, which have no complete answer with a score.
    """
    best: dict[str, Row | None] = {}
    for round in rounds.numbers:
        for scored in rounds.scored(round):
            wins = _win_rates(scored)
            for b, (prompt, group) in enumerate(zip(scored.rollouts.prompts, scored.rollouts.responses, strict=True)):
                able = [k for k, one in enumerate(group) if not one.truncated and not math.isnan(scored.utility[b, k])]
                best.setdefault(prompt.id, None)
                if able:
                    k = max(able, key=scored.utility[b].__getitem__)
                    best[prompt.id] = _answer(rounds, round, scored, wins, b, k)
    count["unanswered"] += sum(row is None for row in best.values())
    yield from (row for row in best.values() if row is not None)


def labels(rounds: Rounds, count: Counter[str]) -> Iterator[Row]:
    """Rows of `LABELS`: every answer that beats the average of the answers to its prompt, or falls behind it.

    The label is whether its win rate against the others is above 1/2. `count` gets the number of `ties` at 1/2.
    """
    for round, scored in _all_scored(rounds):
        wins = _win_rates(scored)
        for b, group in enumerate(scored.rollouts.responses):
            for k in range(len(group)):
                count["ties"] += wins[b, k] == 0.5
                if not math.isnan(wins[b, k]) and wins[b, k] != 0.5:
                    yield {"label": bool(wins[b, k] > 0.5), **_answer(rounds, round, scored, wins, b, k)}


def instead(rounds: Rounds) -> str:
    """The export to make if there are no rows of another kind. A run without scores has none but its model."""
    has_labels = next(labels(rounds, Counter()), None) is not None
    return "export labels, which has every answer with its score" if has_labels else "export model"


def _all_scored(rounds: Rounds) -> Iterator[tuple[int, Scored]]:
    """The round in which scores arrived, and the scores."""
    for round in rounds.numbers:
        yield from ((round, scored) for scored in rounds.scored(round))
        yield from ((round, scored) for scored in rounds.late(round))


def _answer(rounds: Rounds, round: int, scored: Scored, wins: np.ndarray, b: int, k: int) -> Row:
    prompt, response = scored.rollouts.prompts[b], scored.rollouts.responses[b][k]
    return {
        "prompt": _messages(scored, b),
        "completion": [_turn(response)],
        "score": _known(scored.utility[b, k]),
        "win_rate": _known(wins[b, k]),
        **rounds.provenance,
        "round": round,
        "prompt_id": prompt.id,
        "response_id": response.id,
        "source": response.source,
        "policy": response.policy or None,
        "truncated": response.truncated,
    }


def _win_rates(scored: Scored) -> np.ndarray:
    """float64 [B, N]: as the selectors compute them; NaN for an answer that was compared with none."""
    compared = (~np.isnan(scored.wins)).sum(-1) > 1  # 1: with itself
    return np.where(compared, win_rates(scored, None), np.nan)


def _messages(scored: Scored, b: int) -> Messages:
    return [{"role": one.role, "content": one.content} for one in scored.rollouts.prompts[b].messages]


def _turn(response: Response) -> dict[str, str]:
    return {"role": "assistant", "content": response.text}


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
