"""Held-out prompts: is the new policy better than the start, how far did it go, and what did it become?

Each round answers the same prompts once; the judge compares every answer with the start's answer to the same prompt,
and so does the judge of training where it is another: what only that one likes was learned for its sake.
A reward model answers nothing: it says which of the answers that came with the prompts is better, and the judge has the
labels.
"""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations

import numpy as np
import pyarrow as pa

from rlhf_flow.metrics.alarms import PREFIX, check_silence, tripped
from rlhf_flow.metrics.reward_accuracy import Verdicts, measure, reliability
from rlhf_flow.metrics.win_rate import gap, length_controlled, length_drift, win_rate
from rlhf_flow.prompts.pairwise import row_of
from rlhf_flow.protocols import Scorer
from rlhf_flow.scorer.models.gpm import log_odds
from rlhf_flow.seeds import derive
from rlhf_flow.stages.context import Agreement, Evaluation, RunContext
from rlhf_flow.stages.policies import PolicyRegistry
from rlhf_flow.storage import parquet as rows
from rlhf_flow.storage.store import StageFacts, StageRecord, StageWriter
from rlhf_flow.storage.tables import Shard, Table
from rlhf_flow.types import Message, Response, Rollouts, Scored

STEPS = 4  # of an evaluation, for the terminal: answer, judge, ask the judge of training, read log-probs
GRAM = 4  # tokens that must follow each other again to count as repeated


def evaluate(parts: RunContext, round: int, library: PolicyRegistry) -> StageRecord | None:
    """Commit `evaluate` of a round: answers, comparison with the start, KL. None where this round is not evaluated.

    A policy whose weights are the start's has the start's answers: its win rate is that of equal answers.

    Metrics (design §7), intervals being 95 % bootstraps over prompts, `_low` and `_high`:

    win_rate, win_rate_length_controlled   by the evaluation judge, against the start (`rlhf_flow.metrics.win_rate`)
    reward, aspect/<name>                  by the evaluation judge; and what it measures of all answers together
    proxy, proxy_win_rate                  reward and win rate by the training judge, where that is another
    proxy_gap                              how much higher the win rate is by the training judge, with its interval
    judges_agree                           share of prompts of which both judges prefer the same answer, with its
                                           interval; a tie by either counts as half
    length, length_drift                   tokens; as a multiple of the start's, with its interval
    truncated, distinct                    shares of the answers
    repetition                             share of the 4-grams (of tokens) of an answer that it had before: mean over
                                           answers
    topk_entropy, topk_mass                of the likeliest next tokens (`Learner.spread`): mean over the positions of
                                           an answer, then over answers
    kl                                     to the start, where the answers are the policy's own

    judge/<count>, proxy_judge/<count>     what these judges count: asked, verdicts, calls, ...

    and alarm/<name> = 1 for what tripped (`rlhf_flow.metrics.alarms`). Those of a reward model:
    `rlhf_flow.metrics.reward_accuracy.measure`.
    """
    due = round % parts.evaluation.every == 0 or round == parts.rounds
    if round > 0 and not parts.plan(round).evaluated:
        return None
    if not due or not parts.prompts.held_out():
        return None

    def write(shelf: StageWriter) -> StageFacts:
        if isinstance(parts.evaluation, Agreement):
            return _agreement(parts, parts.evaluation.judge, round, library, shelf)
        return _better(parts, parts.evaluation, round, library, shelf)

    parts.progress(round, "evaluate", 0, STEPS, "steps")
    entry = parts.ledger.commit(round, "evaluate", write)
    parts.progress(round, "evaluate", STEPS, STEPS, "steps")
    return entry


