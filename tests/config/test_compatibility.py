"""Parts that each make sense and together do not, and parts that work while a reader should know something."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest

from rlhf_flow.cluster.ray import LAYOUTS
from rlhf_flow.config import compose as config
from rlhf_flow.config.compatibility import check, warnings
from rlhf_flow.config.schema import RunConfig
from rlhf_flow.protocols import Selector
from rlhf_flow.replay import All, Decay, Window
from rlhf_flow.sampler.mixture import MixtureSampler
from rlhf_flow.schedule import EveryK, HalfSteps, Versions
from rlhf_flow.selector.group import Group
from rlhf_flow.selector.single import Single
from rlhf_flow.types import Needs
from tests.config.test_compose import LOCAL

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Demanding:
    @property
    def needs(self) -> Needs:
        return Needs(anchors=frozenset({"reference", "slow"}))


@cache  # a configuration is frozen, and Hydra takes its time
def composed(*overrides: str) -> RunConfig:
    return config.compose(*LOCAL, *overrides)


def test_an_objective_whose_anchors_nobody_provides_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"needs the log-probs of slow, but schedule=fixed provides only reference, previous\. Fix"
    ):
        check(replace(composed(), objective=Demanding()))


def test_a_selector_is_told_how_many_responses_there_are() -> None:
    with pytest.raises(ValueError, match=r"selector=only_pair needs exactly 2 responses per prompt.* draws 5"):
        composed("selector=only_pair", "sampler.draws.0.n=5")
    composed("selector=only_pair", "sampler.draws.0.n=2")


def test_several_ranks_need_a_cluster_that_has_them() -> None:
    with pytest.raises(
        ValueError,
        match=r"learner\.ranks=2: cluster=local runs one learner rank .* Fix: cluster=ray, or learner\.ranks=1",
    ):
        composed("learner=deepspeed", "learner.ranks=2")


def test_an_engine_that_shares_its_process_with_nobody_needs_one() -> None:
    with pytest.raises(
        ValueError, match=r"engine=vllm needs a process of its own, .*cluster=local.* Fix: cluster=ray, or engine=hugg"
    ):
        composed("engine=vllm")


def test_an_engine_of_several_gpus_cannot_share_them_with_other_roles() -> None:
    several = ("engine=vllm", "cluster=ray", "engine.tensor_parallel=2")
    with pytest.raises(ValueError, match=r"cluster\.layout=colocated: .* takes 2 GPUs.*cluster\.engines.*disaggr"):
        composed(*several, "cluster.layout=colocated")
    composed(*several)


@pytest.mark.parametrize("key", ["gpu_share=0.5", "resources.engine.big=1"])
def test_what_tells_roles_apart_is_refused_where_they_are_together(key: str) -> None:
    with pytest.raises(ValueError, match=r"with cluster\.layout=colocated all roles are .* Fix: leave it out"):
        composed("cluster=ray", "cluster.layout=colocated", f"+cluster.{key}" if "big" in key else f"cluster.{key}")
    with pytest.raises(ValueError, match=r"cluster\.layout must be one of disaggregated, colocated, got apart"):
        composed("cluster=ray", "cluster.layout=apart")


def test_engines_and_learner_work_at_the_same_time_only_where_each_has_its_own() -> None:
    apart = {layout: composed("cluster=ray", f"cluster.layout={layout}").cluster.disaggregated for layout in LAYOUTS}
    assert apart == {"disaggregated": True, "colocated": False}
    assert not composed().cluster.disaggregated


def test_a_greedy_draw_has_no_second_answer() -> None:
    with pytest.raises(
        ValueError, match=r"draw 'policy': n must be 1 at temperature 0, where all responses are equal, got 2"
    ):
        composed("sampler.draws.0.temperature=0")


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model\.dtype must be float32 or bfloat16, got fp8"):
        composed("model.dtype=fp8")


def test_nothing_is_said_of_draws_from_the_policy_itself() -> None:
    assert warnings(composed()) == []


@pytest.mark.parametrize(
    ("override", "told"),
    [
        (
            "sampler.draws.0.temperature=0.7",
            r"sampler\.draws\.0 decodes with temperature=0\.7: .* another distribution than",
        ),
        (
            "sampler.draws=[{name: a, n: 2}, {name: b, top_k: 5, top_p: 0.9}]",
            r"draws\.1 decodes with top_p=0\.9, top_k=5:",
        ),
        ("evaluate.draw.temperature=0", r"evaluate\.draw decodes with temperature=0\.0: .* eval/kl"),
    ],
)
def test_draws_from_another_distribution_are_flagged(override: str, told: str) -> None:
    (warning,) = warnings(composed(override))
    assert re.search(told, warning)
    keys, key = re.findall(r"Fix: (.*), or the same keys of (.*), unless it is meant\.$", warning)[0]
    if "=[" not in override:  # else the list itself is to be changed
        assert warnings(composed(override, *keys.replace("answers", key).split())) == []


# -- objectives, and what they ask of the parts around them ----------------------------------------------------------

XPO = ("objective=xpo", "selector=cross", "replay=all")


def test_exploration_needs_answers_of_the_reference() -> None:
    with pytest.raises(
        ValueError,
        match=r"objective=xpo needs answers from the reference, but sampler=policy draws only from the policy\. "
        r"Fix: sampler=policy_and_reference",
    ):
        composed(*XPO, "selector=random", "selector.extra=policy")


def test_a_third_answer_must_be_named_and_of_the_right_kind() -> None:
    both = (*XPO, "sampler=policy_and_reference")
    with pytest.raises(ValueError, match=r"third answer .*from the reference, .* null\. Fix: selector\.extra=ref"):
        composed(*both)
    with pytest.raises(ValueError, match=r"selector\.extra is policy\. Fix: selector\.extra=reference"):
        composed(*both, "selector.extra=policy")
    with pytest.raises(ValueError, match=r"selector\.extra must be .* draw \(policy, reference\), got 'gold'"):
        composed(*both, "selector.extra=gold")
    composed(*both, "selector.extra=reference")


def test_tau_must_leave_room_for_a_step() -> None:
    with pytest.raises(ValueError, match=r"objective\.tau must .*eta"):
        composed("objective=inpo", "objective.eta=0.1", "objective.tau=0.1")


GAME = ("objective=nash_md", "sampler=draws", "selector=cross", "selector.second=mixture", "selector.label=soft")
DRAWS = "sampler.draws=[{name: policy, n: 1}, {name: mixture, n: 1, weight: 0.125}]"


def test_a_game_needs_a_judge_of_preferences_or_an_explicit_word() -> None:
    with pytest.raises(
        ValueError, match=r"objective=nash_md is for intransitive preferences.* objective\.scalar_judge=allow"
    ):
        composed(*GAME, DRAWS)
    composed(*GAME, DRAWS, "objective.scalar_judge=allow")


def test_a_policy_gradient_needs_its_own_answer_first() -> None:
    with pytest.raises(ValueError, match=r"must be the policy's own, win or lose, .* selector\.keep_order=true"):
        composed(*GAME, DRAWS, "objective.scalar_judge=allow", "selector.keep_order=false")


@dataclass(frozen=True)
class Plain:
    """An engine that has one set of weights."""

    needs_own_process: bool = False
    can_mix: bool = False


def test_a_mixture_needs_an_engine_that_can() -> None:
    made = composed("sampler=mixture", "selector=only_pair")
    check(made)
    with pytest.raises(ValueError, match=r"sampler=mixture samples from a mixture .* cannot\. Fix: engine="):
        check(replace(made, engine=Plain()))


def test_a_fixed_point_of_the_policy_itself_is_said_to_move_with_other_decoding() -> None:
    (warning,) = warnings(composed("objective=ipo", "sampler.draws.0.top_p=0.9"))
    assert "objective=ipo requires on-policy answers" in warning
    (warning,) = warnings(composed("sampler.draws.0.top_p=0.9"))
    assert "fixed point" not in warning


def test_half_steps_end_on_a_whole_one() -> None:
    with pytest.raises(ValueError, match=r"rounds must be even with schedule=half_steps.* Fix: rounds=4"):
        composed("schedule=half_steps", "rounds=3")


def test_who_needs_answers_of_the_policy_itself_cannot_be_a_round_behind() -> None:
    composed("lag=1", "algorithm=online_dpo")
    with pytest.raises(
        ValueError, match=r"lag=1 trains on answers of the previous policy.* objective=ipo .* Fix: lag=0"
    ):
        composed("lag=1", "algorithm=online_ipo")
    with pytest.raises(ValueError, match=r"lag must be 0 or 1, got 2"):
        composed("lag=2")


def test_a_gate_that_lets_nothing_through_is_refused() -> None:
    composed("lag=1", "off_policy.max_staleness=1")
    composed("off_policy.max_staleness=0")
    for exceeding in ("stop", "drop"):
        with pytest.raises(ValueError, match=r"off_policy\.max_staleness=0: .* lag=1 trains on .* 1 rounds old"):
            composed("lag=1", "off_policy.max_staleness=0", f"off_policy.exceeding={exceeding}")
    with pytest.raises(ValueError, match=r"off_policy\.exceeding must be drop or stop, got 'warn'"):
        composed("off_policy.exceeding=warn")


def test_a_lag_that_gains_nothing_is_said() -> None:
    assert any("nothing is gained" in line for line in warnings(composed("lag=1")))
    apart = config.compose("model.path=x", "prompts.path=y", "scorer.path=z", "lag=1")
    assert not any("nothing is gained" in line for line in warnings(apart))


# -- fixed points that need the policy's own answers -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("algorithm", "replay"),
    [
        ("online_ipo", ("replay=all",)),
        ("inpo", ("replay=decay",)),
        ("egpo", ("replay.size=4",)),
        ("sppo", ("replay=all",)),
        ("nash_md", ("replay=all", "objective.scalar_judge=allow")),
        ("mpo", ("replay.size=2",)),
    ],
)
def test_answers_of_earlier_policies_are_refused_if_they_move_the_fixed_point(
    algorithm: str, replay: tuple[str, ...]
) -> None:
    with pytest.raises(ValueError, match=r"trains round 2 on answers of round 1.*Fix: replay=window replay\.size=1"):
        composed(f"algorithm={algorithm}", "rounds=2", *replay)
    composed("algorithm=online_dpo", "rounds=2", "replay=all")


@pytest.mark.parametrize("override", ["schedule=fixed", "lag=1", "schedule=every_k schedule.k=2"])
def test_selm_explores_away_from_the_policy_that_answered(override: str) -> None:
    with pytest.raises(ValueError, match=r"objective=selm needs samples of its reference.*Fix: schedule=every_k"):
        composed("algorithm=selm", "rounds=3", *override.split())
    composed("algorithm=selm", "rounds=3")


def changed(algorithm: str, *overrides: str, **parts: Any) -> RunConfig:
    """Two rounds of a recipe with other parts, checked."""
    config = replace(composed(f"algorithm={algorithm}", "rounds=2", *overrides), **parts)
    check(config)
    return config


@pytest.mark.parametrize(
    ("algorithm", "parts"),
    [
        ("selm", {"replay": All()}),
        ("selm", {"replay": Decay()}),
        ("xpo", {"schedule": EveryK()}),
        ("a_lol", {"replay": All(), "schedule": EveryK()}),
    ],
)
def test_replayed_answers_of_another_reference_are_refused(algorithm: str, parts: dict[str, Any]) -> None:
    name = "decay" if isinstance(parts.get("replay"), Decay) else "all"
    with pytest.raises(
        ValueError,
        match=rf"^replay={name}: round 2 trains on answers that the (policy|reference) of round 0 gave in round 1, and "
        rf"objective={algorithm} needs samples of its reference, that of round 1\. Fix: replay=window replay\.size=1",
    ):
        changed(algorithm, **parts)


def test_replayed_answers_of_the_same_reference_are_trained_on() -> None:
    for algorithm in ("xpo", "a_lol"):
        changed(algorithm, replay=All())
    still = Versions(policy="start", reference_sampler="start", reference="start")
    changed("selm", replay=All(), schedule=still)


@pytest.mark.parametrize("algorithm", ["hypo", "kto", "trpa"])
def test_an_estimate_of_the_kl_needs_samples_of_the_policy(algorithm: str) -> None:
    for replay in (All(), Window(2)):
        with pytest.raises(ValueError, match=rf"round 2 on answers of round 1, and objective={algorithm} requires"):
            changed(algorithm, replay=replay)
    with pytest.raises(ValueError, match=rf"lag=1 trains on .*objective={algorithm} requires on-policy answers"):
        changed(algorithm, lag=1)
    with pytest.raises(ValueError, match=rf"^schedule=half_steps: round 2 .* objective={algorithm} needs samples of"):
        changed(algorithm, schedule=HalfSteps())
    changed(algorithm)


def test_no_kl_needs_no_samples_of_the_policy() -> None:
    changed("trpa", "objective.kl=0", replay=All())


@pytest.mark.parametrize("algorithm", ["rloo", "grpo", "nash_md"])
def test_a_ratio_is_to_the_policy_that_answered(algorithm: str) -> None:
    judge = ("objective.scalar_judge=allow",) if algorithm == "nash_md" else ()
    with pytest.raises(ValueError, match=r"^schedule=versions: .* its previous, that of round 0\. Fix: schedule=fixed"):
        changed(algorithm, *judge, schedule=Versions(previous="start"))
    with pytest.raises(ValueError, match=rf"objective={algorithm} needs answers from the policy, but sampler=mixture"):
        changed(algorithm, *judge, sampler=MixtureSampler())


def test_a_lag_behind_a_moving_reference_is_refused_for_answers_of_the_reference() -> None:
    changed("a_lol", lag=1)
    with pytest.raises(ValueError, match=r"^schedule=every_k lag=1: .* Fix: schedule=fixed lag=0\."):
        changed("a_lol", lag=1, schedule=EveryK())


def test_a_run_has_no_answers_of_another_checkpoint() -> None:
    with pytest.raises(ValueError, match=r"anchors\.policies\.reference: objective=xpo needs answers of this policy"):
        changed("xpo", "anchors.policies={reference: elsewhere}")


def test_the_first_answer_is_from_a_draw_of_the_policy() -> None:
    swapped = ("objective.scalar_judge=allow", "selector.first=mixture", "selector.second=policy")
    with pytest.raises(ValueError, match=r"puts the answer of mixture first\. Fix: selector=cross selector\.first=pol"):
        changed("nash_md", *swapped)


@pytest.mark.parametrize(
    ("algorithm", "selector", "order"),
    [
        ("srpo", Group(), "drawn"),
        ("pro", Group(order="drawn"), "worth"),
        ("grpo", Group(order="drawn"), "worth"),  # with answers that have no worth
        ("pro", Single(), "worth"),
    ],
)
def test_groups_are_in_the_order_that_the_objective_reads(algorithm: str, selector: Selector, order: str) -> None:
    with pytest.raises(
        ValueError, match=rf"its groups hold the .*, and objective={algorithm} reads the .* Fix: .*\.order={order}\."
    ):
        changed(algorithm, selector=selector)


def test_long_rounds_against_a_fixed_reference_swing() -> None:
    many = ("algorithm=online_ipo", "prompts.batch=1024", "learner.training.batch=64", "learner.training.epochs=1")
    assert any("takes up to 16 steps a round" in told for told in warnings(composed(*many, "objective.tau=0.1")))
    for quiet in ("objective.tau=0.3", "prompts.batch=256 objective.tau=0.1", "algorithm=inpo objective.eta=0.1"):
        assert not any("swing" in told for told in warnings(composed(*many, *quiet.split())))


def by_judge(*overrides: str) -> RunConfig:
    others = (key for key in LOCAL if not key.startswith("scorer"))
    return config.compose(*others, "scorer.model=m", "scorer.endpoint.base_url=http://127.0.0.1:1/v1", *overrides)


@pytest.mark.parametrize("numbers", ["sppo", "gpo", "rebel", "kto", "rloo selector.worth=wins"])
def test_few_questions_to_a_judge_of_letters_give_no_numbers(numbers: str) -> None:
    """Every number of a judge of pairs follows from win rates, its utility too."""
    chosen = (*f"algorithm={numbers}".split(), "scorer=judge", "scorer.pairs=knockout")
    with pytest.raises(ValueError, match=r"reads win rates .*scorer\.pairs=knockout.*Fix: scorer\.pairs=all"):
        by_judge(*chosen, "scorer.logprobs=false")
    by_judge(*chosen)


def test_few_questions_are_enough_for_the_best_and_the_worst() -> None:
    by_judge("algorithm=inpo", "scorer=judge", "scorer.pairs=knockout", "scorer.logprobs=false")
    by_judge("algorithm=sppo", "scorer=judge", "scorer.logprobs=false")


def test_a_noisy_annotator_makes_verdicts_of_0_or_1_of_probabilities() -> None:
    others = (key for key in LOCAL if not key.startswith("scorer"))
    noisy = ("scorer=simulated", "scorer@scorer.base=comparison", "scorer.base.function=a.b")
    few = (*others, "algorithm=grpo", *noisy)
    config.compose(*few)
    with pytest.raises(
        ValueError, match=r"reads win rates .*scorer\.base\.pairs=knockout.*Fix: scorer\.base\.pairs=all"
    ):
        config.compose(*few, "scorer.base.pairs=knockout")


@pytest.mark.parametrize(
    ("algorithm", "regularised"), [("sppo", None), ("gpo", None), ("dno", "tau"), ("spo", "beta"), ("mnpo", None)]
)
def test_the_iterate_that_theory_returns_is_said(algorithm: str, regularised: str | None) -> None:
    free = () if regularised is None else (f"objective.{regularised}=0.0",)
    average = any("returns the average" in told for told in warnings(changed(algorithm, *free)))
    assert average == (algorithm != "mnpo")
    if regularised is not None:
        held = changed(algorithm, f"objective.{regularised}=0.05")
        assert not any("theory" in told for told in warnings(held))


# -- values that follow from others ------------------------------------------------------------------------------------


def test_the_weight_of_a_mixture_follows_tau_and_eta() -> None:
    for keys, weight in (((), 0.1), (("objective.tau=0.2",), 0.2), (("sampler.weight=0.7",), 0.7)):
        assert composed("algorithm=nash_md_exact", *keys).sampler.weight == pytest.approx(weight)
    with pytest.raises(Exception, match="divides two numbers, got None"):
        composed("algorithm=nash_md_exact", "objective=inpo", "objective.tau=null")


def test_the_weight_of_a_likelihood_follows_beta() -> None:
    for keys, weight in (((), 0.0005), (("objective.base.beta=0.5",), 0.0025), (("objective.weight=1",), 1.0)):
        assert composed("algorithm=rpo", *keys).objective.weight == pytest.approx(weight)


def test_there_are_as_many_past_policies_as_weights() -> None:
    for keys, depth in (((), 3), (("objective.weights=[1.0]",), 1), (("objective.weights=[0.4,0.3,0.2,0.1]",), 4)):
        config = composed("algorithm=mnpo", *keys)
        assert (config.schedule.depth, len(config.objective.weights)) == (depth, depth)
