"""Checks that answers, replayed ones too, are samples of the policies that the objective needs."""

from __future__ import annotations

from collections.abc import Mapping

from rlhf_flow.config.schema import RunConfig
from rlhf_flow.types import RoundPlan


def check(config: RunConfig, names: Mapping[str, str]) -> None:
    """Raise ValueError, with a remedy, if they are not. `names`: the part of each group."""
    _check_draws(config, names)
    plans: dict[int, RoundPlan] = {}
    for round in range(1, config.rounds + 1):
        plans[round] = config.timeline.at(round, ())
        for past in config.replay.rounds(round):
            if past < round and config.objective.needs.on_policy:
                raise ValueError(
                    f"replay={names['replay']} trains round {round} on answers of round {past}, and "
                    f"objective={names['objective']} requires answers of the round's own policy: with others it has "
                    "another fixed point. Fix: replay=window replay.size=1, or an objective that accepts any answers, "
                    "such as dpo."
                )
            _check_samples(config, names, plans[round], plans[past])


def _check_samples(config: RunConfig, names: Mapping[str, str], plan: RoundPlan, sampled: RoundPlan) -> None:
    """Answers that were sampled by one plan and are trained on in another must be of the latter's anchors."""
    versions = {**plan.anchors, "policy": plan.init}
    for source, anchor in config.objective.needs.sampled.items():
        if anchor in config.anchors.policies:
            raise ValueError(
                f"anchors.policies.{anchor}: objective={names['objective']} needs answers of this policy, and a run "
                f"samples from its own policies only. Fix: leave anchors.policies.{anchor} out."
            )
        found, wanted = sampled.samplers.get(source), versions.get(anchor)
        if found == wanted:
            continue
        renewed = anchor == "reference"
        if sampled.round < plan.round:
            cause, remedy = f"replay={names['replay']}", "replay=window replay.size=1"
            if renewed and source == anchor:
                remedy += ", or schedule=fixed"
        else:
            cause = f"schedule={names['schedule']}{f' lag={config.lag}' if config.lag else ''}"
            remedy = f"schedule={'every_k schedule.k=1' if renewed and source != anchor else 'fixed'}"
            remedy += " lag=0" if config.lag else ""
        raise ValueError(
            f"{cause}: round {plan.round} trains on answers that the {source} of round {found} gave in round "
            f"{sampled.round}, and objective={names['objective']} needs samples of its {anchor}, that of round "
            f"{wanted}. Fix: {remedy}."
        )


def _check_draws(config: RunConfig, names: Mapping[str, str]) -> None:
    """The sampler must draw the answers that the objective needs, also for the third response of each pair."""
    needs, sources, extra = config.objective.needs, config.sampler.sources, config.selector.extra
    objective = f"objective={names['objective']}"
    if missing := sorted(needs.sampled.keys() - set(sources.values())):
        raise ValueError(
            f"{objective} needs answers from the {' and the '.join(missing)}, but sampler={names['sampler']} draws "
            f"only from the {' and the '.join(sorted(set(sources.values())))}. "
            f"Fix: sampler={'policy' if missing == ['policy'] else 'policy_and_reference'} or draws."
        )
    first = config.selector.first_draw
    if needs.first_is_policy and (first is None or sources.get(first) != "policy"):
        puts = "the winner" if first is None else f"the answer of {first}"
        own = next((name for name, source in sources.items() if source == "policy"), "policy")
        raise ValueError(
            f"{objective} trains on the first answer of each pair, which must be the policy's own, win or lose, and "
            f"selector={names['selector']} puts {puts} first. Fix: selector=cross selector.first={own} "
            "selector.keep_order=true."
        )
    if extra is not None and extra not in sources:
        raise ValueError(
            f"selector.extra must be the name of a draw ({', '.join(sources)}), got {extra!r}. "
            "Fix: one of them, or leave it out."
        )
    if needs.extra is not None and (extra is None or sources[extra] != needs.extra):
        fitting = [name for name, source in sources.items() if source == needs.extra]
        raise ValueError(
            f"{objective} reads a third answer with each pair, from the {needs.extra}, but selector.extra is "
            f"{extra or 'null'}. Fix: selector.extra={' or '.join(fitting) or f'a draw from the {needs.extra}'}."
        )
