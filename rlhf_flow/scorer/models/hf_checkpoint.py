"""A Hugging Face checkpoint used as a scorer: located, hashed, loaded completely."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rlhf_flow.scorer.models.padding import sees_padding
from rlhf_flow.specs import Place
from rlhf_flow.system.errors import reason
from rlhf_flow.system.hub import check_model
from rlhf_flow.tokenization.chat_template import ChatTemplate, Templated, load_tokenizer, require_template
from rlhf_flow.weights.fingerprint import checkpoint_fingerprint
from rlhf_flow.weights.model_sizes import sizes_of
from rlhf_flow.weights.offload import HostOffload
from rlhf_flow.weights.soft_caps import keep_soft_caps
from rlhf_flow.weights.start_checkpoint import faults

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

DTYPES = ("float32", "bfloat16")
Loaded = TypeVar("Loaded")


@dataclass(frozen=True)
class OwnModel(Templated):
    """A scorer whose model runs in its process."""

    threads: int | None = field(default=None, kw_only=True)  # null: all cores that no other process uses meanwhile


@dataclass(frozen=True)
class Source:
    """The location of a scorer's model. Errors name the scorer's fields."""

    path: str  # local folder, or name on the hub
    revision: str | None = None
    trust_remote_code: bool = False
    chat_template: ChatTemplate = field(default_factory=ChatTemplate)

    def fingerprint(self) -> str:
        """Hash of the weights of a local checkpoint; name and revision of a model on the hub."""
        folder = Path(self.path)
        return checkpoint_fingerprint(folder) if folder.is_dir() else f"{self.path}@{self.revision}"

    def config(self) -> PretrainedConfig:
        from transformers import AutoConfig

        config: PretrainedConfig = self._loaded(AutoConfig.from_pretrained)
        return config

    def tokenizer(self, format: str) -> PreTrainedTokenizerBase:
        """Raises ValueError if the format is chat and there is no chat template."""
        tokenizer = self._loaded(load_tokenizer, template=self.chat_template, key="scorer.path")
        if format == "chat":
            require_template(tokenizer, "scorer.format")
        return tokenizer

    def model(self, load: Callable[..., Any], dtype: str, place: Place) -> PreTrainedModel:
        """The model on `place.device`, for inference. `load`: the from_pretrained of a class.

        Raises ValueError if the checkpoint lacks weights.
        """
        import torch

        model: PreTrainedModel
        model, report = self._loaded(load, dtype=dtype, output_loading_info=True)
        keep_soft_caps(model)
        if report["missing_keys"]:  # transformers would fill them with random numbers
            raise ValueError(
                f"scorer.path must be a complete checkpoint, and {self.path!r} has no weights for "
                f"{', '.join(sorted(report['missing_keys']))}."
            )
        torch.set_num_threads(place.threads)
        model.to(place.device)  # type: ignore[arg-type]  # its wrapper hides that it is a method
        model.eval().requires_grad_(False)
        return model

    def longest(self, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, max_tokens: int | None) -> int:
        """`max_tokens`, or the model's context length. Raises ValueError if the context is shorter."""
        positions = sizes_of(config).positions
        context = min([tokenizer.model_max_length, *([] if positions is None else [positions])])
        if max_tokens is None and context > 10**9:  # what tokenizers without a limit report
            raise ValueError(f"scorer.max_tokens must be given, because {self.path!r} names no longest input.")
        if max_tokens is not None and max_tokens > context:
            raise ValueError(f"scorer.max_tokens must be <= {context}, which {self.path!r} can read, got {max_tokens}")
        return context if max_tokens is None else max_tokens

    def _loaded(self, load: Callable[..., Loaded], **more: object) -> Loaded:
        folder = Path(self.path)
        check_model("scorer.path", self.path)
        if folder.exists() and not (folder / "config.json").is_file():
            fault = next(faults(folder, kind="classifier", key="scorer.path"))
            raise ValueError(f"scorer.path={self.path}: {fault.says}. Fix: {fault.way_out}.")
        try:
            return load(self.path, revision=self.revision, trust_remote_code=self.trust_remote_code, **more)
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(
                f"scorer.path={self.path}: loading it failed: {reason(error)}. Fix: name the folder of a Hugging Face "
                "checkpoint, or check the name on the hub, the revision and the network."
            ) from error


class LoadedModel:
    """A model that can be offloaded to host memory while others use its device."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._offload = HostOffload()
        self._sees_padding = sees_padding(model)

    def _inputs(self, tokens: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Arguments of a forward pass."""
        return {"input_ids": tokens, "attention_mask": mask} if self._sees_padding else {"input_ids": tokens}

    def step_aside(self) -> None:
        self._offload.leave(self._model.device, self._model)

    def come_back(self) -> None:
        self._offload.come_back()

    def close(self) -> None:
        """Release the model. Idempotent."""
        vars(self).pop("_model", None)
