"""The weights that the learner holds: how they are replaced, read and gathered, and their identity."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from rlhf_flow.learner.backend import Backend
from rlhf_flow.learner.gather import Gathered
from rlhf_flow.learner.trainable import Trainable
from rlhf_flow.types import Policy
from rlhf_flow.weights.buckets import Index
from rlhf_flow.weights.fingerprint import Fingerprint
from rlhf_flow.weights.source import Weights


class HeldWeights:
    """Every rank has one; all ranks call its methods in the same order."""

    def __init__(
        self, path: str, backend: Backend, trained: Trainable, dtype: torch.dtype, *, bucket: int, threads: int
    ) -> None:
        self.path, self.backend, self.trained = path, backend, trained
        self.dtype = dtype  # of published weights
        self.bucket, self.threads = bucket, threads
        # Their identity: at first that of the policy started from, which may be a hash of files. None after an
        # optimizer step, until `fingerprint` is called.
        self.sha256: str | None = None

    def fingerprint(self) -> str:
        """The identity of the weights. Collective: hashes them if they changed since the last call."""
        return Pass(self).identity() if self.sha256 is None else self.sha256

    def load(self, weights: Weights, *, moves_masters: bool = True) -> None:
        """Load weights into the forward pass and the master weights. Raises ValueError if they do not fit."""
        buffers, names = self.trained.buffers(), self.trained.names()
        parameters = {names[parameter.name][0]: parameter for parameter in self.backend.parameters()}
        expected = {name for group in names.values() for name in group} | set(buffers)
        found = {entry.name: entry.shape for entry in weights.index()}
        if set(found) != expected:
            missing, unknown = sorted(expected - set(found))[:3], sorted(set(found) - expected)[:3]
            raise ValueError(f"these weights do not fit {self.path}: missing {missing}, unknown {unknown}")
        for name, parameter in parameters.items():
            if found[name] != parameter.shape:
                raise ValueError(
                    f"these weights do not fit {self.path}: {parameter.name} is {found[name]}, not {parameter.shape}"
                )
        for name, tensor in weights.stream():
            if name in buffers:
                buffers[name].copy_(tensor)
            elif name in parameters:  # tied weights: the first name only
                parameters[name].seen.write(tensor)
                if moves_masters:
                    parameters[name].master.write(tensor)

    def serves(self, sha256: str) -> bool:
        """Whether forward passes use this published policy as it is."""
        return sha256 == self.sha256 and self._rounded

    @property
    def _rounded(self) -> bool:
        """Whether rounding to the published dtype changes nothing."""
        return self.dtype in (torch.float32, self.backend.reads)

    @contextmanager
    def reading(self, policy: Policy | None = None) -> Iterator[None]:
        """Forward passes in this block use `policy` (default: these weights), rounded to the published dtype.

        There is no second model: the weights are replaced, and restored afterwards, bit for bit.
        """
        held = policy is None or policy.sha256 == self.sha256
        parameters = self.backend.parameters()
        if held and self._rounded:
            yield
            return
        if policy is not None and not held and (at_hand := self.trained.at_hand(policy)) is not None:
            with at_hand:
                yield
            return
        kept = [parameter.seen.values.clone() for parameter in parameters]
        buffers = {name: buffer.clone() for name, buffer in self.backend.lm.named_buffers()}
        try:
            if policy is not None and not held:
                self.load(self.trained.of(policy), moves_masters=False)
            for parameter in self.backend.parameters():
                parameter.seen.values.copy_(parameter.seen.values.to(self.dtype))
            yield
        finally:
            for parameter, values in zip(self.backend.parameters(), kept, strict=True):
                parameter.seen.values.copy_(values)
            for name, buffer in self.backend.lm.named_buffers():
                buffer.copy_(buffers[name])


class Pass:
    """One pass over the weights held, as they are published; hashes them if they have no identity yet."""

    def __init__(self, held: HeldWeights) -> None:
        gathered = Gathered(held.backend, held.trained, held.dtype, bucket=held.bucket)
        self.index: Index = gathered.index()
        self.tensors: Iterator[tuple[str, Tensor]] = gathered.stream()  # sorted by name
        self._held, self._digest = held, None
        if held.sha256 is None:
            backend = held.backend
            self._digest = Fingerprint(threads=held.threads, rank=backend.rank, ranks=backend.size)
            self.tensors = self._digest.passing(self.tensors)

    def finish(self) -> None:
        """Read what is left of the tensors, as all ranks must."""
        for _ in self.tensors:
            pass

    def identity(self) -> str:
        """The identity of the weights, at the end of the pass."""
        self.finish()
        if self._digest is not None:
            tensors = self._digest.hexdigest(self._held.backend.union)
            self._held.sha256 = self._held.trained.sha256(tensors)
        assert self._held.sha256 is not None
        return self._held.sha256
