"""The learner of pairwise preferences: what it promises to the loop, on whichever backend."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from rlhf_flow.learner import state
from rlhf_flow.learner.backend import Backend
from rlhf_flow.learner.batching import Example, Row, count, global_batches, read_examples, read_rows
from rlhf_flow.learner.gather import Gathered
from rlhf_flow.learner.inference import Forward, read_all
from rlhf_flow.learner.readout import Readout
from rlhf_flow.learner.step import take_step
from rlhf_flow.learner.stored import Stored
from rlhf_flow.learner.trainable import Trainable
from rlhf_flow.learner.training import Training
from rlhf_flow.specs import Model
from rlhf_flow.storage.tables import Table, TrainingRound
from rlhf_flow.types import Policy, Probe
from rlhf_flow.weights.buckets import Bucket, Index, fill, pack, reader
from rlhf_flow.weights.offload import HostOffload
from rlhf_flow.weights.publish import DetachedWeights, Publishing, held
from rlhf_flow.weights.source import Fingerprint, Weights

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class PreparedBatches:
    """A lesson that was read: its pairs, and which of them each optimizer step sees."""

    lesson: TrainingRound
    examples: list[Example]
    batches: list[np.ndarray]


class PreferenceLearner:
    """Keeps the promises of `protocols.Learner`; every rank has one, and their calls come in the same order."""

    def __init__(
        self, model: Model, training: Training, backend: Backend, reading: Readout, trained: Trainable, *, bucket: int
    ) -> None:
        self.model, self.training, self.backend = model, training, backend
        self.reading, self.trained = reading, trained
        self.bucket = bucket  # bytes of weights that are gathered at once
        self.dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[model.dtype]  # of what is published
        # The name of the weights held. They keep the one under which they were started, whatever it is a hash of; once
        # moved they have none, and get their own where it is asked for.
        self.held: str | None = None
        self._studied: PreparedBatches | None = None
        self._probe: state.Context | None = None
        self._aside = HostOffload()

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
        yield from self._name(buckets)
        assert self.held is not None
        return Policy(name, round, self.held, self.trained.weights(DetachedWeights(groups)), self._prove())

    def buckets(self, sha256: str, device: str) -> Iterator[Bucket]:
        if sha256 != self.held:
            raise RuntimeError(f"the weights {sha256} are not held here any more")
        return self._gathered(device)[1]

    def average(self, name: str, round: int, terms: Sequence[tuple[Policy, float]]) -> Policy:
        return held(self.averaging(name, round, terms))

    def averaging(self, name: str, round: int, terms: Sequence[tuple[Policy, float]]) -> Publishing:
        weights = self.trained.average(terms, self.dtype)
        groups = tuple(pack(weights.index(), self.bucket))
        mine = groups if self.backend.rank == 0 else ()
        sha256 = yield from self._hashed(fill(mine, reader(weights.stream())))
        probe = self._prove(Policy(name, round, sha256, self.trained.weights(weights)))
        return Policy(name, round, sha256, self.trained.weights(DetachedWeights(groups)), probe)

    def save_policy(self, folder: Path, policy: Policy | None = None) -> None:
        weights = Gathered(self.backend, self.trained, self.dtype) if policy is None else self.trained.of(policy)
        stored = Stored(weights, self.trained.layout)
        groups, read = pack(stored.index(), self.bucket), stored.read
        if self.backend.rank == 0:
            self.trained.save(folder, groups, fill(groups, read))
        elif policy is None:
            for _ in fill(groups, read):  # rank 0 needs this one's part of them
                pass

    def save_state(self, folder: Path) -> None:
        if self.held is None:
            for _ in self._name(self._gathered()[1]):  # for the name alone
                pass
        assert self.held is not None
        sha256, base = self.held, self.trained.base
        state.save(folder, self.backend, self.training.optimizer, sha256=sha256, probe=self._probe, base=base)

    def load_state(self, folder: Path) -> None:
        self.held = None
        counters = state.load(folder, self.backend, self.training.optimizer, base=self.trained.base)
        self.held, self._probe = counters.sha256, counters.probe

    def step_aside(self) -> None:
        """Weights, gradients and moments leave the device."""
        self._aside.leave(self.backend.device, *self.backend.holders())

    def come_back(self) -> None:
        self._aside.come_back()

    def close(self) -> None:
        self.backend.close()

    # -- log-probs ----------------------------------------------------------------------------------------------------

    def logps(self, responses: Sequence[Table], wanted: Sequence[str], policy: Policy) -> pa.Table:
        return self._table(responses, wanted, policy, self.backend.logps, "logps")

    def spread(self, responses: Sequence[Table], wanted: Sequence[str], policy: Policy) -> pa.Table:
        assert self.reading.generates, "a reward model has no next tokens"
        return self._table(responses, wanted, policy, self.backend.spread, "logps", "entropy", "mass")

    def _table(
        self, responses: Sequence[Table], wanted: Sequence[str], policy: Policy, forward: Forward, *columns: str
    ) -> pa.Table:
        """The numbers that `forward` gives of each position, a column for each."""
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
        """What is read of each row, float32 [W, numbers]; the ranks share the rows, and all get the result."""
        micro_batch = 2 * self.training.micro_batch
        return read_all(self.backend, self.reading, rows, forward, micro_batch=micro_batch, numbers=numbers)

    @contextmanager
    def _reading(self, policy: Policy | None = None) -> Iterator[None]:
        """In the forward passes of the block, read `policy` (by default the one held) as engines get it: rounded.

        There is no second model; afterwards all weights are as they were, bit for bit.
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
        studied = self._study(lesson)
        pairs, sums = 0.0, dict[str, float]()
        for step in range(first, last):
            progress = self.training.schedule.progress(
                step, len(studied.batches), round=lesson.round, rounds=lesson.rounds
            )
            rate = self.training.optimizer.rate * self.training.schedule.factor(progress)
            self.held = None  # from here on the weights have no name until they are published
            taken, norm = take_step(
                self.backend,
                lesson.objective,
                [studied.examples[i] for i in studied.batches[step]],
                micro_batch=self.training.micro_batch,
                lr=rate,
                pack=self.reading.pack,
            )
            pairs += taken.weight
            of_step = {"gradient_norm": norm * taken.weight, "learning_rate": rate * taken.weight}
            for name, value in {**taken.values, **of_step}.items():
                sums[name] = sums.get(name, 0.0) + value
        return {"pairs": pairs, **{name: value / pairs for name, value in sums.items()}} if sums else {}

    def _study(self, lesson: TrainingRound) -> PreparedBatches:
        if self._studied is None or self._studied.lesson != lesson:
            examples = read_examples(lesson)
            batches = global_batches(
                len(examples),
                batch=self.training.batch,
                epochs=self.training.epochs,
                seed=lesson.seed,
                round=lesson.round,
            )
            self._studied = PreparedBatches(lesson, examples, batches)
            if examples and self.reading.generates:
                row = examples[0].rows[0]
                self._probe = state.Context([*row.prompt.tolist(), *row.tokens.tolist()], len(row.prompt))
        return self._studied

    # -- between the model's names and the backend's parts ------------------------------------------------------------

    def _prove(self, policy: Policy | None = None) -> Probe | None:
        """What engines can check `policy` by, by default the one held."""
        if self._probe is None:
            return None
        tokens, prompt = np.array(self._probe.tokens, dtype=np.int32), self._probe.prompt
        with self._reading(policy):
            (logps,) = self._forward([Row(tokens[:prompt], tokens[prompt:])], self.backend.logps)
        return Probe(tuple(self._probe.tokens), prompt, tuple(logps[:, 0].tolist()))

    def _gathered(self, device: str = "cpu") -> tuple[tuple[Index, ...], Iterator[Bucket]]:
        """The weights held, as they are published; what is in each bucket is known before."""
        gathered = Gathered(self.backend, self.trained, self.dtype)
        groups = tuple(pack(gathered.index(), self.bucket))
        return groups, fill(groups, gathered.read, device)

    def _name(self, buckets: Iterator[Bucket]) -> Generator[Bucket, None, None]:
        """Pass on, of rank 0, the buckets of the weights held; where these have no name yet, they get one."""
        if self.held is not None:
            yield from (bucket for bucket in buckets if self.backend.rank == 0)
        else:
            self.held = yield from self._hashed(buckets)

    def _hashed(self, buckets: Iterator[Bucket]) -> Generator[Bucket, None, str]:
        """Pass on the buckets of rank 0; return the identity of what they hold."""
        digest = Fingerprint()
        for bucket in buckets:
            if self.backend.rank == 0:
                for name, tensor in bucket.tensors():
                    digest.add(name, tensor)
                yield bucket
        return self.backend.share(self.trained.sha256(digest.hexdigest()))

    def _write(self, weights: Weights, *, moves_masters: bool = True) -> None:
        """Make these the weights of the forward pass, and of the optimizer where asked."""
        buffers, names = self.trained.buffers(), self.trained.names()
        parameters = {names[parameter.name][0]: parameter for parameter in self.backend.parameters()}
        expected = {name for group in names.values() for name in group} | set(buffers)
        found = {entry.name: entry.shape for entry in weights.index()}
        if set(found) != expected:
            missing, unknown = sorted(expected - set(found))[:3], sorted(set(found) - expected)[:3]
            raise ValueError(f"these weights are not of {self.model.path}: missing {missing}, unknown {unknown}")
        for name, parameter in parameters.items():
            if found[name] != parameter.shape:
                raise ValueError(
                    f"these weights are not of {self.model.path}: {parameter.name} is {found[name]}, "
                    f"not {parameter.shape}"
                )
        for name, tensor in weights.stream():
            if name in buffers:
                buffers[name].copy_(tensor)
            elif name in parameters:  # not another name of one that is tied
                parameters[name].seen.write(tensor)
                if moves_masters:
                    parameters[name].master.write(tensor)
