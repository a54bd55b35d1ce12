"""A second, independent implementation of the papers' losses: one pair, token by token, in plain Python.

It shares no code with `rlhf_flow.objective`, which is compared with it. Each function takes the constants of a method;
the result maps a pair to its loss and the gradient with respect to the log-prob of each token under the policy.
"""

from __future__ import annotations

import math

from rlhf_flow.verify.pairs import ClosedForm, Gradient, OnePair


def logistic(beta: float) -> ClosedForm:
    """-p log sigma(beta delta) - (1 - p) log sigma(-beta delta). Rafailov et al. 2023, eq. 7; soft: Mitchell 2023."""

    def of(pair: OnePair) -> tuple[float, Gradient]:
        loss, slope = _cross_entropy(beta * pair.gap("reference"), pair.p)
        return loss, pair.slopes(beta * slope, -beta * slope)

    return of


def square(tau: float, reduction: str) -> ClosedForm:
    """(h - 1 / (2 tau))^2 of the winner's order, weighted by the label. Azar et al. 2023, eq. 17."""

    def of(pair: OnePair) -> tuple[float, Gradient]:
        h, target = pair.gap("reference", reduction), 1 / (2 * tau)
        loss = pair.p * (h - target) ** 2 + (1 - pair.p) * (-h - target) ** 2
        slope = 2 * (h - (pair.p - 0.5) / tau)  # one square, with the soft target
        return loss, pair.slopes(slope, -slope, reduction)

    return of


def hinge(beta: float, reduction: str) -> ClosedForm:
    """max(0, 1 - beta delta). Guo et al. 2024, eq. 3."""

    def of(pair: OnePair) -> tuple[float, Gradient]:
        margin = beta * pair.gap("reference", reduction)
        loss = pair.p * max(0.0, 1 - margin) + (1 - pair.p) * max(0.0, 1 + margin)
        slope = beta * ((1 - pair.p) * (margin > -1) - pair.p * (margin < 1))
        return loss, pair.slopes(slope, -slope, reduction)

    return of


def explored(beta: float, alpha: float, clip: float) -> ClosedForm:
    """The logistic loss + alpha times the clipped log-ratio of the third response. Xie et al. 2024, Alg. 1."""

    def of(pair: OnePair) -> tuple[float, Gradient]:
        loss, slope = _cross_entropy(beta * pair.gap("reference"), pair.p)
        ratio = pair.ratio("reference", "extra")
        loss += alpha * max(-clip, min(clip, ratio))
        return loss, pair.slopes(beta * slope, -beta * slope, extra=alpha * (abs(ratio) < clip))

    return of


def self_explored(beta: float, alpha: float) -> ClosedForm:
    """The same, with alpha times beta and no clip. Zhang et al. 2024, arXiv:2405.19332, eq. 4.2."""
    return explored(beta, alpha * beta, math.inf)


def cross_entropy_of_rates(eta: float, tau: float) -> ClosedForm:
    """sigma(eta delta) against sigma(r(first) - r(second)), r the win rates. Rosset et al. 2024, Alg. 1, app. A."""

    def of(pair: OnePair) -> tuple[float, Gradient]:
        label = 1 / (1 + math.exp(pair.worth[1] - pair.worth[0]))
        loss, slope = _cross_entropy(eta * anchored(pair, eta, tau, "sum"), label)
        return loss, pair.slopes(eta * slope, -eta * slope)

    return of


def anchored_square(eta: float, tau: float, reduction: str) -> ClosedForm:
    """The square of h_t, with two anchors. Zhang et al. 2024, arXiv:2407.00617, eq. 8."""

    def of(pair: OnePair) -> tuple[float, Gradient]:
        h = anchored(pair, eta, tau, reduction)
        loss = pair.p * (h - 1 / (2 * eta)) ** 2 + (1 - pair.p) * (h + 1 / (2 * eta)) ** 2
        slope = 2 * (h - (2 * pair.p - 1) / (2 * eta))
        return loss, pair.slopes(slope, -slope, reduction)

    return of


def policy_gradient(tau: float, clip: float) -> ClosedForm:
    """Each token's ratio times its advantage, which has no gradient. Munos et al. 2023, sec. 7."""

    def of(pair: OnePair) -> tuple[float, Gradient]:
        current, reference, previous = (pair.tokens[name]["first"] for name in ("current", "reference", "previous"))
        loss, slopes = 0.0, []
        for t in range(len(current)):
            advantage = pair.p - 0.5
            for s in range(t, len(current)):
                advantage -= tau * (current[s] - reference[s])
            ratio = math.exp(current[t] - previous[t])
            clipped = max(1 - clip, min(1 + clip, ratio))
            loss -= min(ratio * advantage, clipped * advantage)
            slopes.append(-ratio * advantage if ratio * advantage <= clipped * advantage else 0.0)
        return loss, {"first": slopes, "second": [0.0] * pair.length("second")}

    return of


def two_squares(eta: float, reduction: str) -> ClosedForm:
    """The square of each side's log-ratio minus eta times (win rate - 1/2). Wu et al. 2024, arXiv:2405.00675."""

    def of(pair: OnePair) -> tuple[float, Gradient]:
        left = pair.ratio("previous", "first", reduction) - eta * (pair.worth[0] - 0.5)
        right = pair.ratio("previous", "second", reduction) - eta * (pair.worth[1] - 0.5)
        return 0.5 * (left**2 + right**2), pair.slopes(left, right, reduction)

    return of


def _cross_entropy(logit: float, p: float) -> tuple[float, float]:
    """The cross-entropy of sigma(logit) against the label p, and its derivative by the logit."""
    loss = p * math.log1p(math.exp(-logit)) + (1 - p) * math.log1p(math.exp(logit))
    return loss, 1 / (1 + math.exp(-logit)) - p


def anchored(pair: OnePair, eta: float, tau: float, reduction: str) -> float:
    """h of Zhang et al., eq. 8, term by term: the difference of the log-ratios to both anchors."""
    parts = {"current": 1.0, "reference": -tau / eta, "previous": -(eta - tau) / eta}
    h = 0.0
    for policy, coefficient in parts.items():
        for side, sign in (("first", 1), ("second", -1)):
            scale = 1 / pair.length(side) if reduction == "mean" else 1
            for logp in pair.tokens[policy][side]:
                h += coefficient * sign * scale * logp
    return h
