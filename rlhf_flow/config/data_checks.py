"""Whether a configuration fits the world that it names: the model, its tokenizer and the prompts."""

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
from rlhf_flow.protocols import PromptSource, Sampler
from rlhf_flow.sampler.source import Source
from rlhf_flow.scorer.models.classifier import Classifier
from rlhf_flow.specs import Model
from rlhf_flow.tokenization.chat_template import takes_system
from rlhf_flow.tokenization.end_tokens import end_tokens
from rlhf_flow.types import SamplingParams
from rlhf_flow.weights.model_sizes import read_sizes
from rlhf_flow.weights.start_checkpoint import faults

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def check(config: RunConfig, model: Model, prompts: PromptSource, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise ValueError for what the configuration alone does not show, with the way out."""
    _check_candidates(config.sampler.drawn, prompts.candidates)
    if config.sampler.roles or config.evaluate.by == "answers":
        end_tokens(model.path, tokenizer)  # raises if no answer could end
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


def check_start(config: RunConfig, model: Model) -> None:
    """Raise ValueError for what its files say is wrong with the model that the run starts from."""
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
    """Raise ValueError if the model has no layers that an adapter can stand beside."""
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
            f"learner.lora.rank={lora.rank}: the layers of {type(skeleton).__name__} are {', '.join(kinds)}, and "
            "adapters stand beside nn.Linear alone. Fix: learner.lora.rank=0, which trains all weights."
        )
    lora.chosen(linear, [name for name in modules if name not in linear])


def warnings(prompts: PromptSource, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """What works with these prompts, and a reader of the results should know."""
    asked = [*prompts.batch(1), *prompts.held_out()]
    system = any(prompt.messages and prompt.messages[0].role == "system" for prompt in asked)
    if not system or tokenizer.chat_template is None or takes_system(tokenizer):
        return []
    return ["the chat template of model.path knows no system role: system messages stand before the first user message"]


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
    if needs.side_value or needs.readout != ("number" if head == 1 else "embedding"):
        raise ValueError(
            f"refresh.objective must fit a judge with {head} outputs from pairs alone, and this one reads "
            f"{needs.readout}"
            f"{' and the worth of both sides' if needs.side_value else ''}. Try objective@refresh.objective=bt for a "
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
    sizes = read_sizes(model.path, trust_remote_code=model.trust_remote_code)
    rows = sizes.vocabulary
    if vocabulary > rows > 0:
        raise ValueError(
            f"model.path={model.path}: its tokenizer has {vocabulary} tokens, but the model knows only {rows}. "
            "They do not belong together: give the folder that both were saved to."
        )
    positions = config.engine.max_sequence(sizes.positions)
    longest, answer = prompts.longest, longest_answer(config, prompts)
    if isinstance(config.engine, VLLM) and not architectures.has_gpu():
        room = config.engine.max_model_len or longest + answer
        token = (2 if config.sampler.needs_mixture else 1) * sizes.cache(model.dtype)
        for refusal in too_small(config.engine.kv_cache_mib, token=token, longest=room):
            raise ValueError(refusal)
    if positions is not None and longest + answer > positions:
        if answer < positions:
            way = f"prompts.max_tokens={positions - answer} prompts.too_long=cut, or shorter draws"
        else:
            way = f"answers.max_tokens={max(positions - longest, positions // 2)}"
        raise ValueError(
            f"the longest prompt has {longest} tokens and an answer may have {answer}, but the model reads at most "
            f"{positions}. Try {way}."
        )


def longest_answer(config: RunConfig, prompts: PromptSource) -> int:
    """The most tokens that an answer can have, of any draw and of evaluation."""
    drawn = list(config.sampler.drawn.values())
    if config.evaluate.by == "answers":
        drawn.append(config.evaluate.draw)
    return max(_longest_answer(draw, prompts.candidates) for draw in drawn)


def longest_sequence(config: RunConfig, model: Model, prompts: PromptSource) -> int:
    """Tokens that an engine holds of a prompt and an answer; one more, which vLLM draws when it measures log-probs."""
    positions = read_sizes(model.path, trust_remote_code=model.trust_remote_code).positions
    longest = prompts.longest + longest_answer(config, prompts) + 1
    return longest if positions is None else min(longest, positions)


def _longest_answer(draw: SamplingParams, there: Mapping[str, int]) -> int:
    """The most tokens that an answer can have: of a data set, as many as the longest has."""
    name = draw.candidate if isinstance(draw, Source) else None
    return draw.max_tokens if name is None else there.get(name, draw.max_tokens)


def _check_candidates(drawn: Mapping[str, SamplingParams], there: Mapping[str, int]) -> None:
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
            f"{', '.join(sorted(sampler.roles))}. Try policy=dataset for every draw, or evaluate.by=answers."
        )
    drawn = {draw.candidate for draw in sampler.drawn.values() if isinstance(draw, Source)}
    lacking = [prompt.id for prompt in prompts.held_out() if not drawn <= set(prompt.candidates)]
    if lacking:
        raise ValueError(
            f"evaluate.by=agreement takes answers that came with the held-out prompts, and {len(lacking)} of them, "
            f"such as {lacking[0]!r}, lack some. Add their columns, or leave prompts.held_out_path out."
        )
