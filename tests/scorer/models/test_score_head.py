from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from rlhf_flow.scorer.models.reward_model import RewardModel
from rlhf_flow.scorer.models.score_head import scores_of
from rlhf_flow.specs import Place
from tests.scorer.conftest import Checkpoint, rollouts

MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
ROWS = torch.tensor([0.5, -2.0])
TOKENS = torch.tensor([[9.0, 9.0, 9.0, 0.5], [9.0, -2.0, 9.0, 9.0]])
SEVERAL = torch.stack([ROWS + 7, ROWS, ROWS - 7], dim=-1)  # [R, 3]
OUTPUTS = {
    "logits [R, 1]": (SimpleNamespace(logits=ROWS[:, None]), None),
    "logits [R]": (SimpleNamespace(logits=ROWS), None),
    "logits [R, n], one chosen": (SimpleNamespace(logits=SEVERAL), 1),
    "score": (SimpleNamespace(score=ROWS, hidden_state=torch.zeros(2, 8)), None),
    "rewards, one chosen": ({"rewards": SEVERAL, "hidden": torch.zeros(2)}, 1),
    "reward": ({"reward": ROWS[:, None]}, None),
    "end_scores before scores": ({"scores": TOKENS[..., None] + 1, "end_scores": ROWS[:, None]}, None),
    "scores of tokens": ({"scores": TOKENS[..., None]}, None),
    "values of tokens": ({"values": TOKENS}, None),
    "scores of tokens, one chosen": ({"scores": torch.stack([TOKENS + 1, TOKENS], dim=-1)}, 1),
    "a tuple": ((ROWS[:, None], torch.zeros(3)), None),
    "a tensor": (ROWS, None),
}
UNREADABLE = {
    "several": (
        SimpleNamespace(logits=SEVERAL),
        None,
        r"its logits for 2 conversations is \[2, 3\]. Fix: .*scorer.label",
    ),
    "too few": (SimpleNamespace(logits=SEVERAL), 3, r"is \[2, 3\]"),
    "hidden states alone": ({"last_hidden_state": torch.zeros(2, 4, 8)}, None, r"has last_hidden_state \[2, 4, 8\]"),
    "nothing": (SimpleNamespace(text="good"), None, "its output has no tensor"),
    "of the batch": ({"score": torch.tensor(1.0)}, None, r"is \[\]"),
    "other rows": ({"score": torch.zeros(3)}, None, r"is \[3\]"),
}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_a_score_is_read_under_whatever_name_and_in_whatever_shape(kind: str) -> None:
    output, label = OUTPUTS[kind]
    torch.testing.assert_close(scores_of(output, MASK, label=label), ROWS)


@pytest.mark.parametrize("kind", UNREADABLE)
def test_an_output_without_a_score_for_each_row_is_refused(kind: str) -> None:
    output, label, said = UNREADABLE[kind]
    with pytest.raises(ValueError, match=said):
        scores_of(output, MASK, label=label)


OWN = """
import torch
from transformers import LlamaConfig, LlamaModel, LlamaPreTrainedModel

class OwnConfig(LlamaConfig):
    model_type = "own"

class OwnForRewardModel(LlamaPreTrainedModel):
    config_class = OwnConfig

    def __init__(self, config):
        super().__init__(config)
        self.model = LlamaModel(config)
        self.v_head = torch.nn.Linear(config.hidden_size, 1, bias=False)
        self.post_init()

    def forward(self, input_ids, attention_mask=None, **rest):
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return RETURNED
"""


def own(folder: str, returned: str) -> str:
    """A checkpoint whose class and head are in its own code."""
    from safetensors.torch import load_file, save_file

    (Path(folder) / "own.py").write_text(OWN.replace("RETURNED", returned))
    config = json.loads((Path(folder) / "config.json").read_text())
    config |= {
        "model_type": "own",
        "architectures": ["OwnForRewardModel"],
        "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnForRewardModel"},
    }
    (Path(folder) / "config.json").write_text(json.dumps(config))
    tensors = load_file(Path(folder) / "model.safetensors")
    tensors["v_head.weight"] = tensors.pop("score.weight")
    save_file(tensors, Path(folder) / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_checkpoint_with_code_of_its_own_scores_as_its_head_says(checkpoint: Checkpoint) -> None:
    asked = rollouts(["a", "bb", "ccc"])
    expected = RewardModel(checkpoint()).open(Place()).score(asked).utility
    spec = RewardModel(own(checkpoint(), '{"scores": self.v_head(hidden)}'), trust_remote_code=True)
    spec.check()
    torch.testing.assert_close(torch.tensor(spec.open(Place()).score(asked).utility), torch.tensor(expected))


def test_a_checkpoint_whose_score_cannot_be_read_is_refused_as_it_is_opened(checkpoint: Checkpoint) -> None:
    spec = RewardModel(own(checkpoint(), '{"hidden": hidden}'), trust_remote_code=True)
    with pytest.raises(ValueError, match=r"scorer\.path must give each conversation a score.*hidden \[2, 3, 16\]"):
        spec.open(Place())


def test_one_of_several_scores_is_chosen_by_its_label(checkpoint: Checkpoint) -> None:
    path = checkpoint(labels=3)
    with pytest.raises(ValueError, match=r"has 3. Fix: choose one of its scores, such as scorer\.label=0"):
        RewardModel(path).check()
    scores = [RewardModel(path, label=label).open(Place()).score(rollouts(["a"])).utility[0, 0] for label in range(3)]
    assert len({float(score) for score in scores}) == 3
    with pytest.raises(ValueError, match="has 3"):
        RewardModel(path, label=3).check()
    with pytest.raises(ValueError, match=r"scorer\.label must be >= 0"):
        RewardModel(path, label=-1)
