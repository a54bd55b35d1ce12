"""The stage evaluate: is the new policy better than the start, and how did its responses change?

Each evaluated round answers the same held-out prompts once. The evaluation scorer compares each response with the
start's response to the same prompt, and so does the scorer of training if it is another. For a reward model, the scorer
has the labels of responses that came with the prompts, and the reward model predicts them.
"""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations

import numpy as np
import pyarrow as pa

from rlhf_flow.metrics.alarms import PREFIX, tripped
from rlhf_flow.metrics.reward_accuracy import Verdicts, measure, reliability
from rlhf_flow.metrics.silent_judge import check_silence
from rlhf_flow.metrics.stats import mean_with_interval, share_with_interval, with_interval
from rlhf_flow.metrics.win_rate import gap, length_controlled, length_drift, win_rate
from rlhf_flow.prompts.pairwise import row_of
from rlhf_flow.scorer.models.gpm import LogOdds, log_odds
from rlhf_flow.scorer.models.reward_mixture import mixture_odds
from rlhf_flow.seeds import derive
from rlhf_flow.stages import ask_policy
from rlhf_flow.stages.by_source import win_rates
from rlhf_flow.stages.context import Agreement, Evaluation, Likelihood, RunContext
from rlhf_flow.stages.earlier_rounds import change, drop, evaluated
from rlhf_flow.stages.held_out_loss import evaluate_likelihood
from rlhf_flow.stages.policies import PolicyRegistry
from rlhf_flow.storage import parquet as rows
from rlhf_flow.storage.store import StageFacts, StageRecord, StageWriter
from rlhf_flow.storage.tables import Shard, Table
from rlhf_flow.types import Message, Rollouts, Scored

STEPS = 4  # of the progress: generate, score, score by the scorer of training, compute log-probs
GRAM = 4  # tokens of an n-gram, for repetition


def evaluate(context: RunContext, round: int, policies: PolicyRegistry) -> StageRecord | None:
    """Commit the stage `evaluate`. None if this round is not evaluated.

    If the policy's weights are the start's, the start's responses are used again: the win rate is 1/2.

    Metrics, under `eval/`; `_low` and `_high` are 95 % intervals over prompts:

    win_rate, win_rate_length_controlled   by the evaluation scorer, against the start (`rlhf_flow.metrics.win_rate`)
    win_rate_drop                          the best earlier win rate minus this one, paired by prompt; with an interval
                                           that covers all comparisons of a run's rounds at 95 %
    win_rate_change                        this win rate minus that of the last evaluated round, paired by prompt
    reward, aspect/<name>                  by the evaluation scorer; and its own `batch_metrics`
    proxy, proxy_win_rate                  reward and win rate by the scorer of training, if it is another
    proxy_gap                              proxy_win_rate - win_rate
    judges_agree                           share of prompts for which both scorers prefer the same response; a tie of
                                           either counts 1/2
    length                                 tokens: mean
    length_drift                           tokens as a multiple of the start's: geometric mean over prompts; with an
                                           interval that covers all rounds of a run at 95 %
    truncated, distinct                    shares of the responses
    repetition                             share of a response's 4-grams of tokens that occur earlier in it: mean
    topk_entropy, topk_mass                of the likeliest next tokens (`Learner.spread`): mean over the positions of a
                                           response, then over responses
    kl                                     to the start, if responses are sampled on-policy
    coverage                               likewise: the overlap of both policies, the mean of min(1, pi_0 / pi)
    judge/<count>, proxy_judge/<count>     the counts of both scorers: asked, verdicts, calls, ...

    and alarm/<name> = 1 for each alarm that trips (`rlhf_flow.metrics.alarms`). For those of a reward model see
    `rlhf_flow.metrics.reward_accuracy.measure`, for those of evaluate.by=likelihood `rlhf_flow.stages.held_out_loss`.
    """
    due = round % context.evaluation.every == 0 or round == context.rounds
    if round > 0 and not context.plan(round).evaluated:
        return None
    if not due or not context.prompts.held_out():
        return None

    def write(writer: StageWriter) -> StageFacts:
        if isinstance(context.evaluation, Agreement):
            return _evaluate_reward_model(context, context.evaluation, round, policies, writer)
        if isinstance(context.evaluation, Likelihood):
            return evaluate_likelihood(context, context.evaluation, round, policies, writer)
        return _evaluate_policy(context, context.evaluation, round, policies, writer)

    context.progress(round, "evaluate", 0, STEPS, "steps")
    record = context.ledger.commit(round, "evaluate", write)
    context.progress(round, "evaluate", STEPS, STEPS, "steps")
    return record


