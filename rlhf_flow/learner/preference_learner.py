"""The learner of pairwise preferences, on any backend."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from rlhf_flow.learner import state
from rlhf_flow.learner.backend import Backend
from rlhf_flow.learner.batching import Example, Row, count, global_batches, read_examples, read_rows
from rlhf_flow.learner.gather import Gathered, Stored
from rlhf_flow.learner.inference import Forward, read_all
from rlhf_flow.learner.readout import Readout
from rlhf_flow.learner.step import take_step
from rlhf_flow.learner.trainable import Trainable
from rlhf_flow.learner.training import Training
from rlhf_flow.protocols import TrainingRound
from rlhf_flow.specs import Model
from rlhf_flow.storage.tables import Table
from rlhf_flow.types import Policy, Probe
from rlhf_flow.weights.buckets import Bucket, Index, fill, pack, reader, torch_dtype
from rlhf_flow.weights.publish import DetachedWeights, Publishing, held
from rlhf_flow.weights.source import Fingerprint, Weights

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class PreparedBatches:
    """The pairs of a training round, and the indices [<= batch] of those of each optimizer step."""

    lesson: TrainingRound
    examples: list[Example]
    batches: list[np.ndarray]


class PreferenceLearner:
    """Implements `protocols.Learner`. Every rank has one; all ranks call its methods in the same order."""

    def __init__(
        self, model: Model, training: Training, backend: Backend, reading: Readout, trained: Trainable, *, bucket: int
    ) -> None:
        self.model, self.training, self.backend = model, training, backend
        self.reading, self.trained = reading, trained
        self.bucket = bucket  # bytes of weights to gather at once
        self.dtype = torch_dtype(model.dtype)  # of published weights
        # The identity of the weights held: at first that of the policy started from, which may be a hash of files. None
        # after an optimizer step, until `fingerprint` is called.
        self.held: str | None = None
        self._prepared: PreparedBatches | None = None
        self._probe: state.Context | None = None

    # -- weights ------------------------------------------------------------------------------------------------------

    def start(self, policy: Policy) -> None:
        if policy.sha256 != self.held:
            if policy.state is not None:
                self.load_state(policy.state)
                if self.held != policy.sha256:
                    raise ValueError(f"{policy.state} holds the weights {self.held}, not those of {policy}")
            else:
                self._write(self.trained.of(policy))
                state.forget(self.backend)
                self.held = policy.sha256
        if self.training.optimizer_state == "fresh":
            state.forget(self.backend)

    def publish(self, name: str, round: int) -> Policy:
        return held(self.publishing(name, round))

    def publishing(self, name: str, round: int) -> Publishing:
        groups, buckets = self._gathered()
        digest = Fingerprint() if self.held is None else None
        yield from self._stream(buckets, digest)
        if digest is not None:
            self.held = self._identity(digest)
        return Policy(name, round, self.fingerprint(), self.trained.weights(DetachedWeights(groups)), self._prove())

    def average(self, name: str, round: int, terms: Sequence[tuple[Policy, float]]) -> Policy:
        return held(self.averaging(name, round, terms))

    def averaging(self, name: str, round: int, terms: Sequence[tuple[Policy, float]]) -> Publishing:
        weights = self.trained.average(terms, self.dtype)
        groups = tuple(pack(weights.index(), self.bucket))
        mine = groups if self.backend.rank == 0 else ()
        digest = Fingerprint()
        yield from self._stream(fill(mine, reader(weights.stream())), digest)
        sha256 = self._identity(digest)
        probe = self._prove(Policy(name, round, sha256, self.trained.weights(weights)))
        return Policy(name, round, sha256, self.trained.weights(DetachedWeights(groups)), probe)

    def save_policy(self, folder: Path, policy: Policy | None = None) -> None:
        weights = Gathered(self.backend, self.trained, self.dtype) if policy is None else self.trained.of(policy)
        stored = Stored(weights, self.trained.layout)
        groups, read = pack(stored.index(), self.bucket), stored.read
        if self.backend.rank == 0:
            self.trained.save(folder, groups, fill(groups, read))
        elif policy is None:
            for _ in fill(groups, read):  # rank 0 gathers this rank's parts
                pass

    def save_state(self, folder: Path) -> None:
        sha256, base = self.fingerprint(), self.trained.base
        state.save(folder, self.backend, self.training.optimizer, sha256=sha256, probe=self._probe, base=base)

    def load_state(self, folder: Path) -> None:
        self.held = None
        counters = state.load(folder, self.backend, self.training.optimizer, base=self.trained.base)
        self.held, self._probe = counters.sha256, counters.probe

    def step_aside(self) -> None:
        self.backend.offload()

    def come_back(self) -> None:
        self.backend.reload()

    def close(self) -> None:
        self.backend.close()

    # -- log-probs ----------------------------------------------------------------------------------------------------

    def logps(self, responses: Sequence[Table], wanted: Sequence[str], policy: Policy) -> pa.Table:
        return self._table(responses, wanted, policy, self.backend.logps, "logps")

    def spread(self, responses: Sequence[Table], wanted: Sequence[str], policy: Policy) -> pa.Table:
        assert self.reading.generates, "a reward model has no distribution of the next token"
        return self._table(responses, wanted, policy, self.backend.spread, "logps", "entropy", "mass")

    def _table(
        self, responses: Sequence[Table], wanted: Sequence[str], policy: Policy, forward: Forward, *columns: str
    ) -> pa.Table:
        """One list column per number that `forward` returns of a position."""
        import pyarrow as pa

        rows = read_rows(responses, wanted)
        with self._reading(policy):
            read = dict(zip(rows, self._forward(list(rows.values()), forward, numbers=len(columns)), strict=True))
        lists = pa.list_(pa.float32())
        return pa.table(
            {
                "response": pa.array(wanted, pa.string()),
                "policy": pa.array([policy.sha256] * len(wanted), pa.string()),
                **{name: pa.array([read[id][:, c] for id in wanted], lists) for c, name in enumerate(columns)},
            }
        )

    def _forward(self, rows: Sequence[Row], forward: Forward, *, numbers: int = 1) -> list[np.ndarray]:
        """The outputs of each row, float32 [W, numbers]. The ranks share the rows; all get the result."""
        micro_batch = 2 * self.training.micro_batch
        return read_all(self.backend, self.reading, rows, forward, micro_batch=micro_batch, numbers=numbers)

    @contextmanager
    def _reading(self, policy: Policy | None = None) -> Iterator[None]:
        """Forward passes in this block use `policy` (default: the weights held), rounded to the published dtype.

        There is no second model: the weights are replaced, and restored afterwards, bit for bit.
        """
        held = policy is None or policy.sha256 == self.held
        if held and self.dtype == torch.float32:
            yield
            return
        if policy is not None and not held and (at_hand := self.trained.at_hand(policy)) is not None:
            with at_hand:
                yield
            return
        kept = [parameter.seen.values.clone() for parameter in self.backend.parameters()]
        buffers = {name: buffer.clone() for name, buffer in self.backend.lm.named_buffers()}
        try:
            if policy is not None and not held:
                self._write(self.trained.of(policy), moves_masters=False)
            for parameter in self.backend.parameters():
                parameter.seen.values.copy_(parameter.seen.values.to(self.dtype))
            yield
        finally:
            for parameter, values in zip(self.backend.parameters(), kept, strict=True):
                parameter.seen.values.copy_(values)
            for name, buffer in self.backend.lm.named_buffers():
                buffer.copy_(buffers[name])

    # -- learning -----------------------------------------------------------------------------------------------------

    def steps(self, lesson: TrainingRound) -> int:
        return self.training.epochs * -(-count(lesson) // self.training.batch)

    def update(self, lesson: TrainingRound, first: int, last: int) -> Mapping[str, float]:
        prepared = self._prepare(lesson)
        pairs, sums = 0.0, dict[str, float]()
        for step in range(first, last):
            progress = self.training.schedule.progress(
                step, len(prepared.batches), round=lesson.round, rounds=lesson.rounds
            )
            rate = self.training.optimizer.rate * self.training.schedule.factor(progress)
            self.held = None
            taken, norm = take_step(
                self.backend,
                lesson.objective,
                [prepared.examples[i] for i in prepared.batches[step]],
                micro_batch=self.training.micro_batch,
                lr=rate,
                pack=self.reading.pack,
            )
            pairs += taken.weight
            of_step = {"gradient_norm": norm * taken.weight, "learning_rate": rate * taken.weight}
            for name, value in {**taken.values, **of_step}.items():
                sums[name] = sums.get(name, 0.0) + value
        return {"pairs": pairs, **{name: value / pairs for name, value in sums.items()}} if sums else {}

    def _prepare(self, lesson: TrainingRound) -> PreparedBatches:
        if self._prepared is None or self._prepared.lesson != lesson:
            examples = read_examples(lesson)
            batches = global_batches(
                len(examples),
                batch=self.training.batch,
                epochs=self.training.epochs,
                seed=lesson.seed,
                round=lesson.round,
            )
            self._prepared = PreparedBatches(lesson, examples, batches)
            if examples and self.reading.generates:
                row = examples[0].rows[0]
                self._probe = state.Context([*row.prompt.tolist(), *row.tokens.tolist()], len(row.prompt))
        return self._prepared

    # -- published weights --------------------------------------------------------------------------------------------

    def _prove(self, policy: Policy | None = None) -> Probe | None:
        """Log-probs by which an engine checks that it has loaded `policy` (default: the weights held)."""
        if self._probe is None:
            return None
        tokens, prompt = np.array(self._probe.tokens, dtype=np.int32), self._probe.prompt
        with self._reading(policy):
            (logps,) = self._forward([Row(tokens[:prompt], tokens[prompt:])], self.backend.logps)
        return Probe(tuple(self._probe.tokens), prompt, tuple(logps[:, 0].tolist()))

    def _gathered(self) -> tuple[tuple[Index, ...], Iterator[Bucket]]:
        """The weights held, as they are published; what is in each bucket is known before."""
        gathered = Gathered(self.backend, self.trained, self.dtype)
        groups = tuple(pack(gathered.index(), self.bucket))
        return groups, fill(groups, gathered.read)

    def fingerprint(self) -> str:
        """The identity of the weights held. Collective: hashes them if they changed since the last call."""
        if self.held is None:
            digest = Fingerprint()
            for _ in self._stream(self._gathered()[1], digest):
                pass
            self.held = self._identity(digest)
        return self.held

    def _stream(self, buckets: Iterator[Bucket], digest: Fingerprint | None) -> Iterator[Bucket]:
        """The buckets, hashed on the way. Yields them on rank 0 only; other ranks take part in gathering them."""
        for bucket in buckets:
            if self.backend.rank == 0:
                if digest is not None:
                    digest.add_all(bucket.tensors())
                yield bucket

    def _identity(self, digest: Fingerprint) -> str:
        """The policy's identity, from rank 0's digest of the published tensors."""
        return self.backend.share(self.trained.sha256(digest.hexdigest()))

    def _write(self, weights: Weights, *, moves_masters: bool = True) -> None:
        """Load weights into the forward pass and the master weights. Raises ValueError if they do not fit."""
        buffers, names = self.trained.buffers(), self.trained.names()
        parameters = {names[parameter.name][0]: parameter for parameter in self.backend.parameters()}
        expected = {name for group in names.values() for name in group} | set(buffers)
        found = {entry.name: entry.shape for entry in weights.index()}
        if set(found) != expected:
            missing, unknown = sorted(expected - set(found))[:3], sorted(set(found) - expected)[:3]
            raise ValueError(f"these weights do not fit {self.model.path}: missing {missing}, unknown {unknown}")
        for name, parameter in parameters.items():
            if found[name] != parameter.shape:
                raise ValueError(
                    f"these weights do not fit {self.model.path}: {parameter.name} is {found[name]}, "
                    f"not {parameter.shape}"
                )
        for name, tensor in weights.stream():
            if name in buffers:
                buffers[name].copy_(tensor)
            elif name in parameters:  # tied weights: the first name only
                parameters[name].seen.write(tensor)
                if moves_masters:
                    parameters[name].master.write(tensor)
