"""What the learner does to be fast, one step after the other: each name is the one before and one thing more"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING
from unittest.mock import patch

if TYPE_CHECKING:
    from torch import Tensor

    from rlhf_flow.learner.logits import Reader
    from rlhf_flow.learner.output_layer import OutputLayer

STEPS = {
    "padded": "padded rows, every answer with its prompt, all logits of a pass at once",
    "packed": "rows in one line without padding",
    "shared": "the answers to a prompt share it",
    "fused": "the output layer of the learner, some logits at a time",
    "compiled": "decoder layers by torch.compile",
}
DEFAULT = "fused"  # what a learner does unless a key says otherwise


def has(step: str, wanted: str) -> bool:
    """Whether a learner that stops at `step` does `wanted`."""
    return list(STEPS).index(step) >= list(STEPS).index(wanted)


@contextmanager
def learner_until(step: str) -> Iterator[None]:
    """Learners stop at that step meanwhile. `random_pairs` sees to shared prompts, `configured` to compile."""
    from rlhf_flow.learner import output_layer, policy_model

    with ExitStack() as stack:
        if not has(step, "packed"):
            stack.enter_context(patch.object(policy_model, "share_prompts", lambda model: False))
        if not has(step, "fused"):
            stack.enter_context(patch.object(output_layer.OutputLayer, "forward", _whole_logits))
        yield


def _whole_logits(self: OutputLayer, hidden: Tensor, targets: Tensor, read: Reader) -> Tensor:
    """As a trainer without an output layer of its own: autograd keeps the logits."""
    return read(self.after.logits(hidden, self.weight, self.bias), targets)
