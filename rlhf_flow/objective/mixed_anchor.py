"""The anchor of a mirror-descent step in a regularised game: pi_previous^(1 - tau/eta) * pi_reference^(tau/eta).

Not normalised: the constant cancels between the sides of a pair. With tau = 0 it is the previous policy, and the
reference is not needed.
"""

from __future__ import annotations

from rlhf_flow.types import PairLogps, Sides, TokenLogps


def check_step(eta: float, tau: float) -> None:
    """Raise ValueError unless eta > 0 and 0 <= tau < eta."""
    if not eta > 0:
        raise ValueError(
            f"objective.eta must be > 0, got {eta}. It is 1 / step size from the previous policy: larger stays "
            "nearer to it."
        )
    if not 0 <= tau < eta:
        raise ValueError(
            f"objective.tau must be >= 0 and < objective.eta={eta}, got {tau}. It is the strength of the KL to the "
            "reference, and tau / eta is the reference's share of the anchor. "
            f"Fix: objective.tau={eta / 3:.3g}, or a larger objective.eta."
        )


def anchors(tau: float) -> frozenset[str]:
    """The policies in the anchor."""
    return frozenset({"previous", "reference"}) if tau > 0 else frozenset({"previous"})


def returned(tau: float) -> str:
    """The iterate of self-play that theory returns: without a KL to the reference the last one may cycle."""
    return "last" if tau > 0 else "average"


def anchored(pairs: PairLogps, eta: float, tau: float) -> Sides:
    """The log-probs of both sides under the anchor."""
    previous = pairs.anchors["previous"]
    if tau == 0:
        return Sides(previous.first, previous.second)
    reference = pairs.anchors["reference"]
    return Sides(
        _between(previous.first, reference.first, tau / eta),
        _between(previous.second, reference.second, tau / eta),
    )


def _between(previous: TokenLogps, reference: TokenLogps, share: float) -> TokenLogps:
    # this form is exact if both are equal
    return TokenLogps(previous.values + share * (reference.values - previous.values), previous.mask)
