"""Held-out prompts: is the new policy better than the start, how far did it go, and what did it become?

Each round answers the same prompts once; the judge compares every answer with the start's answer to the same prompt.
A reward model answers nothing: it says which of the answers that came with the prompts is better, and the judge has the
labels.
"""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations

import numpy as np
import pyarrow as pa

from rlhf_flow import rows
from rlhf_flow.learner.agreement import Verdicts, measure, reliability
from rlhf_flow.library import Library
from rlhf_flow.parts import Agreement, Evaluation, Parts
from rlhf_flow.protocols import Scorer
from rlhf_flow.scorer.gpm import log_odds
from rlhf_flow.seeds import derive
from rlhf_flow.store import Entry, Facts, Shelf
from rlhf_flow.tables import Shard, Table
from rlhf_flow.types import Message, Response, Rollouts, Scored

RESAMPLES = 2000  # bootstrap resamples over prompts


def evaluate(parts: Parts, round: int, library: Library) -> Entry | None:
    """Commit `evaluate` of a round: answers, comparison with the start, KL. None where this round is not evaluated.

    Metrics (design §7): win rate with a 95 % bootstrap interval over prompts, reward by the evaluation judge (and its
    aspects), `proxy` by the training judge where that is another, KL to the start where the answers are the policy's
    own, length, truncation, share of distinct answers, and what the evaluation judge says of all answers together.
    Those of a reward model: `rlhf_flow.learner.agreement.measure`.
    """
    due = round % parts.evaluation.every == 0 or round == parts.rounds
    if round > 0 and not parts.plan(round).evaluated:
        return None
    if not due or not parts.prompts.held_out():
        return None

    def write(shelf: Shelf) -> Facts:
        if isinstance(parts.evaluation, Agreement):
            return _agreement(parts, parts.evaluation.judge, round, library, shelf)
        return _better(parts, parts.evaluation, round, library, shelf)

    parts.progress(round, "evaluate", 0, 1, "rounds")
    entry = parts.ledger.commit(round, "evaluate", write)
    parts.progress(round, "evaluate", 1, 1, "rounds")
    return entry


def _better(parts: Parts, evaluation: Evaluation, round: int, library: Library, shelf: Shelf) -> Facts:
    policy, judge, draw = library[round], evaluation.judge, evaluation.draw
    seed = derive(parts.seed, "evaluate")  # held-out answers share no seed with the round's own
    answers = parts.engine.generate(parts.prompts.held_out(), policy, draw, round=round, seed=seed)
    shard = shelf.table("evaluation/answers", rows.from_rollouts(answers))
    start = answers if round == 0 else _answers(parts, 0)
    judged = judge.score(_side_by_side(start, answers))
    shelf.table("evaluation/compared", _compared(judged))
    metrics = {**_judged_metrics(judged, seed=seed), **_shape_metrics(answers)}
    queries = judged.counts.get("judge/queries", 0)
    if judge is not parts.scorer:
        proxy = parts.scorer.score(answers)
        asked = proxy.counts.get("judge/queries")
        if asked != 0 or proxy.counts.get("judge/cached"):  # a judge of pairs has nothing to say of one answer alone
            metrics |= _mean("eval/proxy", proxy.utility)
        queries += asked or 0
    if round > 0 and draw.is_policy_itself:  # other answers would make it no KL
        metrics["eval/kl"] = _kl(parts, round, library, shard)
    return _with_measures({**metrics, "eval/queries": queries}, judged)


def _agreement(parts: Parts, judge: Scorer, round: int, library: Library, shelf: Shelf) -> Facts:
    """What the reward model of a round says of the held-out answers, against the labels."""
    seed = derive(parts.seed, "evaluate")
    answers = parts.sampler.sample(parts.engine, parts.prompts.held_out(), {}, round=round, seed=seed)
    judged = judge.score(answers)
    shard = shelf.table("evaluation/answers", rows.from_rollouts(answers))
    ids = [response.id for group in answers.responses for response in group]
    read = parts.learner.logps([Table((shard,))], ids, library[round])["logps"].to_pylist()
    verdicts = _verdicts(judged, np.array(read, dtype=np.float64).reshape(*judged.utility.shape, -1))
    metrics: dict[str, float] = {"eval/queries": judged.counts.get("judge/queries", 0)}
    if verdicts.label.size:
        metrics |= {f"eval/{name}": value for name, value in measure(verdicts, seed=seed).items()}
        shelf.text("evaluation/reliability.json", json.dumps(reliability(verdicts), indent=1))
    return metrics