def _evaluate_policy(
    context: RunContext, evaluation: Evaluation, round: int, policies: PolicyRegistry, writer: StageWriter
) -> StageFacts:
    policy, draw = policies[round], evaluation.draw
    seed = derive(context.seed, "evaluate")  # independent of the seeds of rounds
    start = _start_answers(context) if round > 0 else None
    if start is not None and policy.sha256 == policies[0].sha256:
        answers = start  # the same weights: new samples would only add noise
    else:
        answers = context.engine.generate(context.prompts.held_out(), policy, draw, round=round, seed=seed)
    context.progress(round, "evaluate", 1, STEPS, "steps", "judging")
    shard = writer.table("evaluation/answers", rows.from_rollouts(answers))
    both = _side_by_side(start or answers, answers)
    players = {"policy": context.start, "start": context.start}  # of scorers that ask one: the same in every round
    scored = ask_policy.score(context, evaluation.scorer, both, players)
    check_silence(scored.counts, context.alarms.silent_judge, slot="evaluate.scorer")
    writer.table("evaluation/compared", _compared(scored))
    metrics = {**_score_metrics(scored), **_shape_metrics(both, evaluated(context)), **_counts("judge", scored)}
    metrics |= drop(context, scored.wins[:, 1, 0]) | change(context, scored.wins[:, 1, 0])
    queries = scored.counts.get("judge/queries", 0)
    context.progress(round, "evaluate", 2, STEPS, "steps", "asking the scorer of training")
    if evaluation.scorer is not context.scorer and evaluation.asks_proxy:
        proxy = ask_policy.score(context, context.scorer, both, players)
        metrics |= _proxy_metrics(proxy, scored) | _counts("proxy_judge", proxy)
        queries += proxy.counts.get("judge/queries", 0)
    context.progress(round, "evaluate", 3, STEPS, "steps", "computing log-probs")
    metrics |= _policy_metrics(context, round, policies, shard, on_policy=draw.is_on_policy)
    metrics = _with_batch_metrics({**metrics, "eval/queries": queries}, scored)
    history = [*(record.metrics for record in context.ledger.records), metrics]
    return metrics | {f"{PREFIX}{alarm.name}": 1 for alarm in tripped(history, context.alarms)}


def _evaluate_reward_model(
    context: RunContext, evaluation: Agreement, round: int, policies: PolicyRegistry, writer: StageWriter
) -> StageFacts:
    """Compare the reward model's predictions on the held-out responses with the labels."""
    seed = derive(context.seed, "evaluate")
    prompts = context.prompts.held_out()
    answers = Rollouts.gathered(
        prompts, context.sampler.stream(context.engine, prompts, {}, round=round, seed=seed), round
    )
    labels = evaluation.scorer.score(answers)
    shard = writer.table("evaluation/answers", rows.from_rollouts(answers))
    ids = [response.id for group in answers.responses for response in group]
    outputs = rows.views(context.learner.logps([Table((shard,))], ids, policies[round])["logps"])
    odds = mixture_odds if context.objective.needs.readout == "mixture" else log_odds
    verdicts = _verdicts(labels, np.array(outputs, dtype=np.float64).reshape(*labels.utility.shape, -1), odds)
    metrics: dict[str, float] = {"eval/queries": labels.counts.get("judge/queries", 0), **_counts("judge", labels)}
    if verdicts.label.size:
        metrics |= {f"eval/{name}": value for name, value in measure(verdicts).items()}
        writer.text("evaluation/reliability.json", json.dumps(reliability(verdicts), indent=1))
    return metrics


