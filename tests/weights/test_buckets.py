"""Tensors in buckets: none is lost or cut, and what is made of them does not depend on the size of the buckets."""

from __future__ import annotations

import hashlib
import pickle
import tempfile
from collections import deque
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from rlhf_flow.types import Policy
from rlhf_flow.weights.buckets import CODES, Bucket, TensorInfo, fill, in_new_buckets, index_of, layout, pack, reader
from rlhf_flow.weights.fingerprint import fingerprint
from rlhf_flow.weights.publish import held, in_buckets
from rlhf_flow.weights.safetensors_file import write
from rlhf_flow.weights.source import InMemoryWeights

DTYPES = [torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool]
ENTRIES = st.builds(
    TensorInfo,
    st.text("abc.", min_size=1, max_size=5),
    st.sampled_from(sorted(CODES)),
    st.lists(st.integers(0, 5), max_size=3).map(tuple),
)
INDICES = st.lists(ENTRIES, unique_by=lambda entry: entry.name, max_size=12).map(
    lambda entries: tuple(sorted(entries, key=lambda entry: entry.name))
)


@st.composite
def states(draw: st.DrawFn) -> dict[str, torch.Tensor]:
    names = draw(st.lists(st.text("abc.", min_size=1, max_size=5), unique=True, max_size=10))
    shapes = st.lists(st.integers(0, 5), max_size=3)
    return {
        name: (100 * torch.rand(draw(shapes), generator=torch.Generator().manual_seed(number))).to(
            draw(st.sampled_from(DTYPES))
        )
        for number, name in enumerate(names)
    }


def equal(left: Mapping[str, torch.Tensor], right: Mapping[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and fingerprint(left) == fingerprint(right)


@given(INDICES, st.integers(1, 400))
def test_every_tensor_is_in_one_bucket_and_only_one_that_is_too_large_is_alone_in_a_larger_one(
    index: tuple[TensorInfo, ...], limit: int
) -> None:
    groups = pack(index, limit)
    assert tuple(entry for group in groups for entry in group) == index
    for group in groups:
        assert group
        assert sum(entry.size for entry in group) <= limit or len(group) == 1
    for group, following in pairwise(groups):
        assert sum(entry.size for entry in group) + following[0].size > limit


@given(INDICES)
def test_tensors_lie_in_a_bucket_without_gaps_each_at_a_multiple_of_its_element(index: tuple[TensorInfo, ...]) -> None:
    starts = layout(index)
    assert all(starts[entry.name] % entry.torch_dtype.itemsize == 0 for entry in index)
    at = 0
    for entry in sorted(index, key=lambda entry: (starts[entry.name], entry.size)):
        assert starts[entry.name] == at
        at += entry.size


@given(states(), st.integers(1, 400))
def test_what_is_filled_into_buckets_comes_out_of_them(state: dict[str, torch.Tensor], limit: int) -> None:
    found = {}
    for bucket in fill(pack(index_of(state), limit), reader(iter(sorted(state.items())))):
        found |= {name: tensor.clone() for name, tensor in bucket.tensors()}
    assert equal(found, state)


@given(states(), st.integers(1, 40), st.integers(1, 3))
def test_a_bucket_stays_valid_while_the_other_buffers_are_filled(
    state: dict[str, torch.Tensor], limit: int, buffers: int
) -> None:
    recent = deque[Bucket](maxlen=buffers)
    for bucket in fill(pack(index_of(state), limit), reader(iter(sorted(state.items()))), buffers=buffers):
        recent.append(bucket)
        for each in recent:
            assert equal(dict(each.tensors()), {entry.name: state[entry.name] for entry in each.index})


@given(states(), st.integers(1, 400))
def test_a_policy_that_left_in_buckets_has_the_weights_it_had(state: dict[str, torch.Tensor], limit: int) -> None:
    policy = held(in_buckets(Policy("policy", 1, "hash", InMemoryWeights(state)), limit))
    assert equal(policy.weights.load(), state)


@given(states())
def test_a_bucket_is_written_as_safetensors_writes_it(state: dict[str, torch.Tensor]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Path(folder) / "ours", Path(folder) / "theirs"
        for bucket in fill([index_of(state)], reader(iter(sorted(state.items())))):
            sha256 = write(ours, bucket.index, [bucket.data], metadata={"format": "pt"})
            assert sha256 == hashlib.sha256(ours.read_bytes()).hexdigest()
        save_file(state, theirs, metadata={"format": "pt"})
        assert equal(load_file(ours), state)
        if state:
            assert ours.read_bytes() == theirs.read_bytes()


@given(states(), st.integers(1, 400))
def test_groups_reach_their_limit_and_hold_everything_once(state: dict[str, torch.Tensor], limit: int) -> None:
    buckets = list(in_new_buckets(iter(state.items()), limit))
    assert equal(dict(tensor for bucket in buckets for tensor in bucket.tensors()), state)
    assert all(bucket.data.nbytes >= limit for bucket in buckets[:-1])


def test_a_bucket_travels_without_a_copy_and_is_read_where_it_may_not_be_written(
    recwarn: pytest.WarningsRecorder,
) -> None:
    state = {"w": torch.arange(4.0)}
    (bucket,) = fill([index_of(state)], reader(iter(sorted(state.items()))))
    apart: list[pickle.PickleBuffer] = []
    rest = pickle.dumps(bucket, protocol=5, buffer_callback=apart.append)
    assert [one.raw().nbytes for one in apart] == [16]
    there = pickle.loads(rest, buffers=[bytes(one.raw()) for one in apart])
    assert equal(dict(there.tensors()), state)
    assert not recwarn.list
