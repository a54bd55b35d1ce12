"""The learner of pairwise preferences, on any backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from rlhf_flow.learner import state
from rlhf_flow.learner.backend import Backend
from rlhf_flow.learner.batching import Example, Limits, Row, count, global_batches, read_examples, read_rows
from rlhf_flow.learner.held_weights import HeldWeights, Pass
from rlhf_flow.learner.inference import Forward, compare_lines, read_all
from rlhf_flow.learner.readout import Readout
from rlhf_flow.learner.step import take_step
from rlhf_flow.learner.trainable import Trainable
from rlhf_flow.learner.training import Training
from rlhf_flow.protocols import TrainingRound
from rlhf_flow.specs import Model
from rlhf_flow.storage.tables import Table
from rlhf_flow.types import Policy, Probe
from rlhf_flow.weights.buckets import fill, pack, reader, torch_dtype
from rlhf_flow.weights.fingerprint import Fingerprint
from rlhf_flow.weights.publish import DetachedWeights, Publishing, held

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class PreparedBatches:
    """The pairs of a training round, and the indices [<= batch] of those of each optimizer step."""

    lesson: TrainingRound
    own: str | None  # the anchor that the only step reads
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
        assert training.tokens_per_batch is not None, "Training.on sets it"
        self.limits = Limits(training.tokens_per_batch, training.micro_batch, shared=reading.shares)
        threads = training.threads or 1
        self.held = HeldWeights(model.path, backend, trained, torch_dtype(model.dtype), bucket=bucket, threads=threads)
        trained.fill(backend.frozen())
        self._prepared: PreparedBatches | None = None
        self._compared = False  # lines with padded rows
        self._probe: state.Context | None = None

    # -- weights ------------------------------------------------------------------------------------------------------

    def start(self, policy: Policy) -> None:
        if policy.sha256 != self.held.sha256:
            if policy.state is not None:
                self.load_state(policy.state)
                if self.held.sha256 != policy.sha256:
                    raise ValueError(f"{policy.state} holds the weights {self.held.sha256}, not those of {policy}")
            else:
                self.held.load(self.trained.of(policy))
                state.forget(self.backend)
                self.held.sha256 = policy.sha256
        if self.training.optimizer_state == "fresh":
            state.forget(self.backend)

    def publish(self, name: str, round: int) -> Policy:
        return held(self.publishing(name, round))

    def publishing(self, name: str, round: int) -> Publishing:
        weights = Pass(self.held)
        if self.backend.rank == 0:  # the other ranks yield nothing, and take part in gathering
            yield from fill(pack(weights.index, self.bucket), reader(weights.tensors))
        return self._published(weights, name, round)

    def publishing_files(self, name: str, round: int) -> Publishing:
        """As `publishing`, with the tensors that a checkpoint would store, on the learner's device.

        Each bucket is valid until the one after the next.
        """
        weights, layout = Pass(self.held), self.trained.layout
        if self.backend.rank == 0:
            index = weights.index if layout is None else layout.stored(weights.index)
            tensors = weights.tensors if layout is None else layout.convert(weights.tensors)
            yield from fill(pack(index, self.bucket), reader(tensors), self.backend.device, buffers=2)
        return self._published(weights, name, round)

    def _published(self, weights: Pass, name: str, round: int) -> Policy:
        detached = DetachedWeights(tuple(pack(weights.index, self.bucket)))
        return Policy(name, round, weights.identity(), self.trained.weights(detached), self._prove())

    def average(self, name: str, round: int, terms: Sequence[tuple[Policy, float]]) -> Policy:
        return held(self.averaging(name, round, terms))

    def averaging(self, name: str, round: int, terms: Sequence[tuple[Policy, float]]) -> Publishing:
        # In float32: in bfloat16 a moving average stops where its steps are smaller than its last digit.
        weights = self.trained.average(terms, torch.float32)
        groups = tuple(pack(weights.index(), self.bucket))
        identity = dict[str, str]()
        if self.backend.rank == 0:
            digest = Fingerprint(threads=self.held.threads)
            yield from fill(groups, reader(digest.passing(weights.stream())))
            identity = {"sha256": self.trained.sha256(digest.hexdigest())}
        sha256 = self.backend.union(identity)["sha256"]
        probe = self._prove(Policy(name, round, sha256, self.trained.weights(weights)))
        return Policy(name, round, sha256, self.trained.weights(DetachedWeights(groups)), probe)

    def save_policy(self, folder: Path, policy: Policy | None = None) -> dict[str, str]:
        if policy is None or policy.sha256 == self.held.sha256:
            weights = Pass(self.held)
            index, tensors = weights.index, weights.tensors
        else:
            index, tensors = (given := self.trained.of(policy)).index(), given.stream()
        rank, ranks = self.backend.rank, self.backend.size
        hashes = self.trained.save(folder, index, tensors, bucket=self.bucket, rank=rank, ranks=ranks)
        for _ in tensors:  # the other ranks gather with this one
            pass
        return self.backend.union(hashes)

    def save_state(self, folder: Path) -> dict[str, str]:
        sha256, base = self.held.fingerprint(), self.trained.base
        return state.save(folder, self.backend, self.training.optimizer, sha256=sha256, probe=self._probe, base=base)

    def load_state(self, folder: Path) -> None:
        self.held.sha256 = None
        counters = state.load(folder, self.backend, self.training.optimizer, base=self.trained.base)
        self.held.sha256, self._probe = counters.sha256, counters.probe

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
        return self._table(responses, wanted, policy, self.backend.spread, "logps", "entropy", "mass", "likeliest")

    def _table(
        self, responses: Sequence[Table], wanted: Sequence[str], policy: Policy, forward: Forward, *columns: str
    ) -> pa.Table:
        """One list column per number that `forward` returns of a position."""
        import pyarrow as pa

        rows = read_rows(responses, wanted)
        with self.held.reading(policy):
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
        limits = Limits(self.limits.tokens, shared=self.reading.shares)
        return read_all(self.backend, self.reading, rows, forward, limits=limits, numbers=numbers)

    # -- learning -----------------------------------------------------------------------------------------------------

    def steps(self, lesson: TrainingRound) -> int:
        return self.training.epochs * -(-count(lesson) // self.training.batch)

    def computes_anchor(self, lesson: TrainingRound, sha256: str) -> bool:
        return self.held.serves(sha256) and self.steps(lesson) == 1

    def update(self, lesson: TrainingRound, first: int, last: int) -> Mapping[str, float]:
        prepared = self._prepare(lesson)
        pairs, sums = 0.0, dict[str, float]()
        for step in range(first, last):
            progress = self.training.schedule.progress(
                step, len(prepared.batches), round=lesson.round, rounds=lesson.rounds
            )
            rate = self.training.optimizer.rate * self.training.schedule.factor(progress)
            self.held.sha256 = None
            taken, norm = take_step(
                self.backend,
                lesson.objective,
                [prepared.examples[i] for i in prepared.batches[step]],
                limits=self.limits,
                lr=rate,
                pack=self.reading.pack,
            )
            pairs += taken.weight
            of_step = {"gradient_norm": norm * taken.weight, "learning_rate": rate * taken.weight}
            for name, value in {**taken.values, **of_step}.items():
                sums[name] = sums.get(name, 0.0) + value
        return {"pairs": pairs, **{name: value / pairs for name, value in sums.items()}} if sums else {}

    def _prepare(self, lesson: TrainingRound) -> PreparedBatches:
        own = next((sha256 for sha256 in lesson.roles.values() if self.computes_anchor(lesson, sha256)), None)
        if self._prepared is None or (self._prepared.lesson, self._prepared.own) != (lesson, own):
            examples = read_examples(lesson, own)
            batches = global_batches(
                len(examples),
                batch=self.training.batch,
                epochs=self.training.epochs,
                seed=lesson.seed,
                round=lesson.round,
            )
            if examples and self.reading.shares and not self._compared:
                longest = max(examples, key=lambda example: example.length)
                rows = [*longest.rows[:2], *examples[0].rows[:2]]
                compare_lines(self.backend, self.reading, rows, self.training.precision)
                self._compared = True
            self._prepared = PreparedBatches(lesson, own, examples, batches)
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
        with self.held.reading(policy):
            (logps,) = self._forward([Row(tokens[:prompt], tokens[prompt:])], self.backend.logps)
        return Probe(tuple(self._probe.tokens), prompt, tuple(logps[:, 0].tolist()))
