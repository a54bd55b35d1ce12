"""As `rlhf_flow.verify.formulas`: the losses of further methods on pairs, token by token, in plain Python."""

from __future__ import annotations

import math

from rlhf_flow.verify.pairs import ClosedForm, Gradient, OnePair


def simpo(beta: float, margin: float) -> ClosedForm:
    """-log sigma(beta/|y_w| log pi(y_w) - beta/|y_l| log pi(y_l) - gamma). Meng et al. 2024, eq. 6."""

    def of(pair: OnePair) -> tuple[float, Gradient]:
        gamma = beta * margin
        d = beta * (_mean(pair, "first") - _mean(pair, "second"))
        loss = pair.p * _softplus(gamma - d) + (1 - pair.p) * _softplus(gamma + d)
        slope = beta * ((1 - pair.p) * _sigma(gamma + d) - pair.p * _sigma(gamma - d))
        return loss, pair.slopes(slope, -slope, "mean")

    return of


def cpo(beta: float, nll: float) -> ClosedForm:
    """-log sigma(beta log pi(y_w) / pi(y_l)) - log pi(y_w) / |y_w|. Xu et al. 2024, eq. 5."""

    def of(pair: OnePair) -> tuple[float, Gradient]:
        z = beta * (pair.sum("current", "first") - pair.sum("current", "second"))
        loss = pair.p * _softplus(-z) + (1 - pair.p) * _softplus(z)
        slope = beta * (_sigma(z) - pair.p)
        won = _won(pair)
        loss -= nll * (won * _mean(pair, "first") + (1 - won) * _mean(pair, "second"))
        return loss, pair.slopes(
            slope - nll * won / pair.length("first"), -slope - nll * (1 - won) / pair.length("second")
        )

    return of


def gold(beta: float, weight: float) -> ClosedForm:
    """-log sigma(beta log pi(y_w) / pi(y_l)) - log pi(y) / |y| of a third answer y. Saeidi et al. 2024, eq. 5."""

    def of(pair: OnePair) -> tuple[float, Gradient]:
        z = beta * (pair.sum("current", "first") - pair.sum("current", "second"))
        loss = pair.p * _softplus(-z) + (1 - pair.p) * _softplus(z) - weight * _mean(pair, "extra")
        slope = beta * (_sigma(z) - pair.p)
        return loss, pair.slopes(slope, -slope, extra=-weight / pair.length("extra"))

    return of


def rivals(beta: float, alpha: float, most: float, slow: bool) -> ClosedForm:
    """DPO, and the margin over the other policy as the fast or the slow one counts it. Qi et al. 2024, eq. 3 to 6."""

    def of(pair: OnePair) -> tuple[float, Gradient]:
        z, m = beta * pair.gap("reference"), beta * pair.gap("sibling")
        loss = pair.p * _softplus(-z) + (1 - pair.p) * _softplus(z)
        slope = _sigma(z) - pair.p
        if slow:
            loss -= alpha * (pair.p * _softplus(min(m, most)) + (1 - pair.p) * _softplus(min(-m, most)))
            slope -= alpha * (pair.p * _sigma(m) * (m < most) - (1 - pair.p) * _sigma(-m) * (-m < most))
        else:
            loss += alpha * (pair.p * _softplus(-m) + (1 - pair.p) * _softplus(m))
            slope += alpha * (_sigma(m) - pair.p)
        return loss, pair.slopes(beta * slope, -beta * slope)

    return of


def orpo(weight: float) -> ClosedForm:
    """-log p(y_w) - lambda log sigma(log odds(y_w) / odds(y_l)). Hong et al. 2024, eq. 6."""

    def of(pair: OnePair) -> tuple[float, Gradient]:
        means, won = (_mean(pair, "first"), _mean(pair, "second")), _won(pair)
        p, q = (math.exp(min(mean, -1e-6)) for mean in means)  # random log-probs may be above 0
        z = math.log(p / (1 - p)) - math.log(q / (1 - q))
        loss = -won * means[0] - (1 - won) * means[1]
        loss += weight * (pair.p * _softplus(-z) + (1 - pair.p) * _softplus(z))
        slope = weight * (_sigma(z) - pair.p)  # by the log-odds, whose derivative by the mean log-prob is 1 / (1 - p)
        up, down = (0.0 if mean > -1e-6 else slope / (1 - each) for mean, each in zip(means, (p, q), strict=True))
        return loss, pair.slopes(up - won, -down - (1 - won), "mean")

    return of


