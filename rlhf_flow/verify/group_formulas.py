"""The losses of groups, answer by answer and token by token, in plain Python; independent of `rlhf_flow.objective`."""

from __future__ import annotations

import math

from rlhf_flow.verify.groups import GroupFormula, OneGroup, Slopes


def leave_one_out(beta: float, clip: float) -> GroupFormula:
    """-ratio (R_i - mean of the others' R), R = r - beta log pi/pi_ref held constant. Ahmadian et al. 2024, eq. 8."""

    def of(group: OneGroup) -> tuple[float, Slopes]:
        k, loss, slopes = group.size, 0.0, []
        rewards = [group.worth[i] - (beta * group.ratio("reference", i) if beta else 0) for i in range(k)]
        for i in range(k):
            gained = rewards[i] - sum(rewards[j] for j in range(k) if j != i) / (k - 1)
            ratio = math.exp(group.ratio("previous", i))
            clipped = max(1 - clip, min(1 + clip, ratio))
            loss -= min(ratio * gained, clipped * gained) / k
            slopes.append(-ratio * gained / k if ratio * gained <= clipped * gained else 0.0)
        return loss, group.slopes(slopes)

    return of


def standardised(beta: float, clip: float) -> GroupFormula:
    """PPO's surrogate by token, with advantages in standard deviations, and the KL of k3. Shao et al. 2024, eq. 3."""

    def of(group: OneGroup) -> tuple[float, Slopes]:
        k, mean, loss, slopes = group.size, group.mean_worth, 0.0, []
        deviation = math.sqrt(sum((r - mean) ** 2 for r in group.worth) / k) + 1e-6
        for i in range(k):
            advantage, line = (group.worth[i] - mean) / deviation, []
            for t in range(group.length(i)):
                current, last, reference = (group.tokens[name][i][t] for name in ("current", "previous", "reference"))
                ratio, back = math.exp(current - last), math.exp(reference - current)
                clipped = max(1 - clip, min(1 + clip, ratio))
                share = 1 / (k * group.length(i))
                loss += share * (
                    beta * (back - (reference - current) - 1) - min(ratio * advantage, clipped * advantage)
                )
                slope = beta * (1 - back)
                slope -= ratio * advantage if ratio * advantage <= clipped * advantage else 0.0
                line.append(share * slope)
            slopes.append(line)
        return loss, slopes

    return of


def mirror_descent(tau: float) -> GroupFormula:
    """The mean of (r_i - mean - tau log pi/pi_t)^2 / (2 tau). Kimi k1.5, eq. 3."""

    def of(group: OneGroup) -> tuple[float, Slopes]:
        k = group.size
        errors = [group.worth[i] - group.mean_worth - tau * group.ratio("previous", i) for i in range(k)]
        return sum(error**2 for error in errors) / (2 * tau * k), group.slopes([-error / k for error in errors])

    return of


def asymmetric(shift: float) -> GroupFormula:
    """-(r_i - mean - shift) log pi(y_i). Arnal et al. 2025, eq. 2."""

    def of(group: OneGroup) -> tuple[float, Slopes]:
        gained = [(worth - group.mean_worth - shift) / group.size for worth in group.worth]
        loss = -sum(each * group.sum("current", i) for i, each in enumerate(gained))
        return loss, group.slopes([-each for each in gained])

    return of


def prospects(beta: float, desirable: float, undesirable: float, threshold: float | None) -> GroupFormula:
    """1 - sigma(+-beta (rho - z)), z the mean rho held constant, at least 0. Ethayarajh et al. 2024, eq. 8."""

    def of(group: OneGroup) -> tuple[float, Slopes]:
        k, loss, slopes = group.size, 0.0, []
        z = max(0.0, sum(group.ratio("reference", i) for i in range(k)) / k)
        level = group.mean_worth if threshold is None else threshold
        for i in range(k):
            sign, weight = (1, desirable) if group.worth[i] > level else (-1, undesirable)
            value = 1 / (1 + math.exp(-sign * beta * (group.ratio("reference", i) - z)))
            loss += weight * (1 - value) / k
            slopes.append(-weight * value * (1 - value) * sign * beta / k)
        return loss, group.slopes(slopes)

    return of


def advantages(clip: float) -> GroupFormula:
    """-A clip(pi/pi_ref) log pi(y) of the answers with A > 0, the factors held constant. Baheti et al. 2023, eq. 4."""

    def of(group: OneGroup) -> tuple[float, Slopes]:
        loss, slopes = 0.0, []
        for i in range(group.size):
            ratio = max(1 - clip, min(1 + clip, math.exp(group.ratio("reference", i))))
            weight = max(0.0, group.worth[i] - group.mean_worth) * ratio / group.size
            loss -= weight * group.sum("current", i)
            slopes.append(-weight)
        return loss, group.slopes(slopes)

    return of


def ranking(nll: float) -> GroupFormula:
    """A softmax over the answers that are left, from the best on. Song et al. 2023, arXiv:2306.17492, eq. 7 and 9."""

    def of(group: OneGroup) -> tuple[float, Slopes]:
        k = group.size
        means = [group.sum("current", i) / group.length(i) for i in range(k)]
        loss = -nll * (k - 1) ** 2 * group.sum("current", 0)
        by_mean, by_sum = [0.0] * k, [-nll * (k - 1) ** 2, *[0.0] * (k - 1)]
        for first in range(k - 1):
            cold = {i: max(group.worth[first] - group.worth[i], 1e-6) for i in range(first + 1, k)}
            cold[first] = max(cold.values())
            total = sum(math.exp(means[i] * cold[i]) for i in cold)
            loss -= means[first] * cold[first] - math.log(total)
            for i in cold:
                by_mean[i] += cold[i] * (math.exp(means[i] * cold[i]) / total - (i == first))
        return loss, group.slopes([by_sum[i] + by_mean[i] / group.length(i) for i in range(k)])

    return of


def rule_levels(beta: float, best: float, highest: float, kl: float) -> GroupFormula:
    """The mean of -log sigma(c beta (rho_i - rho_j)) over pairs of levels, and the KL of k3. Su et al. 2025."""

    def of(group: OneGroup) -> tuple[float, Slopes]:
        k = group.size
        rho = [group.ratio("reference", i) / group.length(i) for i in range(k)]
        pairs = [(i, j) for i in range(k) for j in range(k) if group.worth[i] > group.worth[j]]
        loss, by_rho = 0.0, [0.0] * k
        for i, j in pairs:
            factor = beta * (best if group.worth[i] >= highest else 1)
            z = factor * (rho[i] - rho[j])
            loss += math.log1p(math.exp(-z)) / len(pairs)
            pull = factor / (1 + math.exp(z)) / len(pairs)
            by_rho[i] -= pull
            by_rho[j] += pull
        slopes = []
        for i in range(k):
            line = []
            for t in range(group.length(i)):
                back = group.tokens["previous"][i][t] - group.tokens["current"][i][t]
                loss += kl * (math.exp(back) - back - 1) / (k * group.length(i))
                line.append(by_rho[i] / group.length(i) + kl * (1 - math.exp(back)) / (k * group.length(i)))
            slopes.append(line)
        return loss, slopes

    return of
