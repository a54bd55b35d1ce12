"""Checks a configuration against its model, tokenizer and prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_flow.config import architectures
from rlhf_flow.config.compatibility import outputs
from rlhf_flow.config.schema import RunConfig, part_name
from rlhf_flow.engine.vllm.cache import too_small
from rlhf_flow.engine.vllm.spec import VLLM
from rlhf_flow.learner.lora import LoRA
from rlhf_flow.learner.readout import check_view
from rlhf_flow.protocols import PromptSource
from rlhf_flow.sampler.source import Source
from rlhf_flow.scorer.llm.self_judge import SelfJudge
from rlhf_flow.scorer.models.classifier import Classifier
from rlhf_flow.scorer.wrappers.hindsight import Hindsight
from rlhf_flow.specs import Model
from rlhf_flow.system.errors import ConfigError
from rlhf_flow.tokenization.chat_template import takes_system
from rlhf_flow.tokenization.end_tokens import end_tokens
from rlhf_flow.types import SamplingParams
from rlhf_flow.weights.model_sizes import read_sizes
from rlhf_flow.weights.start_checkpoint import faults

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def check(config: RunConfig, model: Model, prompts: PromptSource, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise ValueError, with a remedy, for mistakes that the configuration alone does not show."""
    _check_candidates(config.sampler.drawn, prompts.candidates)
    if config.sampler.roles or config.held_out_samples:
        end_tokens(model.path, tokenizer)  # raises if there is none
    _fits(config, model, prompts, vocabulary=len(tokenizer))
    if config.evaluate.by != "answers":
        _check_given(config, prompts)
    if config.evaluate.by == "likelihood" and outputs(config):
        raise ValueError(
            "evaluate.by=likelihood reads the log-probs of a policy, and the learner has a head. "
            "Fix: evaluate.by=agreement."
        )
    if config.evaluate.by == "agreement":
        if outputs(config):
            check_view(tokenizer, prompts)
        elif max(prompts.candidates.values()) > 1:  # in pairwise prompts, an answer is a letter
            raise ValueError(
                "evaluate.by=agreement needs one number per answer, and a learner without a head gives the log-probs "
                "of all its tokens. Fix: reward=pairwise, or evaluate.by=answers."
            )


def check_given(config: RunConfig, given: PromptSource | None) -> None:
    """Raise ValueError if the given pairs have no answers, or are of no use to the objective."""
    if given is None:
        return
    needs, lacking = config.objective.needs, {config.given.chosen, config.given.rejected} - set(given.candidates)
    if lacking:
        raise ValueError(
            f"given.prompts needs the candidates {config.given.chosen} and {config.given.rejected} on every row, and "
            f"{', '.join(sorted(lacking))} is missing. Fix: given.prompts.columns.candidates={{chosen: <column>, "
            "rejected: <column>}."
        )
    reads = needs.side_value or needs.extra
    if needs.examples != "pairs" or reads or needs.on_policy or needs.first_is_policy or needs.readout != "logps":
        raise ValueError(
            f"given.prompts adds pairs of a data set, and objective={part_name('objective', config.objective)} needs "
            "more than a label, or the policy's own answers. Fix: an objective such as dpo, or leave given.prompts out."
        )


def check_start(config: RunConfig, model: Model) -> None:
    """Raise ValueError if the files of the start model show that it cannot be used."""
    kind = "start of a reward model" if outputs(config) else "policy"
    for fault in faults(Path(model.path), kind=kind, key="model.path", trust_remote_code=model.trust_remote_code):
        raise ValueError(f"model.path={model.path}: {fault.says}. Fix: {fault.way_out}.")
    if not outputs(config):
        rank = config.engine.lora_rank if isinstance(config.engine, VLLM) else 0
        architectures.check(model, engine=part_name("engine", config.engine), lora_rank=rank)
    lora = vars(config.learner).get("lora")
    if lora is not None and lora.rank:
        _check_lora(lora, model)