def with_likelihood(beta: float, weight: float, reduction: str, chosen_tokens: float = 1.0) -> ClosedForm:
    """DPO - weight log pi(y_w). Liu et al. 2024, arXiv:2405.16436, eq. 4; by `reduction` of the tokens."""

    def of(pair: OnePair) -> tuple[float, Gradient]:
        z = beta * pair.gap("reference")
        loss = pair.p * _softplus(-z) + (1 - pair.p) * _softplus(z)
        slope, won = beta * (_sigma(z) - pair.p), _won(pair)
        scale = {side: weight / pair.length(side) if reduction == "mean" else weight for side in ("first", "second")}
        if reduction == "batch":
            scale = dict.fromkeys(scale, weight / chosen_tokens)
        loss -= won * scale["first"] * pair.sum("current", "first")
        loss -= (1 - won) * scale["second"] * pair.sum("current", "second")
        return loss, pair.slopes(slope - won * scale["first"], -slope - (1 - won) * scale["second"])

    return of


def robust(beta: float, noise: float) -> ClosedForm:
    """((1 - e) l(z) - e l(-z)) / (1 - 2 e). Chowdhury et al. 2024, eq. 12."""

    def of(pair: OnePair) -> tuple[float, Gradient]:
        z = beta * pair.gap("reference")
        q = ((1 - noise) * pair.p - noise * (1 - pair.p)) / (
            1 - 2 * noise
        )  # the weight of l(z); that of l(-z) is 1 - q
        loss = q * _softplus(-z) + (1 - q) * _softplus(z)
        slope = beta * (_sigma(z) - q)
        return loss, pair.slopes(slope, -slope)

    return of


def divergence(beta: float, kind: str, alpha: float) -> ClosedForm:
    """-log sigma(beta f'(u_w) - beta f'(u_l)), u = pi / pi_ref. Wang et al. 2023, eq. 14, table 1."""

    def of(pair: OnePair) -> tuple[float, Gradient]:
        u, v = (math.exp(pair.ratio("reference", side)) for side in ("first", "second"))
        f = {
            "reverse_kl": lambda x: math.log(x) + 1,
            "forward_kl": lambda x: -1 / x,
            "jensen_shannon": lambda x: math.log(2 * x / (1 + x)),
            "alpha": lambda x: (1 - x**-alpha) / alpha,
        }[kind]
        by_log = {  # x f''(x): the derivative of f'(x) by log x
            "reverse_kl": lambda x: 1.0,
            "forward_kl": lambda x: 1 / x,
            "jensen_shannon": lambda x: 1 / (1 + x),
            "alpha": lambda x: x**-alpha,
        }[kind]
        z = beta * (f(u) - f(v))
        loss = pair.p * _softplus(-z) + (1 - pair.p) * _softplus(z)
        slope = beta * (_sigma(z) - pair.p)
        return loss, pair.slopes(slope * by_log(u), -slope * by_log(v))

    return of


def hypo(beta: float, kl: float) -> ClosedForm:
    """DPO + lambda rho(y~) log pi(y~) with rho held constant, y~ a sample of the policy. Song et al. 2024."""

    def of(pair: OnePair) -> tuple[float, Gradient]:
        z, rho = beta * pair.gap("reference"), pair.ratio("reference", "extra")
        loss = pair.p * _softplus(-z) + (1 - pair.p) * _softplus(z) + kl * rho * rho
        slope = beta * (_sigma(z) - pair.p)
        return loss, pair.slopes(slope, -slope, extra=kl * rho)

    return of


