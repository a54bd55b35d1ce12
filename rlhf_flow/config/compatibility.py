"""Checks whether the parts of a run work together, before any worker starts."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import fields
from functools import partial

from rlhf_flow.config import sample_checks
from rlhf_flow.config.schema import GROUPS, RunConfig, part_name, parts
from rlhf_flow.draw import NEUTRAL
from rlhf_flow.scorer.pair_schedule import PairSchedule
from rlhf_flow.scorer.wrappers.around import Around
from rlhf_flow.system.optional_deps import MissingError, check_all

RETURNS = {
    "average": "the theory of objective={objective} returns the average of its policies. final.json is the last one, "
    "best.json the best one on held-out prompts; schedule=averaged also publishes an average of weights: average.json.",
    "best": "the theory of objective={objective} returns its best policy: best.json, by held-out prompts.",
}
SIDE_VALUES = {  # of `Needs` -> what it is called, and the value of selector.worth
    "win_rate": ("win rates", "wins"),
    "utility": ("utilities", "utility"),
    "log_odds": ("log-odds", "log_odds"),
}
ORDERS = {  # of a group
    "worth": "the answers that have a worth, the best first",
    "drawn": "the answers as the sampler draws them",
}
FEW_STEPS = 8  # of a round; more of them come near the minimum of its loss


def check(config: RunConfig) -> None:
    """Raise ValueError, with a remedy, if parts do not work together."""
    names = {group: part_name(group, getattr(config, group)) for group in GROUPS}
    if config.model.dtype not in ("float32", "bfloat16"):
        raise ValueError(
            f"model.dtype must be float32 or bfloat16, got {config.model.dtype}. Fix: model.dtype=bfloat16."
        )
    config.timeline.check(config.rounds)
    _check_lag(config, names)
    _check_roles(config, names)
    sample_checks.check(config, names)
    _check_read(config, names)
    _check_win_rates(config, names)
    config.selector.check({draw.name: draw.n for draw in config.sampler.drawn.values()})
    _check_cluster(config)
    _check_averages(config, names)
    if config.engine.needs_own_process and config.cluster.in_process:
        raise ValueError(
            f"engine={names['engine']} needs a process of its own, but cluster={names['cluster']} has only one. "
            "Fix: cluster=ray, or engine=huggingface."
        )
    if colocated(config) and config.engine.gpus > 1:
        raise ValueError(
            f"cluster.layout=colocated: engine={names['engine']} takes {config.engine.gpus} GPUs, and Ray can share "
            "only one GPU between processes. Fix: engine.tensor_parallel=1 with one of cluster.engines per GPU, or "
            "cluster.layout=disaggregated."
        )
    if config.sampler.needs_mixture and not config.engine.can_mix:
        raise ValueError(
            f"sampler={names['sampler']} samples from a mixture of two policies, token by token, which "
            f"engine={names['engine']} as configured cannot. Fix: engine=huggingface."
        )
    if config.objective.needs.general_preferences and not config.scorer.intransitive:
        raise ValueError(
            f"objective={names['objective']} is for intransitive preferences, and scorer={names['scorer']} gives each "
            "answer a scalar, so its preferences are transitive and simpler methods suffice. Fix: "
            "scorer=preference_model, or objective.scalar_judge=allow to use it anyway."
        )


def _swinging_steps(config: RunConfig) -> int | None:
    """The steps of a round, if they are more than a few and the objective must not reach its minimum in a round."""
    fields_of = {field.name for field in fields(config.learner)}
    batch = vars(config.prompts).get("batch")
    plans = [config.timeline.at(round, ()).anchors for round in (1, 2)]
    renewed = any(plans[0].get(name) != plans[1].get(name) for name in config.objective.needs.anchors)
    if not config.objective.needs.swings or renewed or batch is None or "training" not in fields_of:
        return None
    pairs = batch * config.selector.max_pairs({draw.name: draw.n for draw in config.sampler.drawn.values()})
    steps = -(-pairs // config.learner.training.batch) * config.learner.training.epochs
    return steps if steps > FEW_STEPS else None


def _check_cluster(config: RunConfig) -> None:
    """If the cluster's package is missing, the error also names those that engine and learner miss."""
    cluster = partial(config.cluster.check, ranks=config.learner.ranks)
    try:
        cluster()
    except MissingError:
        check_all(cluster, config.engine.check, config.learner.check)


