"""Write a checkpoint that a run can start from: `rlhf-flow convert FROM TO`. FROM may be a run.

Weights in .bin become safetensors, an adapter is merged into its base, and weights quantised to fp8 or mxfp4 become
bfloat16. What is written is what transformers loads, so nothing is lost but the quantisation's file size.
"""

from __future__ import annotations

from pathlib import Path

from rlhf_flow.storage.run_policies import named_policy
from rlhf_flow.system.files import new_folder
from rlhf_flow.system.output import kept_on_failure
from rlhf_flow.weights.whole_checkpoint import load_whole


def convert(source: str, target: str, *, trust_remote_code: bool = False) -> str:
    """What was done, in a sentence. Raises ValueError if there is nothing that can be converted."""
    policy = named_policy(source)
    start = Path(source) if policy is None else policy.folder
    if not start.is_dir():
        raise ValueError(f"{source} is not a folder. Fix: give the folder of a checkpoint, or hf download it first.")
    out = Path(target)
    with new_folder(out) as written, kept_on_failure(out.with_name(f"{out.name}.log")):
        model, tokenizer, done = load_whole(start, trust_remote_code=trust_remote_code)
        model.save_pretrained(written)
        tokenizer.save_pretrained(written)
    return f"{target}: {done}"


def main(arguments: list[str]) -> int:
    """Raises ValueError for other arguments than two folders, and for a checkpoint that cannot be converted."""
    folders = [argument for argument in arguments if not argument.startswith("--")]
    if len(folders) != 2 or set(arguments) - {*folders, "--trust-remote-code"}:
        raise ValueError("convert takes two folders. Try rlhf-flow convert FROM TO, or --help.")
    try:
        print(convert(*folders, trust_remote_code="--trust-remote-code" in arguments))
    except (ValueError, OSError) as error:
        raise ValueError(" ".join(str(error).split())) from error
    return 0