def _verdicts(judged: Scored, numbers: np.ndarray) -> Verdicts:
    """Of numbers [B, N, D]: every two different answers to a prompt, where the judge has a label."""
    by_reward = numbers.shape[-1] == 1
    groups: dict[tuple[Message, ...], int] = {}
    odds, label, longer, answers, prompts = [], [], [], [], []
    for b, (prompt, responses) in enumerate(zip(judged.rollouts.prompts, judged.rollouts.responses, strict=True)):
        group = groups.setdefault(prompt.messages, len(groups))
        for i, j in combinations(range(len(responses)), 2):
            one, other = responses[i], responses[j]
            if np.isnan(judged.wins[b, i, j]) or one.text == other.text:
                continue
            first, second = numbers[b, i], numbers[b, j]  # [D]
            odds.append(float(first[0] - second[0] if by_reward else log_odds(first, second)))
            label.append(float(judged.wins[b, i, j]))
            longer.append(len(one.tokens) - len(other.tokens))
            answers.append((one.text, other.text))
            prompts.append(group)
    return Verdicts(np.array(odds), np.array(label), np.array(longer, dtype=np.float64), answers, np.array(prompts))


def _answers(parts: Parts, round: int) -> Rollouts:
    entry = parts.ledger.entry(round, "evaluate")
    assert entry is not None, f"round {round} was not evaluated"
    answers, _ = parts.ledger.table(round, entry).shards  # in the order of their names: answers, compared
    return rows.to_rollouts(answers.read())


def _side_by_side(start: Rollouts, answers: Rollouts) -> Rollouts:
    """[B][2]: the start's answer, then the new one."""
    assert [prompt.id for prompt in start.prompts] == [prompt.id for prompt in answers.prompts]
    both = zip(start.responses, answers.responses, strict=True)
    return replace(answers, responses=tuple((old[0], new[0]) for old, new in both))


def _judged_metrics(judged: Scored, *, seed: int) -> dict[str, float]:
    metrics = _mean("eval/reward", judged.utility[:, 1])
    for name, values in judged.aspects.items():
        metrics |= _mean(f"eval/aspect/{name}", values[:, 1])
    wins = judged.wins[:, 1, 0]  # [B]
    wins = wins[~np.isnan(wins)]
    if wins.size:
        low, high = bootstrap(wins, seed=seed)
        metrics |= {"eval/win_rate": float(wins.mean()), "eval/win_rate_low": low, "eval/win_rate_high": high}
    return metrics


def _mean(name: str, values: np.ndarray) -> dict[str, float]:
    """The mean without abstentions; nothing where there is nothing else."""
    known = values[~np.isnan(values)]
    return {name: float(known.mean())} if known.size else {}


def _with_measures(metrics: dict[str, float], judged: Scored) -> dict[str, float]:
    """The metrics, and those of the judge's own. Raises ValueError where it calls one as evaluation calls another."""
    measures = {f"eval/{name}": float(value) for name, value in judged.measures.items()}
    if taken := sorted(metrics.keys() & measures.keys()):
        raise ValueError(
            f"what evaluate.scorer measures must not be called {', '.join(taken)}: so is a measure of the evaluation "
            "itself. Rename it."
        )
    return metrics | measures


def bootstrap(values: np.ndarray, *, seed: int) -> tuple[float, float]:
    """A 95 % percentile interval of the mean, resampling the values [B]."""
    generator = np.random.default_rng(seed)
    picks = generator.integers(0, values.size, size=(RESAMPLES, values.size))
    low, high = np.quantile(values[picks].mean(-1), [0.025, 0.975])
    return float(low), float(high)


def _shape_metrics(answers: Rollouts) -> dict[str, float]:
    responses = [group[0] for group in answers.responses]
    return {
        "eval/length": float(np.mean([len(response.tokens) for response in responses])),
        "eval/truncated": float(np.mean([response.truncated for response in responses])),
        "eval/distinct": len({response.text for response in responses}) / len(responses),
    }


def _compared(judged: Scored) -> pa.Table:
    """One row per held-out prompt, for the report and for people."""

    def row(b: int, start: Response, answer: Response) -> dict[str, object]:
        prompt = judged.rollouts.prompts[b]
        return {
            "prompt_id": prompt.id,
            "prompt": prompt.messages[-1].content,
            "start": start.text,
            "answer": answer.text,
            "win": float(judged.wins[b, 1, 0]),
            "utility": float(judged.utility[b, 1]),
            "start_utility": float(judged.utility[b, 0]),
            "length": len(answer.tokens),
            "truncated": answer.truncated,
        }

    return pa.Table.from_pylist([row(b, *both) for b, both in enumerate(judged.rollouts.responses)])


def _kl(parts: Parts, round: int, library: Library, answers: Shard) -> float:
    """Mean over held-out samples of sum_t (log pi - log pi_0) at T=1, by the learner. May be negative."""
    table = Table((answers,))
    ids = table.read(["response"])["response"].to_pylist()

    def summed(version: int) -> np.ndarray:
        logps = parts.learner.logps([table], ids, library[version])
        return np.asarray([sum(values) for values in logps["logps"].to_pylist()])

    return float((summed(round) - summed(0)).mean())
