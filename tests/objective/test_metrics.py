"""The metrics of each objective of the family, in plain Python."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from statistics import fmean
from typing import Any, TypeAlias

import pytest

from rlhf_flow.objective.dpo import DPO
from rlhf_flow.objective.orpo import CERTAIN
from rlhf_flow.verify import groups as of_groups
from rlhf_flow.verify.groups import OneGroup, draw_groups
from rlhf_flow.verify.pairs import OnePair, draw_pairs, tensors
from tests.objective.test_every_objective import GROUPS, VARIANTS

Metrics: TypeAlias = dict[str, float]


def sign(value: float) -> int:
    return (value > 0) - (value < 0)


def sides(pair: OnePair, of: Callable[[str], float], by: float, scale: float) -> Metrics:
    """Of what is known of each side; `by` is positive if first is preferred."""
    first, second = of("first"), of("second")
    middle = (first + second) / 2
    won, lost = {1: (first, second), -1: (second, first), 0: (middle, middle)}[sign(by)]
    return {
        "margin": scale * (won - lost),
        "accuracy": (1 + sign(won - lost)) / 2,
        "chosen": won,
        "rejected": lost,
    }


def dpo(o: Any, pair: OnePair) -> Metrics:
    return sides(pair, lambda side: pair.ratio("reference", side), pair.p - 0.5, o.beta)


def mean_logp(pair: OnePair, side: str) -> float:
    return pair.sum("current", side) / pair.length(side)


def nll(pair: OnePair, each: Callable[[str], float]) -> float:
    won = (1 + sign(pair.p - 0.5)) / 2
    return -won * each("first") - (1 - won) * each("second")


def simpo(o: Any, pair: OnePair) -> Metrics:
    return sides(pair, lambda side: mean_logp(pair, side), pair.p - 0.5, o.beta)


def cpo(o: Any, pair: OnePair) -> Metrics:
    found = sides(pair, lambda side: pair.sum("current", side), pair.p - 0.5, o.beta)
    return {**found, "nll": nll(pair, lambda side: mean_logp(pair, side))}


def orpo(o: Any, pair: OnePair) -> Metrics:
    def log_odds(side: str) -> float:
        mean = min(mean_logp(pair, side), CERTAIN)
        return mean - math.log(1 - math.exp(mean))

    found = sides(pair, log_odds, pair.p - 0.5, o.weight)
    return {**found, "nll": nll(pair, lambda side: mean_logp(pair, side))}


def chosen_nll(o: Any, pair: OnePair) -> Metrics:
    each = mean_logp if o.reduction == "mean" else lambda pair, side: pair.sum("current", side)
    return {**dpo(o.base, pair), "nll": nll(pair, lambda side: each(pair, side))}


def hypo(o: Any, pair: OnePair) -> Metrics:
    return {**dpo(o, pair), "kl": pair.ratio("reference", "extra")}


def by_worth(anchor: str, scale: Callable[[Any], float]) -> Callable[[Any, OnePair], Metrics]:
    """Of a square whose minimum is at the difference of the worths over `scale`."""

    def of(o: Any, pair: OnePair) -> Metrics:
        clip = vars(o).get("clip") or math.inf
        first, second = (max(-clip, min(clip, worth / scale(o))) for worth in pair.worth)
        found = sides(pair, lambda side: pair.ratio(anchor, side, o.reduction), first - second, scale(o))
        return {**found, "target": abs(first - second)}

    return of


def mnpo(o: Any, pair: OnePair) -> Metrics:
    weights = dict(zip(("previous", "previous_2", "previous_3"), o.weights, strict=False))
    share = o.tau / o.eta

    def ratio(side: str) -> float:
        past = sum(weight * pair.sum(name, side) for name, weight in weights.items())
        return pair.sum("current", side) - share * pair.sum("reference", side) - (1 - share) * past

    found = sides(pair, ratio, pair.p - 0.5, o.eta)
    return {**found, "h": found["chosen"] - found["rejected"], "target": abs(2 * pair.p - 1) / (2 * o.eta)}


def tgdpo(o: Any, pair: OnePair) -> Metrics:
    def guided(side: str) -> float:
        known = zip(*(pair.tokens[name][side] for name in ("current", "reference", "reward_policy")), strict=True)
        return sum((1 + o.alpha * o.beta * (reward - own)) * (now - own) for now, own, reward in known)

    return sides(pair, guided, pair.p - 0.5, o.beta)


OF_PAIRS: dict[str, Callable[[Any, OnePair], Metrics]] = {
    "simpo": simpo,
    "cpo": cpo,
    "orpo": orpo,
    "chosen_nll": chosen_nll,
    "rdpo": dpo,
    "f_dpo": dpo,
    "hypo": hypo,
    "rebel": by_worth("previous", lambda o: 1 / o.eta),
    "copg": by_worth("reference", lambda o: o.beta),
    "gpo": by_worth("previous", lambda o: o.beta),
    "mnpo": mnpo,
    "tgdpo": tgdpo,
}


@pytest.mark.parametrize("name", OF_PAIRS)
def test_the_metrics_of_pairs(name: str) -> None:
    drawn = draw_pairs(7, count=24)
    drawn += [replace(drawn[0], p=0.5, worth=(0.3, 0.3)), replace(drawn[1], worth=(-3.0, 4.0))]
    for objective in VARIANTS[name]:
        metrics = objective.loss(tensors(drawn, objective)).metrics
        expected = [OF_PAIRS[name](objective, pair) for pair in drawn]
        told = {key: values for key, values in metrics.items() if not key.startswith("ranking")}
        assert told.keys() == expected[0].keys()
        for key, values in told.items():
            assert values.tolist() == pytest.approx([one[key] for one in expected], rel=1e-9, abs=1e-9), key


@pytest.mark.parametrize("beta", [0.1, 1.3])
def test_ranking_is_by_likelihood_and_ideally_by_the_optimum(beta: float) -> None:
    drawn = draw_pairs(9, count=24)
    same = {name: dict.fromkeys(sides, sides["first"]) for name, sides in drawn[0].tokens.items()}
    drawn += [replace(drawn[0], tokens=same, p=p) for p in (0.7, 0.5)]
    objective = DPO(beta)
    metrics = objective.loss(tensors(drawn, objective)).metrics
    expected: dict[str, list[float]] = {"ranking": [], "ranking_ideal": []}
    for pair in drawn:
        now, known = (pair.sum(name, "first") - pair.sum(name, "second") for name in ("current", "reference"))
        odds = math.log(pair.p / (1 - pair.p)) if 0 < pair.p < 1 else math.inf * (pair.p - 0.5)
        expected["ranking"].append((1 + sign(pair.p - 0.5) * sign(now)) / 2)
        expected["ranking_ideal"].append((1 + sign(pair.p - 0.5) * sign(known + odds / beta)) / 2)
    assert {name: metrics[name].tolist() for name in expected} == expected


def k3(group: OneGroup, anchor: str) -> float:
    """The mean estimate of the KL of a token: over an answer, then over the group."""
    each = [
        fmean(math.exp(there - here) - (there - here) - 1 for here, there in zip(now, other, strict=True))
        for now, other in zip(group.tokens["current"], group.tokens[anchor], strict=True)
    ]
    return fmean(each)


def ratios(group: OneGroup, anchor: str) -> list[float]:
    return [group.ratio(anchor, i) for i in range(group.size)]


def rloo(o: Any, group: OneGroup) -> Metrics:
    kl = ratios(group, "reference") if o.beta else [0.0] * group.size
    reward = [worth - o.beta * each for worth, each in zip(group.worth, kl, strict=True)]
    others = [(sum(reward) - each) / (group.size - 1) for each in reward]
    gained = [abs(each - rest) for each, rest in zip(reward, others, strict=True)]
    return {"kl": fmean(kl), "worth": group.mean_worth, "advantage": fmean(gained)}


def grpo(o: Any, group: OneGroup) -> Metrics:
    spread = math.sqrt(fmean((worth - group.mean_worth) ** 2 for worth in group.worth))
    return {"kl": k3(group, "reference") if o.beta else 0.0, "worth": group.mean_worth, "spread": spread}


def opmd(o: Any, group: OneGroup) -> Metrics:
    return {"worth": group.mean_worth, "moved": fmean(map(abs, ratios(group, "previous")))}


def kto(o: Any, group: OneGroup) -> Metrics:
    level = group.mean_worth if o.threshold is None else o.threshold
    good = fmean(float(worth > level) for worth in group.worth)
    return {"z": max(0.0, fmean(ratios(group, "reference"))), "desirable": good}


def trpa(o: Any, group: OneGroup) -> Metrics:
    pairs = sum(one > other for one in group.worth for other in group.worth)
    return {"kl": k3(group, "previous"), "pairs": float(pairs)}


OF_GROUPS: dict[str, Callable[[Any, OneGroup], Metrics]] = {
    "rloo": rloo,
    "grpo": grpo,
    "opmd": opmd,
    "asymre": lambda o, group: {"worth": group.mean_worth},
    "kto": kto,
    "a_lol": lambda o, group: {"kept": fmean(float(worth > group.mean_worth) for worth in group.worth)},
    "pro": lambda o, group: {"nll": -group.sum("current", 0)},
    "trpa": trpa,
}


@pytest.mark.parametrize("name", OF_GROUPS)
def test_the_metrics_of_groups(name: str) -> None:
    drawn = draw_groups(7, count=24) + draw_groups(8, levels=True)
    drawn += [replace(one, worth=[1.0, 0.5, 0.0]) for one in drawn if one.size == 3]  # one is at the mean
    for objective in GROUPS[name]:
        metrics = objective.loss(of_groups.tensors(drawn, objective)).metrics
        expected = [OF_GROUPS[name](objective, group) for group in drawn]
        assert metrics.keys() == expected[0].keys()
        for key, values in metrics.items():
            assert values.tolist() == pytest.approx([one[key] for one in expected], rel=1e-9, abs=1e-9), key