def _better(
    parts: RunContext, evaluation: Evaluation, round: int, library: PolicyRegistry, shelf: StageWriter
) -> StageFacts:
    policy, judge, draw = library[round], evaluation.judge, evaluation.draw
    seed = derive(parts.seed, "evaluate")  # held-out answers share no seed with the round's own
    start = _answers(parts, 0) if round > 0 else None
    if start is not None and policy.sha256 == library[0].sha256:
        answers = start  # unchanged weights compare as 1/2: other samples of theirs would add noise and no news
    else:
        answers = parts.engine.generate(parts.prompts.held_out(), policy, draw, round=round, seed=seed)
    parts.progress(round, "evaluate", 1, STEPS, "steps", "judging")
    shard = shelf.table("evaluation/answers", rows.from_rollouts(answers))
    start = start or answers
    both = _side_by_side(start, answers)
    judged = judge.score(both)
    check_silence(judged.counts, parts.alarms.silent_judge, slot="evaluate.scorer")
    shelf.table("evaluation/compared", _compared(judged))
    metrics = {**_judged_metrics(judged, seed=seed), **_shape_metrics(both, seed=seed), **_counts("judge", judged)}
    queries = judged.counts.get("judge/queries", 0)
    parts.progress(round, "evaluate", 2, STEPS, "steps", "asking the judge of training")
    if judge is not parts.scorer and evaluation.asks_proxy:
        proxy = parts.scorer.score(both)
        metrics |= _proxy_metrics(proxy, judged, seed=seed) | _counts("proxy_judge", proxy)
        queries += proxy.counts.get("judge/queries", 0)
    parts.progress(round, "evaluate", 3, STEPS, "steps", "reading log-probs")
    metrics |= _policy_metrics(parts, round, library, shard, own=draw.is_on_policy)
    metrics = _with_measures({**metrics, "eval/queries": queries}, judged)
    history = [*(record.metrics for record in parts.ledger.records), metrics]
    return metrics | {f"{PREFIX}{alarm.name}": 1 for alarm in tripped(history, parts.alarms)}


def _agreement(parts: RunContext, judge: Scorer, round: int, library: PolicyRegistry, shelf: StageWriter) -> StageFacts:
    """What the reward model of a round says of the held-out answers, against the labels."""
    seed = derive(parts.seed, "evaluate")
    answers = parts.sampler.sample(parts.engine, parts.prompts.held_out(), {}, round=round, seed=seed)
    judged = judge.score(answers)
    shard = shelf.table("evaluation/answers", rows.from_rollouts(answers))
    ids = [response.id for group in answers.responses for response in group]
    read = parts.learner.logps([Table((shard,))], ids, library[round])["logps"].to_pylist()
    verdicts = _verdicts(judged, np.array(read, dtype=np.float64).reshape(*judged.utility.shape, -1))
    metrics: dict[str, float] = {"eval/queries": judged.counts.get("judge/queries", 0), **_counts("judge", judged)}
    if verdicts.label.size:
        metrics |= {f"eval/{name}": value for name, value in measure(verdicts, seed=seed).items()}
        shelf.text("evaluation/reliability.json", json.dumps(reliability(verdicts), indent=1))
    return metrics


def _verdicts(judged: Scored, numbers: np.ndarray) -> Verdicts:
    """Of numbers [B, N, D]: every two different answers to a prompt, where the judge has a label."""
    by_reward = numbers.shape[-1] == 1
    groups: dict[tuple[Message, ...], int] = {}
    comparisons: dict[tuple[int, str, int, int], int] = {}  # a judge that compares is asked in both orders
    odds, label, longer, answers, prompts, asked = [], [], [], [], [], []
    for b, (prompt, responses) in enumerate(zip(judged.rollouts.prompts, judged.rollouts.responses, strict=True)):
        group = groups.setdefault(prompt.messages, len(groups))
        for i, j in combinations(range(len(responses)), 2):
            one, other = responses[i], responses[j]
            if np.isnan(judged.wins[b, i, j]) or one.text == other.text:
                continue
            first, second = numbers[b, i], numbers[b, j]  # [D]
            odds.append(float(first[0] - second[0] if by_reward else log_odds(first, second)))
            label.append(float(judged.wins[b, i, j]))
            longer.append(len(one.text) - len(other.text))
            answers.append((one.text, other.text))
            prompts.append(group)
            asked.append(comparisons.setdefault((group, row_of(prompt.id), i, j), len(comparisons)))
    lengths = np.array(longer, dtype=np.float64)
    return Verdicts(np.array(odds), np.array(label), lengths, answers, np.array(prompts), np.array(asked))


