"""Which parts can work together: what is refused before any worker starts, and what a reader should know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from rlhf_flow.config.schema import GROUPS, RunConfig, part_name
from rlhf_flow.system.optional_deps import MissingError, check_all


def check(config: RunConfig) -> None:
    """Refuse parts that each make sense and together do not. Raises ValueError with the way out."""
    names = {group: part_name(group, getattr(config, group)) for group in GROUPS}
    if config.model.dtype not in ("float32", "bfloat16"):
        raise ValueError(
            f"model.dtype must be float32 or bfloat16, got {config.model.dtype}. Try model.dtype=bfloat16."
        )
    config.timeline.check(config.rounds)
    _check_lag(config, names)
    _check_roles(config, names)
    _check_draws(config, names)
    _check_read(config, names)
    config.selector.check({draw.name: draw.n for draw in config.sampler.drawn.values()})
    _check_cluster(config)
    _check_averages(config, names)
    if config.engine.needs_own_process and config.cluster.in_process:
        raise ValueError(
            f"engine={names['engine']} needs a process of its own, but cluster={names['cluster']} runs everything in "
            "one. Try cluster=ray, or engine=huggingface."
        )
    if colocated(config) and config.engine.gpus > 1:
        raise ValueError(
            f"cluster.layout=colocated needs engines of one GPU, but engine={names['engine']} takes "
            f"{config.engine.gpus}: Ray gives a process a share of one GPU or several whole ones, but no share of "
            "several. Try engine.tensor_parallel=1 with cluster.engines, one for each GPU, or "
            "cluster.layout=disaggregated."
        )
    if config.sampler.needs_mixture and not config.engine.can_mix:
        raise ValueError(
            f"sampler={names['sampler']} draws from a mixture of two policies, token by token, and "
            f"engine={names['engine']} as configured cannot. Try engine=huggingface."
        )
    if config.objective.needs.general_preferences and not config.scorer.intransitive:
        raise ValueError(
            f"objective={names['objective']} plays a game of preferences, and scorer={names['scorer']} gives each "
            "answer a number: its preferences can have no cycle, and simpler methods solve that game. Try "
            "scorer=preference_model, or objective.scalar_judge=allow to use it all the same."
        )


def _check_cluster(config: RunConfig) -> None:
    """As the cluster does it. If its package is missing, those of engine and learner are told with it."""

    def cluster() -> None:
        config.cluster.check(ranks=config.learner.ranks)

    try:
        cluster()
    except MissingError:
        check_all(cluster, config.engine.check, config.learner.check)


def colocated(config: RunConfig) -> bool:
    """Whether all roles share the same GPUs, in turns."""
    return not (config.cluster.disaggregated or config.cluster.in_process)


def _check_averages(config: RunConfig, names: Mapping[str, str]) -> None:
    plan = config.timeline.at(1, ()).only(samplers=config.sampler.roles, anchors=config.objective.needs.anchors)
    if plan.averages and not config.learner.can_average:
        raise ValueError(
            f"schedule={names['schedule']} averages policies, and adapters have no average of their rank. "
            "Try learner.lora.rank=0, or another schedule."
        )


def _check_lag(config: RunConfig, names: Mapping[str, str]) -> None:
    """Answers that are a round old must be good enough for whoever reads them, and within the gate."""
    if config.lag:
        if config.objective.needs.on_policy:
            raise ValueError(
                f"lag={config.lag} learns from answers of the policy before the present one, and the fixed point of "
                f"objective={names['objective']} is that of answers of the policy itself. Try lag=0, or an objective "
                "that any answers serve, such as dpo."
            )
        if config.refresh.every is not None:
            raise ValueError(
                f"lag={config.lag} scores a round before the judge that refresh.every trains for it is there. "
                "Try lag=0, or leave refresh.every out."
            )
    most, stale = config.off_policy.max_staleness, _staleness(config)
    if most is None or not stale or max(stale) <= most:
        return
    if config.off_policy.exceeding == "stop" or min(stale) > most:
        raise ValueError(
            f"off_policy.max_staleness is {most}, and schedule={names['schedule']} with lag={config.lag} learns from "
            f"answers that are {max(stale)} rounds old. Raise it, or try lag=0."
        )


def _staleness(config: RunConfig) -> list[int]:
    """Of the policy's answers, from the second round on: before that nothing can be old."""
    plans = [config.timeline.at(round, ()) for round in range(2, config.rounds + 1)]
    return [plan.round - 1 - plan.samplers["policy"] for plan in plans if "policy" in plan.samplers]


