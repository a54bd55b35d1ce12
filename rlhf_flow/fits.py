"""Whether a configuration fits the world that it names: the model, its tokenizer and the prompts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_flow import architectures
from rlhf_flow.learner.reading import check_view
from rlhf_flow.protocols import PromptSource, Sampler
from rlhf_flow.sampler.source import Source
from rlhf_flow.schema import RunConfig
from rlhf_flow.scorer.classifier import Classifier
from rlhf_flow.specs import Model
from rlhf_flow.together import outputs
from rlhf_flow.types import Draw

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def check(config: RunConfig, model: Model, prompts: PromptSource, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise ValueError for what the configuration alone does not show, with the way out."""
    architectures.check(config, model)
    _check_candidates(config.sampler.drawn, prompts.candidates)
    _fits(config, model, prompts, vocabulary=len(tokenizer))
    if config.evaluate.by == "agreement":
        _check_labelled(config.sampler, prompts)
        if outputs(config):
            check_view(tokenizer, prompts)
        elif max(prompts.candidates.values()) > 1:  # of a judge that compares, an answer is the letter that names it
            raise ValueError(
                "evaluate.by=agreement reads one number of each answer, and a learner without a head has all tokens of "
                "an answer to read. Try reward=pairwise, or evaluate.by=answers."
            )


def check_refresh(config: RunConfig) -> None:
    """Refuse a judge that cannot be trained, and one that is to be trained on nobody's labels. Raises ValueError."""
    if config.refresh.every is None:
        return
    if not isinstance(config.scorer, Classifier) or config.scorer.format != "chat":
        raise ValueError(
            "refresh.every trains the judge, which must be one that rlhf-flow train-reward makes, with "
            "scorer.format=chat. Leave refresh.every out for a judge that stays as it is."
        )
    if config.refresh.scorer is None:
        raise ValueError(
            "refresh.every trains the judge on labels, and nobody gives them. Try scorer@refresh.scorer=human."
        )
    if config.refresh.objective is None:
        raise ValueError(
            "refresh.every trains the judge, and nothing says by which loss. Try objective@refresh.objective=bt for a "
            "reward model, general_preference for a general preference model."
        )
    needs, head = config.refresh.objective.needs, config.scorer.outputs
    if needs.worth or needs.reads != ("number" if head == 1 else "embedding"):
        raise ValueError(
            f"refresh.objective must fit a judge with {head} outputs from pairs alone, and this one reads {needs.reads}"
            f"{' and the worth of both sides' if needs.worth else ''}. Try objective@refresh.objective=bt for a "
            "judge of one output, general_preference for one of several."
        )
    if config.evaluate.by != "answers" or config.evaluate.scorer is None:
        raise ValueError(
            "refresh.every changes the judge, so that its win rates in two rounds would not compare. Name another one "
            "that stays: scorer@evaluate.scorer=name."
        )
    if not {"head", "training"} <= {field.name for field in fields(config.learner)}:
        raise ValueError(
            "refresh.every needs a learner that trains reward models too. Try learner=torch or learner=deepspeed."
        )


def _fits(config: RunConfig, model: Model, prompts: PromptSource, *, vocabulary: int) -> None:
    """Refuse a tokenizer that does not belong to the model, and prompts that leave no room for an answer."""
    about = json.loads((Path(model.path) / "config.json").read_text())
    rows = about.get("vocab_size", vocabulary)
    if vocabulary > rows:
        raise ValueError(
            f"model.path={model.path}: its tokenizer has {vocabulary} tokens, but the model knows only {rows}. "
            "They do not belong together: give the folder that both were saved to."
        )
    positions = config.engine.reads_at_most(about.get("max_position_embeddings"))
    longest, drawn = prompts.longest, list(config.sampler.drawn.values())
    if config.evaluate.by == "answers":
        drawn.append(config.evaluate.draw)
    answer = max(_longest_answer(draw, prompts.candidates) for draw in drawn)
    if positions is not None and longest + answer > positions:
        raise ValueError(
            f"the longest prompt has {longest} tokens and an answer may have {answer}, but the model reads at most "
            f"{positions}. Try prompts.max_tokens={positions - answer} prompts.too_long=cut, or shorter draws."
        )


def _longest_answer(draw: Draw, there: Mapping[str, int]) -> int:
    """The most tokens that an answer can have: of a data set, as many as the longest has."""
    name = draw.candidate if isinstance(draw, Source) else None
    return draw.max_tokens if name is None else there.get(name, draw.max_tokens)


def _check_candidates(drawn: Mapping[str, Draw], there: Mapping[str, int]) -> None:
    """Refuse to draw an answer of the data set that some prompt has not, or that is longer than answers may be."""
    for key, draw in drawn.items():
        name = draw.candidate if isinstance(draw, Source) else None
        if name is None:
            continue
        if name not in there:
            raise ValueError(
                f"{key}.candidate must be an answer that every prompt came with ({', '.join(there) or 'none'}), got "
                f"{name!r}. Name its column with 'prompts.columns.candidates={{{name}: column}}'."
            )
        if there[name] > draw.max_tokens:
            raise ValueError(
                f"{key}.max_tokens must be >= {there[name]}, the tokens of the longest {name!r} among the prompts, got "
                f"{draw.max_tokens}. Raise it, or leave out the prompts with longer ones."
            )


def _check_labelled(sampler: Sampler, prompts: PromptSource) -> None:
    """Refuse to measure agreement on answers that nobody labelled."""
    if sampler.roles:
        raise ValueError(
            f"evaluate.by=agreement takes answers that came with the prompts, and the sampler asks "
            f"{', '.join(sorted(sampler.roles))}. Try who=dataset for every draw, or evaluate.by=answers."
        )
    drawn = {draw.candidate for draw in sampler.drawn.values() if isinstance(draw, Source)}
    lacking = [prompt.id for prompt in prompts.held_out() if not drawn <= set(prompt.candidates)]
    if lacking:
        raise ValueError(
            f"evaluate.by=agreement takes answers that came with the held-out prompts, and {len(lacking)} of them, "
            f"such as {lacking[0]!r}, lack some. Add their columns, or leave prompts.held_out_path out."
        )