def _answers(parts: RunContext, round: int) -> Rollouts:
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
    wins, (start, new) = judged.wins[:, 1, 0], _lengths(judged.rollouts)  # [B] each
    metrics |= win_rate("eval/win_rate", wins, seed=seed)
    controlled = length_controlled(wins, new - start)
    return metrics if controlled is None else metrics | {"eval/win_rate_length_controlled": controlled}


def _counts(name: str, judged: Scored) -> dict[str, float]:
    """What a judge counts, as metrics of the evaluation."""
    return {f"eval/{name}/{key.removeprefix('judge/')}": float(number) for key, number in judged.counts.items()}


def _proxy_metrics(proxy: Scored, judged: Scored, *, seed: int) -> dict[str, float]:
    theirs, wins = proxy.wins[:, 1, 0], judged.wins[:, 1, 0]  # [B] each
    return {
        **_mean("eval/proxy", proxy.utility[:, 1]),
        **win_rate("eval/proxy_win_rate", theirs, seed=seed),
        **gap("eval/proxy_gap", theirs, wins, seed=seed),
        **win_rate("eval/judges_agree", (1 + np.sign(theirs - 0.5) * np.sign(wins - 0.5)) / 2, seed=seed),
    }


def _mean(name: str, values: np.ndarray) -> dict[str, float]:
    """The mean without abstentions; nothing where there is nothing else."""
    known = values[~np.isnan(values)]
    return {name: float(known.mean())} if known.size else {}


def _with_measures(metrics: dict[str, float], judged: Scored) -> dict[str, float]:
    """The metrics, and those of the judge's own. Raises ValueError where it calls one as evaluation calls another."""
    measures = {f"eval/{name}": float(value) for name, value in judged.batch_metrics.items()}
    if taken := sorted(metrics.keys() & measures.keys()):
        raise ValueError(
            f"what evaluate.scorer measures must not be called {', '.join(taken)}: so is a measure of the evaluation "
            "itself. Rename it."
        )
    return metrics | measures


def _lengths(both: Rollouts) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of the start's answers and of the new ones, float64 [B] each."""
    lengths = np.array([[len(response.tokens) for response in group] for group in both.responses], dtype=np.float64)
    return lengths[:, 0], lengths[:, 1]


def _shape_metrics(both: Rollouts, *, seed: int) -> dict[str, float]:
    responses, (start, new) = [group[1] for group in both.responses], _lengths(both)
    return {
        "eval/length": float(new.mean()),
        **length_drift("eval/length_drift", start, new, seed=seed),
        "eval/truncated": float(np.mean([response.truncated for response in responses])),
        "eval/distinct": len({response.text for response in responses}) / len(responses),
        "eval/repetition": float(np.mean([_repetition(response.tokens) for response in responses])),
    }


def _repetition(tokens: np.ndarray) -> float:
    """Share of the 4-grams of an answer that it had before; 0 for an answer without any."""
    grams = list(zip(*(tokens[at:].tolist() for at in range(GRAM)), strict=False))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


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


def _policy_metrics(
    parts: RunContext, round: int, library: PolicyRegistry, answers: Shard, *, own: bool
) -> dict[str, float]:
    """What the learner says of the held-out answers, at T=1; the KL to the start only of the policy's `own` ones.

    KL: mean over the answers of sum_t (log pi - log pi_0). May be negative.
    """
    table = Table((answers,))
    ids = table.read(["response"])["response"].to_pylist()
    seen = parts.learner.spread([table], ids, library[round])
    metrics: dict[str, float] = {}
    for name in ("entropy", "mass"):
        means = [np.mean(values) for values in seen[name].to_pylist() if values]
        metrics |= _mean(f"eval/topk_{name}", np.array(means))
    if round > 0 and own:
        start = parts.learner.logps([table], ids, library[0])
        metrics["eval/kl"] = float((_summed(seen) - _summed(start)).mean())
    return metrics


def _summed(logps: pa.Table) -> np.ndarray:
    return np.asarray([sum(values) for values in logps["logps"].to_pylist()])