def _verdicts(labels: Scored, outputs: np.ndarray, of_several: LogOdds) -> Verdicts:
    """Predictions from the model's outputs [B, N, D] for all pairs of different responses with a label."""
    groups: dict[tuple[Message, ...], int] = {}
    comparisons: dict[tuple[int, str, int, int], int] = {}  # pairwise prompts put each pair in both orders
    odds, label, longer, answers, prompts, comparison = [], [], [], [], [], []
    for b, (prompt, responses) in enumerate(zip(labels.rollouts.prompts, labels.rollouts.responses, strict=True)):
        group = groups.setdefault(prompt.messages, len(groups))
        for i, j in combinations(range(len(responses)), 2):
            one, other = responses[i], responses[j]
            if np.isnan(labels.wins[b, i, j]) or one.text == other.text:
                continue
            first, second = outputs[b, i], outputs[b, j]  # [D]
            odds.append(float(first[0] - second[0] if len(first) == 1 else of_several(first, second)))
            label.append(float(labels.wins[b, i, j]))
            longer.append(len(one.text) - len(other.text))
            answers.append((one.text, other.text))
            prompts.append(group)
            comparison.append(comparisons.setdefault((group, row_of(prompt.id), i, j), len(comparisons)))
    lengths = np.array(longer, dtype=np.float64)
    return Verdicts(np.array(odds), np.array(label), lengths, answers, np.array(prompts), np.array(comparison))


def _start_answers(context: RunContext) -> Rollouts:
    return rows.to_rollouts(context.ledger.table(0, "evaluate", "evaluation/answers").read())


def _side_by_side(start: Rollouts, answers: Rollouts) -> Rollouts:
    """[B][2]: the start's response, then the new one."""
    assert [prompt.id for prompt in start.prompts] == [prompt.id for prompt in answers.prompts]
    both = zip(start.responses, answers.responses, strict=True)
    return replace(answers, responses=tuple((old[0], new[0]) for old, new in both))


def _score_metrics(scored: Scored) -> dict[str, float]:
    metrics = _mean("eval/reward", scored.utility[:, 1])
    for name, values in scored.aspects.items():
        metrics |= _mean(f"eval/aspect/{name}", values[:, 1])
    wins, (start, new) = scored.wins[:, 1, 0], _lengths(scored.rollouts)  # [B] each
    metrics |= win_rate("eval/win_rate", wins) | win_rates(scored.rollouts.prompts, wins)
    if all(one is other for one, other in scored.rollouts.responses):  # the start's weights, so nothing was sampled
        metrics |= with_interval("eval/win_rate", 0.5, 0.5, 0.5)
    return metrics | length_controlled("eval/win_rate_length_controlled", wins, new - start)


def _counts(name: str, scored: Scored) -> dict[str, float]:
    return {f"eval/{name}/{key.removeprefix('judge/')}": float(number) for key, number in scored.counts.items()}


def _proxy_metrics(proxy: Scored, scored: Scored) -> dict[str, float]:
    proxy_wins, wins = proxy.wins[:, 1, 0], scored.wins[:, 1, 0]  # [B] each
    return {
        **_mean("eval/proxy", proxy.utility[:, 1]),
        **win_rate("eval/proxy_win_rate", proxy_wins),
        **gap("eval/proxy_gap", proxy_wins, wins),
        **win_rate("eval/judges_agree", (1 + np.sign(proxy_wins - 0.5) * np.sign(wins - 0.5)) / 2),
    }