def _check_roles(config: RunConfig, names: Mapping[str, str]) -> None:
    """Every policy that a part asks for must be named by the schedule."""
    plan = config.timeline.at(1, ())
    asked = (
        ("objective", "the log-probs of", config.objective.needs.anchors, plan.anchors),
        ("sampler", "answers of", config.sampler.roles, plan.samplers),
    )
    for slot, what, wanted, named in asked:
        if missing := sorted(wanted - named.keys()):
            raise ValueError(
                f"{slot}={names[slot]} needs {what} {', '.join(missing)}, but schedule={names['schedule']} names only "
                f"{', '.join(named) or 'none'}. Try another schedule."
            )


def _check_draws(config: RunConfig, names: Mapping[str, str]) -> None:
    """Every kind of answer that the objective reads must be drawn, and its third response must be one of that kind."""
    needs, sources, extra = config.objective.needs, config.sampler.sources, config.selector.extra
    who = f"objective={names['objective']}"
    if missing := sorted(needs.draws - set(sources.values())):
        raise ValueError(
            f"{who} needs answers from the {' and the '.join(missing)}, but sampler={names['sampler']} draws only from "
            f"the {' and the '.join(sorted(set(sources.values())))}. Try sampler=policy_and_reference or draws."
        )
    if needs.first_is_policy and not config.selector.keeps_order:
        raise ValueError(
            f"{who} moves the first answer of each pair, which must be the policy's own whoever won, and "
            f"selector={names['selector']} puts the winner first. Try selector=cross with selector.keep_order=true."
        )
    if extra is not None and extra not in sources:
        raise ValueError(
            f"selector.extra must be the name of a draw ({', '.join(sources)}), got {extra!r}. "
            "Try one of them, or leave it out."
        )
    if needs.extra is not None and (extra is None or sources[extra] != needs.extra):
        fitting = [name for name, source in sources.items() if source == needs.extra]
        raise ValueError(
            f"{who} reads a third answer beside each pair, from the {needs.extra}, but selector.extra is "
            f"{extra or 'null'}. Try selector.extra={' or '.join(fitting) or f'a draw from the {needs.extra}'}."
        )


def _check_read(config: RunConfig, names: Mapping[str, str]) -> None:
    """What the learner reads of a response, and what the selector says of it, must be what the objective reads."""
    needs, read, who = config.objective.needs, outputs(config), f"objective={names['objective']}"
    reading = {
        "logps": ("the log-probs of a policy", read == 0, "learner.head.outputs=0"),
        "number": ("one number of each response", read == 1, "learner.head.outputs=1"),
        "embedding": (
            "an even number of numbers of each response",
            read > 0 and read % 2 == 0,
            "learner.head.outputs=8",
        ),
    }
    what, fits, way_out = reading[needs.readout]
    if not fits:
        found = f"a head with {read} outputs" if read else "no head: it reads the log-probs of a policy"
        raise ValueError(f"{who} reads {what}, and the learner has {found}. Try {way_out}.")
    worth = "utility" if needs.side_value == "utility" else "wins"
    if needs.side_value and config.selector.worth != worth:
        raise ValueError(
            f"{who} reads the {'utilities' if needs.side_value == 'utility' else 'win rates'} of both sides of a pair, "
            f"and selector.worth is {config.selector.worth}. Try selector.worth={worth}."
        )


def outputs(config: RunConfig) -> int:
    """The numbers that the learner's head gives of a response; 0 where it has none, and reads log-probs."""
    has = {field.name for field in fields(config.learner)}
    return int(config.learner.head.outputs) if "head" in has else 0


def warnings(config: RunConfig) -> list[str]:
    """What works, and a reader of the results should know: a sentence each."""
    objective = part_name("objective", config.objective)
    told = []
    if config.lag and not config.cluster.disaggregated:
        told.append(
            f"lag={config.lag} lets answers be drawn while others are learned from, and here engine and learner take "
            "turns: the answers are a round older, and nothing is gained."
        )
    theory = f". The fixed point of objective={objective} is that of answers of the policy itself: it moves with them"
    draws = [
        (key, draw, theory if config.objective.needs.on_policy else "")
        for key, draw in config.sampler.drawn.items()
        if config.sampler.sources[draw.name] != "dataset"
    ]
    draws.append(("evaluate.draw", config.evaluate.draw, ", so eval/kl is not measured"))
    return told + [
        f"{key} decodes with {', '.join(f'{name}={value}' for name, value in draw.overrides.items())}: its answers "
        f"follow another distribution than the policy's own{consequence}."
        for key, draw, consequence in draws
        if not draw.is_on_policy
    ]