def colocated(config: RunConfig) -> bool:
    """Whether all roles take turns on the same GPUs."""
    return not (config.cluster.disaggregated or config.cluster.in_process)


def _check_averages(config: RunConfig, names: Mapping[str, str]) -> None:
    anchors = config.objective.needs.anchors - set(config.anchors.policies)
    plan = config.timeline.at(1, ()).only(samplers=config.sampler.roles, anchors=anchors)
    if plan.averages and not config.learner.can_average:
        raise ValueError(
            f"schedule={names['schedule']} needs full weights: the mean of LoRA adapters has a higher rank. "
            "Fix: learner.lora.rank=0, or another schedule."
        )


def _check_lag(config: RunConfig, names: Mapping[str, str]) -> None:
    """Under a lag, the objective must accept off-policy answers, within the bounds of off_policy."""
    if config.lag:
        if config.objective.needs.on_policy:
            raise ValueError(
                f"lag={config.lag} trains on answers of the previous policy, and objective={names['objective']} "
                "requires on-policy answers. Fix: lag=0, or an objective that accepts any answers, such as dpo."
            )
        if config.refresh.every is not None:
            raise ValueError(
                f"lag={config.lag} scores a round before refresh.every has trained the scorer for it. "
                "Fix: lag=0, or leave refresh.every out."
            )
    most, stale = config.off_policy.max_staleness, _staleness(config)
    if most is None or not stale or max(stale) <= most:
        return
    if config.off_policy.exceeding == "stop" or min(stale) > most:
        raise ValueError(
            f"off_policy.max_staleness={most}: schedule={names['schedule']} with lag={config.lag} trains on answers "
            f"that are {max(stale)} rounds old. Fix: off_policy.max_staleness={max(stale)}, or lag=0."
        )


def _staleness(config: RunConfig) -> list[int]:
    """Of the policy's answers, in every round from the second on."""
    plans = [config.timeline.at(round, ()) for round in range(2, config.rounds + 1)]
    return [plan.round - 1 - plan.samplers["policy"] for plan in plans if "policy" in plan.samplers]


def _check_roles(config: RunConfig, names: Mapping[str, str]) -> None:
    """The schedule must provide every policy that a part uses."""
    plan = config.timeline.at(1, ())
    uses = (
        ("objective", "the log-probs of", config.objective.needs.anchors - set(config.anchors.policies), plan.anchors),
        ("sampler", "answers of", config.sampler.roles, plan.samplers),
    )
    for slot, what, wanted, named in uses:
        if missing := sorted(wanted - named.keys()):
            raise ValueError(
                f"{slot}={names[slot]} needs {what} {', '.join(missing)}, but schedule={names['schedule']} provides "
                f"only {', '.join(named) or 'none'}. Fix: schedule={'|'.join(_providing(slot, wanted)) or 'your own'}"
                f"{f', or anchors.policies={{{missing[0]}: <checkpoint>}}' if slot == 'objective' else ''}."
            )


def _providing(slot: str, wanted: Set[str]) -> list[str]:
    """The schedules that provide all these policies by default, as anchors of the objective or to the sampler."""
    plans = {name: part().at(1, ()) for name, part in parts("schedule").items()}
    provided = {name: plan.anchors if slot == "objective" else plan.samplers for name, plan in plans.items()}
    return [name for name, named in provided.items() if wanted <= named.keys()]


