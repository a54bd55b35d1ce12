"""What the ranks of a test are asked to do: called on all of them, with the same arguments."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pyarrow as pa
from torch import Tensor, uint8
from torch.nn import Parameter

from rlhf_flow.learner.held_weights import Pass
from rlhf_flow.protocols import Learner, TrainingRound
from rlhf_flow.specs import LearnerSpec, Model, Place
from rlhf_flow.storage.tables import Table
from rlhf_flow.types import Policy
from rlhf_flow.weights.buckets import pack
from tests.support.classroom import policy_of, start_of
from tests.support.resident import Peak, limited


@dataclass(frozen=True)
class Trained:
    """What a learner says after some steps."""

    metrics: list[Mapping[str, float]]  # step by step
    policy: Policy

    @property
    def weights(self) -> dict[str, Tensor]:
        return self.policy.weights.load()

    @property
    def losses(self) -> list[float]:
        return [metrics["loss"] for metrics in self.metrics]


def learn(learner: Learner, lesson: TrainingRound, first: int, last: int) -> Trained:
    metrics = [learner.update(lesson, step, step + 1) for step in range(first, last)]
    return Trained(metrics, learner.publish("policy", lesson.round))


def train(place: Place, spec: LearnerSpec, model: Model, start: Policy, lesson: TrainingRound, steps: int) -> Trained:
    learner = spec.open(model, place)
    learner.start(start)
    trained = learn(learner, lesson, 0, steps)
    learner.close()
    return trained


def train_in(
    place: Place, spec: LearnerSpec, small: Model, model: Model, start: Policy, lesson: TrainingRound, room: int | None
) -> tuple[int, int]:
    """Two steps of training, with `room` bytes of memory. The most that loading takes, and the most of all.

    A small model comes first, so that threads and libraries are in place.
    """
    train(place, spec, small, policy_of(small), lesson, 1)
    with limited(room) if room is not None else nullcontext(), Peak() as peak:
        learner = spec.open(model, place)
        learner.start(start)
        loaded = peak.bytes
        learner.update(lesson, 0, 2)
    learner.close()
    return loaded, peak.bytes


def load_in(place: Place, spec: LearnerSpec, small: Model, model: Model) -> int:
    """The most memory that loading takes, in bytes. A small model comes first, as in `train_in`."""
    learner = spec.open(small, place)
    learner.start(start_of(small))
    with Peak() as peak:
        learner = spec.open(model, place)
        learner.start(start_of(model))
    learner.close()
    return peak.bytes


def train_and_save(
    place: Place,
    spec: LearnerSpec,
    model: Model,
    start: Policy,
    lesson: TrainingRound,
    middle: int,
    steps: int,
    folder: Path,
) -> Trained:
    """As `train`, with the state written on the way."""
    learner = spec.open(model, place)
    learner.start(start)
    for step in range(middle):
        learner.update(lesson, step, step + 1)
    learner.save_state(folder)
    trained = learn(learner, lesson, middle, steps)
    learner.close()
    return trained


def train_with_rests(
    place: Place,
    spec: LearnerSpec,
    model: Model,
    start: Policy,
    lesson: TrainingRound,
    middle: int,
    steps: int,
    folder: Path,
) -> tuple[Trained, int]:
    """As `train_and_save`, stepping aside between all calls; and the bytes that it held all the same."""
    before = live()
    learner = spec.open(model, place)
    learner.start(start)
    metrics, held = [], 0
    for step in range(steps):
        if step == middle:
            learner.save_state(folder)
            rest(learner)
        taken = learner.update(lesson, step, step + 1)
        metrics += [taken] if step >= middle else []
        held = max(held, rest(learner) - before)
    trained = Trained(metrics, learner.publish("policy", lesson.round))
    learner.close()
    return trained, held


def rest(learner: Learner) -> int:
    """Step aside and come back. The bytes that are live meanwhile, without those that are kept on the host."""
    learner.step_aside()
    held = live()
    learner.step_aside()
    learner.come_back()
    learner.come_back()
    return held


def live() -> int:
    """Bytes of all tensors of this process, but for those of bytes: what is aside is kept in such."""
    gc.collect()
    found = [one for one in gc.get_objects() if type(one) in (Tensor, Parameter)]
    storages = [one.untyped_storage() for one in found if one.dtype != uint8 and one.device.type != "meta"]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def load_and_train(
    place: Place, spec: LearnerSpec, model: Model, lesson: TrainingRound, middle: int, steps: int, folder: Path
) -> Trained:
    learner = spec.open(model, place)
    learner.load_state(folder)
    trained = learn(learner, lesson, middle, steps)
    learner.close()
    return trained


def train_and_listen(
    place: Place, spec: LearnerSpec, model: Model, start: Policy, lesson: TrainingRound
) -> tuple[Trained, set[str]]:
    """As `train`, with the addresses on which the process listens in the end."""
    trained = train(place, spec, model, start, lesson, 1)
    sockets = psutil.Process().net_connections(kind="inet")
    return trained, {socket.laddr.ip for socket in sockets if socket.status == psutil.CONN_LISTEN}


@dataclass(frozen=True)
class Scored:
    start: pa.Table  # under the policy that was held
    other: pa.Table  # under another one
    again: pa.Table  # under the first once more
    spread: pa.Table  # under the other one
    before: str  # sha256 of the weights held before and after
    after: str
    trained: Trained  # training goes on from the weights that were held


def score(
    place: Place,
    spec: LearnerSpec,
    model: Model,
    start: Policy,
    other: Policy,
    responses: Sequence[Table],
    wanted: Sequence[str],
    lesson: TrainingRound,
) -> Scored:
    learner = spec.open(model, place)
    learner.start(start)
    before = learner.publish("policy", 0).sha256
    tables = [learner.logps(responses, wanted, policy) for policy in (start, other, start)]
    spread = learner.spread(responses, wanted, other)
    after = learner.publish("policy", 0).sha256
    trained = learn(learner, lesson, 0, 2)
    learner.close()
    return Scored(*tables, spread, before, after, trained)


def stumble(
    place: Place, spec: LearnerSpec, model: Model, start: Policy, broken: TrainingRound, good: TrainingRound
) -> tuple[str, str, Trained]:
    """A lesson whose loss is not finite: what is said, which weights are left, and a good lesson after it."""
    learner = spec.open(model, place)
    learner.start(start)
    said = ""
    try:
        learner.update(broken, 0, 1)
    except FloatingPointError as error:
        said = str(error)
    left = learner.publish("policy", 1).sha256
    trained = learn(learner, good, 0, 3)
    learner.close()
    return said, left, trained


def rounds(
    place: Place, spec: LearnerSpec, model: Model, start: Policy, lessons: Sequence[TrainingRound], folder: Path
) -> list[Policy]:
    """Round after round in one process, each published with its state and its checkpoint."""
    learner = spec.open(model, place)
    policies = [start]
    for lesson in lessons:
        learner.start(policies[-1])
        learner.update(lesson, 0, learner.steps(lesson))
        state = folder / str(lesson.round) / "learner"
        learner.save_state(state)
        policies.append(replace(learner.publish("policy", lesson.round), state=state))
        learner.save_policy(folder / str(lesson.round) / "policy")
    learner.close()
    return policies[1:]


@dataclass(frozen=True)
class Saved:
    policy: Policy
    state: str  # the sha256 that the saved state names


def learn_and_save(
    place: Place, bucket: int, spec: LearnerSpec, model: Model, start: Policy, lesson: TrainingRound, folder: Path
) -> Saved:
    """Two steps, and all that is written of them, with weights gathered in buckets of that size."""
    learner = spec.open(model, replace(place, bucket=bucket))
    learner.start(start)
    learner.update(lesson, 0, 2)
    learner.save_state(folder / "learner")  # nobody has asked for a name yet
    learner.save_policy(folder / "policy")
    policy = learner.publish("policy", lesson.round)
    learner.close()
    return Saved(policy, json.loads((folder / "learner/state.json").read_text())["sha256"])


def count_collectives(
    place: Place, bucket: int, spec: LearnerSpec, model: Model, start: Policy, lesson: TrainingRound
) -> tuple[int, int, int]:
    """Of one publish of changed weights: all-gathers, sends and receives, and buckets."""
    from torch import distributed as dist

    learner = spec.open(model, replace(place, bucket=bucket))
    learner.start(start)
    learner.update(lesson, 0, 1)
    counts = {"all_gather_into_tensor": 0, "send": 0, "recv": 0}

    def counted(name: str, function: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **named: object) -> object:
            counts[name] += 1
            return function(*arguments, **named)

        return call

    own = {name: vars(dist)[name] for name in counts}
    for name, function in own.items():
        setattr(dist, name, counted(name, function))
    held = learner.held
    for _ in Pass(held).tensors:
        pass
    for name, function in own.items():
        setattr(dist, name, function)
    buckets = len(pack(Pass(held).index, bucket))
    learner.close()
    return counts["all_gather_into_tensor"], counts["send"] + counts["recv"], buckets