def _check_lora(lora: LoRA, model: Model) -> None:
    """Raise ValueError if the model has no layers that LoRA supports."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    trust = model.trust_remote_code
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(
            AutoConfig.from_pretrained(model.path, trust_remote_code=trust), trust_remote_code=trust
        )
    output = skeleton.get_output_embeddings()
    modules = {name: module for name, module in skeleton.named_modules() if name and module is not output}
    linear = [name for name, module in modules.items() if isinstance(module, torch.nn.Linear)]
    kinds = {type(module).__name__ for module in modules.values()} & {"Conv1D"}
    if not linear and kinds:
        raise ValueError(
            f"learner.lora.rank={lora.rank}: LoRA supports only nn.Linear, and the layers of {type(skeleton).__name__} "
            f"are {', '.join(kinds)}. Fix: learner.lora.rank=0, which trains all weights."
        )
    lora.chosen(linear, [name for name in modules if name not in linear])


def warnings(prompts: PromptSource, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Properties of the prompts that work but affect the results: one sentence each."""
    asked = [*prompts.batch(1), *prompts.held_out()]
    system = any(prompt.messages and prompt.messages[0].role == "system" for prompt in asked)
    if not system or tokenizer.chat_template is None or takes_system(tokenizer):
        return []
    return ["the chat template of model.path has no system role: system messages go before the first user message"]


def check_refresh(config: RunConfig) -> None:
    """Raise ValueError if refresh.every is set and the scorer cannot be trained, or its labels or loss are missing."""
    if config.refresh.every is None:
        return
    if not isinstance(config.scorer, Classifier) or config.scorer.format != "chat":
        raise ValueError(
            "refresh.every trains the scorer, which must be a model of rlhf-flow train-reward, with "
            "scorer.format=chat. Fix: leave refresh.every out for a fixed scorer."
        )
    if config.refresh.scorer is None:
        raise ValueError(
            "refresh.every trains the scorer on labels: refresh.scorer is not set. Fix: scorer@refresh.scorer=human."
        )
    if config.refresh.objective is None:
        raise ValueError(
            "refresh.every trains the scorer, but refresh.objective is not set. Fix: objective@refresh.objective=bt "
            "for a reward model, general_preference for a general preference model."
        )
    needs, head = config.refresh.objective.needs, config.scorer.outputs
    if needs.side_value or needs.readout != ("number" if head == 1 else "embedding"):
        raise ValueError(
            f"refresh.objective must train a scorer with {head} outputs from pairs alone, and this one reads "
            f"{needs.readout}{' and a value of both sides' if needs.side_value else ''}. Fix: "
            "objective@refresh.objective=bt for one output, general_preference for several."
        )
    if config.evaluate.by != "answers" or config.evaluate.scorer is None:
        raise ValueError(
            "refresh.every changes the scorer, so its win rates in different rounds are not comparable. Fix: a fixed "
            "evaluation scorer, scorer@evaluate.scorer=name."
        )
    if not {"head", "training"} <= {field.name for field in fields(config.learner)}:
        raise ValueError(
            "refresh.every needs a learner that trains reward models. Fix: learner=torch or learner=deepspeed."
        )


def _fits(config: RunConfig, model: Model, prompts: PromptSource, *, vocabulary: int) -> None:
    """Raise ValueError if the tokenizer has too many tokens, or the prompts leave no room for an answer."""
    sizes = read_sizes(model.path, trust_remote_code=model.trust_remote_code)
    rows = sizes.vocabulary
    if vocabulary > rows > 0:
        raise ValueError(
            f"model.path={model.path}: its tokenizer has {vocabulary} tokens, but the model only {rows}. "
            "Fix: a folder to which model and tokenizer were saved together."
        )
    positions = config.engine.max_sequence(sizes.positions)
    longest, answer = prompts.longest, longest_answer(config, prompts)
    if isinstance(config.engine, VLLM) and not architectures.has_gpu():
        room = config.engine.max_model_len or longest + answer
        token = (2 if config.sampler.needs_mixture else 1) * sizes.cache(model.dtype)
        for refusal in too_small(config.engine.kv_cache_mib, token=token, longest=room):
            raise refusal
    if positions is not None and longest + answer > positions:
        if answer > positions // 2 and not config.sampler.roles:
            half = positions // 2
            keys: tuple[str, ...] = (
                *(f"prompts.max_tokens={half}", f"prompts.columns.answer_tokens={half}", "prompts.too_long=drop"),
            )
        elif answer < positions:
            keys = (f"prompts.max_tokens={positions - answer}", "prompts.too_long=cut")
        else:
            keys = (f"answers.max_tokens={max(positions - longest, positions // 2)}",)
        raise ConfigError(
            f"the longest prompt has {longest} tokens and an answer may have {answer}, but the model reads at most "
            f"{positions} tokens",
            " ".join(keys) + (", or shorter draws" if answer < positions else ""),
            keys,
        )


