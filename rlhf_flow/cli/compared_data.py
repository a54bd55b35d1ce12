"""What `rlhf-flow compare --world` makes for recipes that learn from given answers or another policy, once per seed.

One run samples two answers of the start policy to each prompt, compares them with the training judge and trains by DPO.
Its pairs are the data. Its policy after half of them is the other policy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlhf_flow.config.compose import compose, with_choices
from rlhf_flow.config.schema import RunConfig
from rlhf_flow.objective.tgdpo import REWARD

MAKER = "data"  # the name of that run, in place of a recipe's
ROUNDS = 2  # of that run; all answers are those of the start
BETTER, WORSE, LABEL = "chosen", "rejected", "preference"  # columns of `rlhf-flow export pairs`
LABELS = ("scorer=recorded", f"scorer.first={BETTER}", f"scorer.second={WORSE}", f"scorer.preference={LABEL}")


@dataclass(frozen=True)
class Given:
    """What a run reads besides its own answers, and the judge queries of making it."""

    overrides: tuple[str, ...] = ()
    each: int = 0  # judge queries of the data of one prompt
    once: int = 0  # judge queries of the other policy
    labelled: bool = False  # the run takes the data's labels, and asks the judge nothing
    queries: int = 0  # `once`, and `each` for every prompt of the run


NOTHING = Given()


def prompts_per_round(config: RunConfig, queries: int, given: Given = NOTHING) -> int:
    """The batch with which a run stays within `queries`: answers that are rated, or pairs that are compared.

    Those of `given` count. Raises ValueError if that is less than one prompt.
    """
    asked = 0 if given.labelled else _asked(sum(draw.n for draw in config.sampler.drawn.values()), config)
    one = config.rounds * (asked + given.each)
    batch = (queries - given.once) // one
    if batch < 1:
        least = given.once + one
        raise ValueError(f"--queries={queries}: one prompt per round needs {least}. Fix: --queries={least} or more.")
    return batch


def _asked(answers: int, config: RunConfig) -> int:
    """The judge queries of one prompt."""
    return answers * (answers - 1) // 2 if config.scorer.intransitive else answers


def needed(recipe: str, made: Path, queries: int, overrides: Sequence[str], folders: Sequence[str]) -> Given:
    """What a recipe reads from `made`, the folder of the run that makes it; an empty one if it needs nothing.

    Raises ValueError, or an error of Hydra, if the recipe does not fit the overrides.
    """
    chosen, policy = [*overrides, f"algorithm={recipe}"], f"anchors.policies={{{REWARD}: {made}/rounds/00001/policy}}"
    try:
        config, choices = with_choices(*chosen, folders=folders)
    except ValueError as error:
        try:
            config = compose(*chosen, policy, folders=folders)
        except ValueError:
            raise error from None
        once = _asked(2, config) * _prompts(config, queries)
        return Given((policy,), once=once, queries=once)
    drawn = list(candidates(config))
    if not drawn:
        return NOTHING
    names = sorted({name for each in drawn for name in each.split("|")})
    columns = [f"prompts.columns.candidates.{name}={WORSE if name == WORSE else BETTER}" for name in names]
    given = [f"prompts.path={pairs(made)}", "prompts.schema=columns", *columns]
    labelled = {BETTER, WORSE} <= {*drawn}
    if labelled:
        judge = [] if config.evaluate.scorer is not None else [f"scorer@evaluate.scorer={choices['scorer']}"]
        given += [*LABELS, *judge, "evaluate.proxy=false"]
    each = _asked(2, config)
    found = Given(tuple(given), each=each, labelled=labelled)
    batch = prompts_per_round(compose(*chosen, *given, folders=folders), queries, found)
    return Given(found.overrides, each=each, labelled=labelled, queries=each * config.rounds * batch)


def pairs(made: Path) -> Path:
    """The file of `rlhf-flow export pairs`."""
    return made / "export" / "pairs.parquet"


def candidates(config: RunConfig) -> Iterator[str]:
    """The candidates of the prompts that a recipe draws or continues."""
    for draw in config.sampler.drawn.values():
        yield from (each for each in (vars(draw).get("candidate"), vars(draw).get("continues")) if each)


def maker(overrides: Sequence[str], queries: int, folders: Sequence[str]) -> list[str]:
    """The arguments of `rlhf-flow run` for the run that makes data of `queries` judge queries."""
    return [*_making(overrides), f"prompts.batch={prompts_of_maker(overrides, queries, folders)}"]


def prompts_of_maker(overrides: Sequence[str], queries: int, folders: Sequence[str]) -> int:
    """Its prompts per round."""
    return _prompts(compose(*_making(overrides), folders=folders), queries)


def _making(overrides: Sequence[str]) -> list[str]:
    return [
        *overrides,
        *("algorithm=online_dpo", "sampler=draws", "sampler.draws=[{name: reference, n: 2, policy: reference}]"),
        *("selector=only_pair", "selector.label=soft", "selector.identical=keep", "selector.truncated=keep"),
        *(f"rounds={ROUNDS}", f"evaluate.every={ROUNDS}", "checkpoint.every=1", f"checkpoint.keep={ROUNDS}"),
        "observe.console=false",
    ]


def _prompts(config: RunConfig, queries: int) -> int:
    """The prompts of a round of the run that makes the data."""
    return max(1, queries // (ROUNDS * _asked(2, config)))
