"""The user's DeepSpeed JSON adds to ours and never overrides what a run is made of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlhf_flow.learner.deepspeed import DeepSpeed
from rlhf_flow.learner.deepspeed_config import OWNED, engine_config
from rlhf_flow.learner.training import Training


def settings(path: Path, content: object) -> str:
    path.write_text(json.dumps(content))
    return str(path)


@pytest.mark.parametrize("key", OWNED)
def test_what_is_ours_is_refused_with_the_place_where_it_is_set(key: str, tmp_path: Path) -> None:
    content: object = {"enabled": True} if key in ("fp16", "bf16", "amp") else 1
    for name in reversed(key.split(".")):
        content = {name: content}
    with pytest.raises(ValueError, match=rf"learner.config=.* sets {key}, which is set by {OWNED[key]}"):
        DeepSpeed(config=settings(tmp_path / "ds.json", content))


def test_a_file_for_the_hugging_face_trainer_is_read(tmp_path: Path) -> None:
    content = {
        "train_batch_size": "auto",
        "gradient_clipping": "auto",
        "optimizer": {"type": "auto", "params": {"lr": "auto"}},
        "bf16": {"enabled": "auto"},
        "zero_optimization": {"stage": "auto", "reduce_bucket_size": "auto", "overlap_comm": True},
        "comms_logger": {"enabled": True},
    }
    path = settings(tmp_path / "ds.json", content)
    config = engine_config(Training(), ranks=2, zero_stage=3, path=path, device="cuda")
    assert config["zero_optimization"] == {"stage": 3, "overlap_comm": True}
    assert config["comms_logger"] == {"enabled": True}
    assert "optimizer" not in config or config["optimizer"] == {"params": {}}


@pytest.mark.parametrize(
    ("batch", "micro_batch", "ranks", "accumulation"), [(64, 8, 2, 4), (8, 8, 2, 1), (10, 2, 4, 2)]
)
def test_deepspeed_hears_the_arithmetic_of_the_batch(
    batch: int, micro_batch: int, ranks: int, accumulation: int
) -> None:
    training = Training(batch=batch, micro_batch=micro_batch)
    config = engine_config(training, ranks=ranks, zero_stage=2, path=None, device="cpu")
    assert config["gradient_accumulation_steps"] == accumulation
    assert config["train_batch_size"] == micro_batch * accumulation * ranks


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "is not JSON"), ("[]", "must hold a JSON object, got a list"), (None, "cannot be read")],
)
def test_a_file_that_is_no_configuration_is_refused(content: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "ds.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=rf"learner.config=.*{message}"):
        DeepSpeed(config=str(path))


def test_offload_to_nvme_is_refused(tmp_path: Path) -> None:
    path = settings(tmp_path / "ds.json", {"zero_optimization": {"offload_optimizer": {"device": "nvme"}}})
    with pytest.raises(
        ValueError, match=r"zero_optimization\.offload_optimizer\.device must be none or cpu, got 'nvme'"
    ):
        DeepSpeed(zero_stage=3, config=path)