def longest_answer(config: RunConfig, prompts: PromptSource) -> int:
    """The maximum number of tokens of an answer, of all draws and of evaluation."""
    drawn = list(config.sampler.drawn.values())
    if config.held_out_samples:
        drawn.append(config.evaluate.draw)
    return max(_longest_answer(draw, prompts.candidates) for draw in drawn)


def longest_sequence(config: RunConfig, model: Model, prompts: PromptSource) -> int:
    """Maximum tokens of prompt and answer, plus one that vLLM samples when it computes log-probs."""
    positions = read_sizes(model.path, trust_remote_code=model.trust_remote_code).positions
    longest = prompts.longest + longest_answer(config, prompts) + 1
    if positions is not None and any(
        isinstance(each, SelfJudge | Hindsight) for each in (config.scorer, config.evaluate.scorer)
    ):
        return positions  # the engine reads questions about answers
    return longest if positions is None else min(longest, positions)


def _longest_answer(draw: SamplingParams, candidates: Mapping[str, int]) -> int:
    """The maximum number of tokens of an answer; for a candidate, those of the longest."""
    if not isinstance(draw, Source):
        return draw.max_tokens
    if draw.continues is not None:
        return candidates.get(draw.continues, 0) + draw.max_tokens
    return draw.max_tokens if draw.candidate is None else candidates.get(draw.candidate, draw.max_tokens)


def _check_candidates(drawn: Mapping[str, SamplingParams], candidates: Mapping[str, int]) -> None:
    """Raise ValueError if a draw names a candidate that some prompt lacks, or one longer than its max_tokens."""
    for key, draw in drawn.items():
        field = "candidate" if vars(draw).get("candidate") is not None else "continues"
        name = vars(draw).get(field)
        if name is None:
            continue
        if name not in candidates:
            raise ValueError(
                f"{key}.{field} must be an answer that every prompt has ({', '.join(candidates) or 'none'}), got "
                f"{name!r}. Fix: name its column, 'prompts.columns.candidates={{{name}: column}}'."
            )
        if field == "candidate" and candidates[name] > draw.max_tokens:
            raise ValueError(
                f"{key}.max_tokens must be >= {candidates[name]}, the tokens of the longest {name!r} among the "
                f"prompts, got {draw.max_tokens}. Fix: raise it, or remove the prompts with longer ones."
            )


def _check_given(config: RunConfig, prompts: PromptSource) -> None:
    """Raise ValueError if evaluation is to use answers of the data set, and these are sampled or missing."""
    sampler, by = config.sampler, f"evaluate.by={config.evaluate.by}"
    if sampler.roles:
        raise ValueError(
            f"{by} uses answers that come with the prompts, and the sampler samples from "
            f"{', '.join(sorted(sampler.roles))}. Fix: sampler.draws.0.policy=dataset, and so on for "
            "every draw; or evaluate.by=answers."
        )
    drawn = {draw.candidate for draw in sampler.drawn.values() if isinstance(draw, Source)}
    lacking = [prompt.id for prompt in prompts.held_out() if not drawn <= set(prompt.candidates)]
    if lacking:
        raise ValueError(
            f"{by} uses answers that come with the held-out prompts, and {len(lacking)} of them, "
            f"such as {lacking[0]!r}, lack some. Fix: add their columns, or leave prompts.held_out_path out."
        )