def relative_rewards(eta: float, reduction: str) -> ClosedForm:
    """(1/eta (log pi(y)/pi_t(y) - log pi(y')/pi_t(y')) - (r(y) - r(y')))^2. Gao et al. 2024, eq. 6."""

    def of(pair: OnePair) -> tuple[float, Gradient]:
        error = pair.gap("previous", reduction) / eta - (pair.worth[0] - pair.worth[1])
        return error**2, pair.slopes(2 * error / eta, -2 * error / eta, reduction)

    return of


def contrast(beta: float, reduction: str) -> ClosedForm:
    """(R(y) - R(y'))^2 / (2 beta), R = r - beta log pi/pi_ref. Flet-Berliac et al. 2024, eq. 6."""

    def of(pair: OnePair) -> tuple[float, Gradient]:
        regularised = [
            worth - beta * pair.ratio("reference", side, reduction)
            for worth, side in zip(pair.worth, ("first", "second"), strict=True)
        ]
        error = regularised[0] - regularised[1]
        return error**2 / (2 * beta), pair.slopes(-error, error, reduction)

    return of


def scores(beta: float, clip: float, reduction: str) -> ClosedForm:
    """The mean of (log pi/pi_t - s/beta)^2 over both answers. Zhang et al. 2024, arXiv:2410.02197, eq. 5.3."""

    def of(pair: OnePair) -> tuple[float, Gradient]:
        left, right = (
            pair.ratio("previous", side, reduction) - max(-clip, min(clip, worth / beta))
            for side, worth in zip(("first", "second"), pair.worth, strict=True)
        )
        return (left**2 + right**2) / 2, pair.slopes(left, right, reduction)

    return of


def opponents(eta: float, tau: float, weights: tuple[float, ...]) -> ClosedForm:
    """INPO's square against a mixture of past policies. Wu et al. 2025, arXiv:2509.23102, eq. 14."""

    def of(pair: OnePair) -> tuple[float, Gradient]:
        h = pair.sum("current", "first") - pair.sum("current", "second")
        for side, sign in (("first", 1), ("second", -1)):
            h -= sign * tau / eta * pair.sum("reference", side)
            for name, weight in zip(("previous", "previous_2", "previous_3"), weights, strict=False):
                h -= sign * (1 - tau / eta) * weight * pair.sum(name, side)
        loss = pair.p * (h - 1 / (2 * eta)) ** 2 + (1 - pair.p) * (h + 1 / (2 * eta)) ** 2
        slope = 2 * (h - (2 * pair.p - 1) / (2 * eta))
        return loss, pair.slopes(slope, -slope)

    return of


def guided(beta: float, alpha: float) -> ClosedForm:
    """-log sigma(sum_t beta (1 + alpha r_t) lr_t(w) - sum_t beta (1 - alpha r_t) lr_t(l)). Zhu et al. 2025."""

    def of(pair: OnePair) -> tuple[float, Gradient]:
        def weighted(side: str, sign: int) -> tuple[float, list[float]]:
            total, weights = 0.0, []
            for t in range(pair.length(side)):
                reward = beta * (pair.tokens["reward_policy"][side][t] - pair.tokens["reference"][side][t])
                weights.append(beta * (1 + sign * alpha * reward))
                total += weights[-1] * (pair.tokens["current"][side][t] - pair.tokens["reference"][side][t])
            return total, weights

        loss, slopes = 0.0, {"first": [0.0] * pair.length("first"), "second": [0.0] * pair.length("second")}
        for label, winner, loser in ((pair.p, "first", "second"), (1 - pair.p, "second", "first")):
            (good, up), (bad, down) = weighted(winner, 1), weighted(loser, -1)
            loss += label * _softplus(bad - good)
            pull = -label * _sigma(bad - good)
            slopes[winner] = [s + pull * w for s, w in zip(slopes[winner], up, strict=True)]
            slopes[loser] = [s - pull * w for s, w in zip(slopes[loser], down, strict=True)]
        return loss, slopes

    return of


def _mean(pair: OnePair, side: str) -> float:
    return pair.sum("current", side) / pair.length(side)


def _won(pair: OnePair) -> float:
    return 0.5 if pair.p == 0.5 else float(pair.p > 0.5)


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def _sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