def _check_read(config: RunConfig, names: Mapping[str, str]) -> None:
    """The learner's readout and the selector's side values must be those that the objective reads."""
    needs, head, objective = config.objective.needs, outputs(config), f"objective={names['objective']}"
    what, fits, width = {
        "logps": ("the log-probs of a policy", head == 0, 0),
        "number": ("one number per response", head == 1, 1),
        "embedding": ("an even number of outputs per response", head > 0 and head % 2 == 0, 8),
        "mixture": ("rewards and as many logits of a router", head > 0 and head % 2 == 0, 8),
    }[needs.readout]
    if not fits:
        has = f"a head with {head} outputs" if head else "no head: it reads the log-probs of a policy"
        raise ValueError(f"{objective} reads {what}, and the learner has {has}. Fix: learner.head.outputs={width}.")
    values, worth = SIDE_VALUES.get(needs.side_value or "any", ("", ""))
    if worth and config.selector.worth != worth:
        raise ValueError(
            f"{objective} reads the {values} of each answer, and selector.worth is {config.selector.worth}. "
            f"Fix: selector.worth={worth}."
        )
    order = config.selector.order
    if (needs.examples == "groups") != (order is not None):
        made = "groups of all answers to a prompt" if order else "pairs"
        raise ValueError(
            f"{objective} trains on {needs.examples}, and selector={names['selector']} makes {made}. "
            f"Fix: selector={'group' if needs.examples == 'groups' else 'best_and_worst'}."
        )
    read = needs.order or ("worth" if needs.side_value else order)  # an answer without a worth is only in drawn order
    if order and order != read:
        raise ValueError(
            f"selector={names['selector']}: its groups hold {ORDERS[order]}, and {objective} reads {ORDERS[read]}. "
            f"Fix: selector=group selector.order={read}."
        )


def _check_win_rates(config: RunConfig, names: Mapping[str, str]) -> None:
    """An objective of numbers needs enough comparisons: all numbers of a scorer of pairs follow from win rates."""
    chain = [config.scorer]
    while "base" in {field.name for field in fields(chain[-1])} and chain[-1].base is not None:
        chain.append(chain[-1].base)
    few = [at for at, one in enumerate(chain) if isinstance(one, PairSchedule) and one.pairs != "all"]
    certain = not all(one.gives_probabilities for one in chain if isinstance(one, PairSchedule | Around))
    if config.objective.needs.side_value is not None and few and certain:
        key, worth = f"scorer{'.base' * few[0]}.pairs", config.selector.worth
        raise ValueError(
            f"objective={names['objective']} reads win rates (selector.worth={worth}), and {key}={chain[few[0]].pairs} "
            "with verdicts of 0 or 1 asks too few questions for them: they shrink to 1/2. "
            f"Fix: {key}=all, or verdicts that are probabilities (scorer.logprobs=true, several scorer.votes)."
        )


def outputs(config: RunConfig) -> int:
    """The outputs of the learner's reward head per response; 0 if it has none and trains a policy."""
    has = {field.name for field in fields(config.learner)}
    return int(config.learner.head.outputs) if "head" in has else 0


def warnings(config: RunConfig) -> list[str]:
    """Settings that work but affect the results: one sentence each."""
    objective = part_name("objective", config.objective)
    found = []
    if config.lag and not config.cluster.disaggregated:
        found.append(
            f"lag={config.lag} overlaps sampling with training, but here engine and learner take turns: the answers "
            "are a round older, and nothing is gained. Fix: lag=0, or cluster.layout=disaggregated on several GPUs."
        )
    if (steps := _swinging_steps(config)) is not None:
        found.append(
            f"objective={objective} takes up to {steps} steps a round against a fixed reference. If they reach the "
            "minimum of its loss, rounds swing between best responses on cyclic preferences. Fix: a smaller "
            "prompts.batch, a larger objective.tau (0.3 and above never swing), or algorithm=inpo."
        )
    if config.objective.needs.returns != "last":
        found.append(RETURNS[config.objective.needs.returns].format(objective=objective))
    theory = f". objective={objective} requires on-policy answers: its fixed point changes"
    draws = [
        (key, draw, theory if config.objective.needs.on_policy else "")
        for key, draw in config.sampler.drawn.items()
        if config.sampler.sources[draw.name] != "dataset"
    ]
    draws.append(("evaluate.draw", config.evaluate.draw, ", so eval/kl is not measured"))
    return found + [
        f"{key} decodes with {', '.join(f'{name}={value}' for name, value in draw.overrides.items())}: its answers "
        f"follow another distribution than the policy's own{consequence}. Fix: "
        f"{' '.join(f'answers.{name}={NEUTRAL[name][-1]:g}' for name in draw.overrides)}, or the same keys of {key}, "
        "unless it is meant."
        for key, draw, consequence in draws
        if not draw.is_on_policy
    ]
