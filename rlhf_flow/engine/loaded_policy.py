"""Which policy an engine holds, and the proof that it does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rlhf_flow.specs import Model
from rlhf_flow.types import Policy, Probe
from rlhf_flow.weights.buckets import Index
from rlhf_flow.weights.source import Adapter, Checkpoint, Weights

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

Put = Callable[[Iterator[tuple[str, "Tensor"]]], None]  # replaces the engine's weights, and takes an adapter away
Lay = Callable[
    [Adapter | None], None
]  # lays an adapter beside the weights in place of another one; None: takes it away
Measure = Callable[[Sequence[int], int], np.ndarray]  # (tokens, first) -> float32 log-probs of tokens[first:]


def skeleton(model: Model) -> PreTrainedModel:
    """The model without its weights, none of which is read."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    trust = model.trust_remote_code
    config = AutoConfig.from_pretrained(model.path, revision=model.revision, trust_remote_code=trust)
    with torch.device("meta"):
        lm: PreTrainedModel = AutoModelForCausalLM.from_config(config, trust_remote_code=trust)
    return lm


def state_shapes(lm: PreTrainedModel) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the full state dict."""
    return {name: tuple(tensor.shape) for name, tensor in lm.state_dict().items()}


class LoadedPolicy:
    """The policy inside one engine. Begins with the checkpoint that the engine was opened on."""

    def __init__(
        self, model: Model, shapes: Mapping[str, tuple[int, ...]], *, max_model_len: int, tolerance: float | None
    ) -> None:
        self._model = model
        self._shapes = shapes
        self._max_model_len = max_model_len
        # Rounding alone moves single bfloat16 log-probs by half a nat, so there the mean over tokens is compared.
        self._worst = model.dtype == "float32"
        self._tolerance = tolerance if tolerance is not None else (1e-3 if self._worst else 0.2)
        self._sha256: str | None = None  # of the policy held; None: the opened checkpoint, or nothing known
        self._taken: str | None = None  # of the policy whose weights are here, and not proven yet
        self._as_opened = True
        self._intact = True  # the opened checkpoint's weights are in place, whatever lies beside them

    def fetch(self, policy: Policy, put: Put, measure: Measure, lay: Lay | None = None) -> None:
        """Hold `policy`: load its weights unless they are held already, and let its probe prove it.

        With `lay`, an adapter of the opened checkpoint comes beside the weights that are there, and they stay as they
        are for all adapters and for that checkpoint; without it, it comes as the whole weights of the sum.

        Raises ValueError, with the engine unchanged, where the state dict is not the model's; and RuntimeError where
        the probe disagrees: what the engine holds is then unknown, and the next policy is loaded whatever it is.
        """
        if policy.sha256 == self._sha256:
            return
        if self.has(policy):  # opened on it, or given it before
            self._taken = None
            self._prove(policy, measure)
            return
        adapter = policy.weights if lay is not None and isinstance(policy.weights, Adapter) else None
        below = policy.weights if adapter is None else adapter.base
        stays = lay is not None and self._intact and self._is_opened(below)
        if not stays:
            self._check_index(policy, below.index())
        tensors = None if stays else below.stream()
        if adapter is not None:
            self._check_terms(policy, adapter)
        self._forget()
        if tensors is not None:
            self._intact = False
            put(tensors)
            self._intact = self._is_opened(below)
        if lay is not None:
            lay(adapter)
        self._prove(policy, measure)

    def take(self, policy: Policy, put: Put) -> None:
        """Load the weights of `policy`, which `fetch` proves later. Raises ValueError as `fetch`."""
        self._check_index(policy, policy.weights.index())
        tensors = policy.weights.stream()
        self._forget()
        self._intact = False
        put(tensors)
        self._taken = policy.sha256

    def has(self, policy: Policy) -> bool:
        """Whether its weights are here, proven or not."""
        return self.holds(policy) or policy.sha256 == self._taken

    def holds(self, policy: Policy) -> bool:
        """Whether its weights are here, and nothing is left to be done for them but perhaps the first proof."""
        opened = self._as_opened and self._sha256 is None and self._is_opened(policy.weights)
        return opened or policy.sha256 == self._sha256

    def _forget(self) -> None:
        """What it holds: other weights are on their way."""
        self._sha256, self._taken, self._as_opened = None, None, False

    def _prove(self, policy: Policy, measure: Measure) -> None:
        if policy.probe is not None:
            self._check_probe(policy, policy.probe, measure)
        self._sha256 = policy.sha256

    def _is_opened(self, weights: Weights) -> bool:
        return isinstance(weights, Checkpoint) and weights.path.resolve() == Path(self._model.path).resolve()

    def _check_index(self, policy: Policy, index: Index) -> None:
        # vLLM takes a partial state dict without a word, and is lost after a wrong shape: so it sees none of it before.
        found = {entry.name: entry.shape for entry in index}
        lacks = sorted(self._shapes.keys() - found.keys())
        knows_not = sorted(found.keys() - self._shapes.keys())
        misshaped = [
            f"{name} {found[name]} instead of {shape}"
            for name, shape in self._shapes.items()
            if name in found and found[name] != shape
        ]
        faults = [("lacks", lacks), ("has unknown", knows_not), ("has misshaped", misshaped)]
        said = "; ".join(f"{what} {', '.join(names[:3])} ({len(names)} in all)" for what, names in faults if names)
        if said:
            raise ValueError(
                f"policy {_name(policy)}: its state dict is not that of {self._model.path!r}: it {said}. "
                f"Give the full state_dict() of a model with the same configuration, tied tensors under each name."
            )

    def _check_terms(self, policy: Policy, adapter: Adapter) -> None:
        for layer, (down, up) in adapter.terms().items():
            wanted, found = self._shapes.get(f"{layer}.weight"), (up.shape[0], down.shape[1])
            if wanted != found or up.shape[1] != down.shape[0]:
                raise ValueError(
                    f"policy {_name(policy)}: its adapter is not for {self._model.path!r}: of {layer} it is "
                    f"{tuple(up.shape)} times {tuple(down.shape)}, and the weight is {wanted or 'not there'}."
                )

    def _check_probe(self, policy: Policy, probe: Probe, measure: Measure) -> None:
        # The log-probs of a beginning do not depend on the rest, so a long probe is cut to what fits.
        tokens = probe.tokens[: self._max_model_len - 1]
        if len(tokens) <= probe.prompt:
            raise ValueError(
                f"policy {_name(policy)}: the probe's context of {probe.prompt} tokens does not fit "
                f"max_model_len={self._max_model_len}. Raise engine.max_model_len."
            )
        measured = measure(tokens, probe.prompt)
        off = np.abs(measured - np.asarray(probe.logps[: len(measured)], np.float32))
        kind, difference = ("largest", off.max()) if self._worst else ("mean", off.mean())
        if difference <= self._tolerance:  # a NaN does not pass
            return
        said = (
            f"over {len(off)} tokens of its probe the {kind} difference to the learner's log-probs is "
            f"{difference:.3g} nats, and engine.probe_tolerance allows {self._tolerance:g} in {self._model.dtype}. "
            "Nothing was sampled."
        )
        if self._as_opened:
            raise RuntimeError(
                f"model.path={self._model.path}: the engine reads other weights from it than the learner: {said} Fix: "
                "engine=huggingface, or save the model anew with save_pretrained(): a tensor has a name there that "
                "the engine does not know, or misses."
            )
        raise RuntimeError(f"the engine does not hold policy {_name(policy)} after loading it: {said}")


def _name(policy: Policy) -> str:
    return f"{policy.name!r} of round {policy.round} (sha256 {policy.sha256[:12]})"