def _mean(name: str, values: np.ndarray) -> dict[str, float]:
    """The mean without abstentions; empty if there are only abstentions."""
    known = values[~np.isnan(values)]
    return {name: float(known.mean())} if known.size else {}


def _with_batch_metrics(metrics: dict[str, float], scored: Scored) -> dict[str, float]:
    """Adds the scorer's own metrics. Raises ValueError if it uses the name of another metric."""
    own = {f"eval/{name}": float(value) for name, value in scored.batch_metrics.items()}
    if taken := sorted(metrics.keys() & own.keys()):
        raise ValueError(
            f"evaluate.scorer: its batch metrics must not be called {', '.join(taken)}, which is a metric of the "
            "evaluation. Fix: rename it."
        )
    return metrics | own


def _lengths(both: Rollouts) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of the start's responses and of the new ones, float64 [B] each."""
    lengths = np.array([[len(response.tokens) for response in group] for group in both.responses], dtype=np.float64)
    return lengths[:, 0], lengths[:, 1]


def _shape_metrics(both: Rollouts, rounds: int) -> dict[str, float]:
    """Of the responses; `rounds`: how many of the run are evaluated, with the start."""
    responses, (start, new) = [group[1] for group in both.responses], _lengths(both)
    return {
        "eval/length": float(new.mean()),
        **length_drift("eval/length_drift", start, new, confidence=1 - 0.05 / rounds),
        **share_with_interval("eval/truncated", np.array([float(response.truncated) for response in responses])),
        "eval/distinct": len({response.text for response in responses}) / len(responses),
        **share_with_interval("eval/repetition", np.array([_repetition(response.tokens) for response in responses])),
    }


def _repetition(tokens: np.ndarray) -> float:
    """Share of the 4-grams that occur earlier in the response; 0 if it is too short for any."""
    grams = list(zip(*(tokens[at:].tolist() for at in range(GRAM)), strict=False))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def _compared(scored: Scored) -> pa.Table:
    """One row per held-out prompt, for the report."""
    groups = zip(scored.rollouts.prompts, scored.rollouts.responses, strict=True)
    return pa.Table.from_pylist(
        [
            {
                "prompt_id": prompt.id,
                "prompt": prompt.messages[-1].content,
                "start": start.text,
                "answer": answer.text,
                "win": float(scored.wins[b, 1, 0]),
                "utility": float(scored.utility[b, 1]),
                "start_utility": float(scored.utility[b, 0]),
                "length": len(answer.tokens),
                "truncated": answer.truncated,
            }
            for b, (prompt, (start, answer)) in enumerate(groups)
        ]
    )


def _policy_metrics(
    context: RunContext, round: int, policies: PolicyRegistry, answers: Shard, *, on_policy: bool
) -> dict[str, float]:
    """Entropy and mass of the policy's next tokens; if sampled on-policy, KL to and overlap with the start.

    The KL is the mean over the responses of sum_t (log pi - log pi_0). This estimate may be negative.
    """
    table = Table((answers,))
    ids = table.read(["response"])["response"].to_pylist()
    new = context.learner.spread([table], ids, policies[round])
    metrics: dict[str, float] = {}
    for name in ("entropy", "mass"):
        means = np.array([one.mean(dtype=np.float64) for one in rows.views(new[name]) if one.size])
        metrics |= mean_with_interval(f"eval/topk_{name}", means)
    if round > 0 and on_policy:
        start = context.learner.logps([table], ids, policies[0])
        ratios = _sums(new) - _sums(start)
        metrics |= mean_with_interval("eval/kl", ratios)
        metrics |= share_with_interval("eval/coverage", np.exp(-np.maximum(ratios, 0)))
    return metrics


def _sums(logps: pa.Table) -> np.ndarray:
    return np.asarray([values.sum(dtype=np.float64) for values in rows.views(logps["logps"])])
