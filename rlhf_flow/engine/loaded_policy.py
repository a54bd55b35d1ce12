"""The policy that an engine holds, and its proof: the log-probs of a probe must agree with the learner's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from rlhf_flow.specs import Model
from rlhf_flow.types import Policy, Probe
from rlhf_flow.weights.buckets import Index
from rlhf_flow.weights.source import Adapter, Checkpoint, Weights

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

LoadWeights: TypeAlias = Callable[[Iterator[tuple[str, "Tensor"]]], None]  # replaces all weights, removes an adapter
SetAdapter: TypeAlias = Callable[[Adapter | None], None]  # replaces the adapter; None: removes it
Measure: TypeAlias = Callable[
    [Sequence[int], int], np.ndarray
]  # (tokens, first) -> float32 log-probs of tokens[first:]

OPENED, UNKNOWN = "opened", "unknown"  # in place of a sha256


def skeleton(model: Model) -> PreTrainedModel:
    """The model on the meta device, without its weights."""
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


@dataclass(frozen=True)
class Loaded:
    """The weights in an engine."""

    base_sha: str  # of the policy whose whole weights these are; OPENED: the checkpoint of `Model`; or UNKNOWN
    adapter_sha: str | None = None  # of the policy whose adapter is set; None: no adapter; or UNKNOWN
    proven: bool = False  # the policy has no probe, or its probe agreed
    round: int = 0  # that published these whole weights; 0: none did, or an adapter is merged into them

    @property
    def policy_sha(self) -> str:
        return self.adapter_sha or self.base_sha


class LoadedPolicy:
    """Loads policies into one engine. At first the engine holds the checkpoint that it was opened on."""

    def __init__(
        self,
        model: Model,
        shapes: Mapping[str, tuple[int, ...]],
        *,
        max_model_len: int,
        tolerance: float | None,
        checksum: Callable[[], object] | None = None,  # of the engine's weights; None: stale ones go unnoticed
    ) -> None:
        self._model = model
        self._shapes = shapes
        self._max_model_len = max_model_len
        # Rounding moves single bfloat16 log-probs by up to half a nat, so there the mean over tokens is compared.
        self._worst = model.dtype == "float32"
        self._tolerance = tolerance if tolerance is not None else (1e-3 if self._worst else 0.2)
        self._checksum = checksum
        self._loaded = Loaded(OPENED)

    def fetch(self, policy: Policy, load: LoadWeights, measure: Measure, set_adapter: SetAdapter | None = None) -> None:
        """Load `policy` unless the engine holds it, and check its probe.

        With `set_adapter`, an adapter is set on top of its base, which is loaded only if it is not there. Without it,
        the whole weights of the sum are loaded.

        Raises ValueError, with the engine unchanged, if the state dict does not fit the model; and RuntimeError if the
        probe disagrees: then the weights are unknown, and the next call loads its policy again.
        """
        if not self.holds(policy):
            self._load(policy, load, set_adapter)
        if not self._loaded.proven:
            self._prove(policy, measure)

    def holds(self, policy: Policy) -> bool:
        """Whether its weights are loaded. Those of the opened checkpoint may not be proven yet."""
        held = self._loaded.policy_sha
        return held == policy.sha256 or (held == OPENED and self._is_opened(policy.weights))

    def _load(self, policy: Policy, load: LoadWeights, set_adapter: SetAdapter | None) -> None:
        adapter = policy.weights if set_adapter is not None and isinstance(policy.weights, Adapter) else None
        base, base_sha = (adapter.base, adapter.base_sha256) if adapter else (policy.weights, policy.sha256)
        held = self._loaded.base_sha
        has_base = set_adapter is not None and (held == base_sha or (held == OPENED and self._is_opened(base)))
        if not has_base:
            self._check_index(policy, base.index())
        tensors = None if has_base else base.stream()
        if adapter is not None:
            self._check_terms(policy, adapter)
        round = 0 if isinstance(policy.weights, Adapter) else policy.round  # two adapters may add the same
        if tensors is not None:
            with self._replacing(base_sha, round):
                load(tensors)
        if set_adapter is not None:
            self._loaded = Loaded(base_sha, UNKNOWN)
            set_adapter(adapter)
        self._loaded = Loaded(base_sha, policy.sha256 if adapter else None, round=round)

    @contextmanager
    def receiving(self) -> Iterator[None]:
        """The block replaces the weights; `received` tells by which. Until then they are unknown."""
        self._before = self._loaded, None if self._checksum is None else self._checksum()
        self._loaded = Loaded(UNKNOWN)
        yield

    def received(self, sha256: str, round: int) -> None:
        """Raises RuntimeError if the weights are still those of another policy."""
        before, checksum = self._before
        self._check_changed(before, checksum, sha256, round)
        self._loaded = Loaded(sha256, round=round)

    def forget(self) -> None:
        """The weights are lost."""
        self._loaded = Loaded(UNKNOWN)

    @contextmanager
    def _replacing(self, sha256: str, round: int) -> Iterator[None]:
        with self.receiving():
            yield
        self._check_changed(*self._before, sha256, round)

    def _check_changed(self, before: Loaded, checksum: object, sha256: str, round: int) -> None:
        # In bfloat16 the probe of the policy before may agree within the tolerance. Published weights with another hash
        # are other weights; the start is identified by the hash of its files.
        if self._checksum is None or before.base_sha == sha256 or not before.round or not round:
            return
        if self._checksum() == checksum:
            raise RuntimeError(
                f"the engine still holds the weights of round {before.round} after those of round {round} were loaded: "
                "their checksum did not change. Nothing was sampled."
            )

    def _prove(self, policy: Policy, measure: Measure) -> None:
        loaded = self._loaded
        if policy.probe is not None:
            if loaded.base_sha != OPENED:  # if the probe disagrees
                self._loaded = replace(loaded, adapter_sha=UNKNOWN) if loaded.adapter_sha else Loaded(UNKNOWN)
            self._check_probe(policy, policy.probe, measure, opened=loaded.base_sha == OPENED)
        base_sha = policy.sha256 if loaded.adapter_sha is None else loaded.base_sha
        self._loaded = replace(loaded, base_sha=base_sha, proven=True)

    def _is_opened(self, weights: Weights) -> bool:
        return isinstance(weights, Checkpoint) and weights.path.resolve() == Path(self._model.path).resolve()

    def _check_index(self, policy: Policy, index: Index) -> None:
        # vLLM accepts a partial state dict, and cannot go on after a wrong shape, so this is checked before.
        found = {entry.name: entry.shape for entry in index}
        lacks = sorted(self._shapes.keys() - found.keys())
        unknown = sorted(found.keys() - self._shapes.keys())
        misshaped = [
            f"{name} {found[name]} instead of {shape}"
            for name, shape in self._shapes.items()
            if name in found and found[name] != shape
        ]
        faults = [("lacks", lacks), ("has unknown", unknown), ("has misshaped", misshaped)]
        message = "; ".join(f"{what} {', '.join(names[:3])} ({len(names)} in all)" for what, names in faults if names)
        if message:
            raise ValueError(
                f"policy {_name(policy)}: its state dict does not fit {self._model.path!r}: it {message}. "
                "Fix: give the full state_dict() of a model with the same configuration, tied tensors under each name."
            )

    def _check_terms(self, policy: Policy, adapter: Adapter) -> None:
        for layer, (down, up) in adapter.terms().items():
            wanted, found = self._shapes.get(f"{layer}.weight"), (up.shape[0], down.shape[1])
            if wanted != found or up.shape[1] != down.shape[0]:
                raise ValueError(
                    f"policy {_name(policy)}: its adapter is not for {self._model.path!r}: of {layer} it is "
                    f"{tuple(up.shape)} times {tuple(down.shape)}, and the weight is {wanted or 'missing'}."
                )

    def _check_probe(self, policy: Policy, probe: Probe, measure: Measure, *, opened: bool) -> None:
        # Log-probs do not depend on later tokens, so a long probe is cut to what fits.
        tokens = probe.tokens[: self._max_model_len - 1]
        if len(tokens) <= probe.prompt:
            raise ValueError(
                f"policy {_name(policy)}: the probe's context of {probe.prompt} tokens does not fit "
                f"max_model_len={self._max_model_len}. Fix: raise engine.max_model_len."
            )
        measured = measure(tokens, probe.prompt)
        off = np.abs(measured - np.asarray(probe.logps[: len(measured)], np.float32))
        kind, difference = ("largest", off.max()) if self._worst else ("mean", off.mean())
        if difference <= self._tolerance:  # False if it is NaN
            return
        problem = (
            f"over {len(off)} tokens of its probe the {kind} difference to the learner's log-probs is "
            f"{difference:.3g} nats, and engine.probe_tolerance allows {self._tolerance:g} in {self._model.dtype}. "
            "Nothing was sampled."
        )
        if opened:
            raise RuntimeError(
                f"model.path={self._model.path}: the engine reads other weights from it than the learner: {problem} "
                "Fix: engine=huggingface, or save the model again with save_pretrained(), because a tensor has a name "
                "that the engine does not know, or is missing."
            )
        raise RuntimeError(f"the engine does not hold policy {_name(policy)} after loading it: {problem}")


def _name(policy: Policy) -> str:
    return f"{policy.name!r} of round {policy.round} (sha256 {policy.sha256[:12]})"
