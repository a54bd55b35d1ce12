"""`rlhf-flow export model RUN`: a policy of a run as a checkpoint that other programs load."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from rlhf_flow.export.card import model_card
from rlhf_flow.report.run_folder import Run, read
from rlhf_flow.storage.run_policies import named_policy
from rlhf_flow.system.files import new_folder
from rlhf_flow.weights.whole_checkpoint import load_whole

SHARD = "4GB"  # the most of one safetensors file
DTYPES = ("bfloat16", "float16", "float32")
TEMPLATE = "chat_template.jinja"


def write_model(name: str, *, out: Path | None = None, dtype: str = DTYPES[0]) -> tuple[Path, str]:
    """Write the policy that RUN or RUN@ROUND names; return the folder and a summary with the command that serves it.

    Adapters are merged into their base in float32. The folder, by default RUN/export/model, gets weights as
    safetensors, config, tokenizer, chat template and a model card. Raises ValueError if `name` names no policy of a
    run, or if the folder has other files.
    """
    import torch

    policy = named_policy(name)
    if policy is None:
        raise ValueError(f"{name} holds no run: it has no config.yaml and rounds. Fix: name the run's folder.")
    folder = policy.run / "export/model" if out is None else out
    run = read(policy.run)
    _check_generates(run)
    settings: Any = run.config.get("model")
    trust = bool(settings["trust_remote_code"])
    with new_folder(folder) as new:
        model, tokenizer, done = load_whole(policy.folder, trust_remote_code=trust)
        model.to(getattr(torch, dtype)).save_pretrained(new, max_shard_size=SHARD)
        tokenizer.save_pretrained(new)
        for weights in new.glob("*.safetensors"):  # safetensors makes files that only their owner can read
            weights.chmod((new / "config.json").stat().st_mode)
        (new / "README.md").write_text(model_card(run, policy.round, dtype=dtype), encoding="utf-8")
    said = f"the policy of round {policy.round} in {dtype} ({done})"
    return folder, f"{said}\nserve it: {serve_command(folder, dtype=dtype, trust_remote_code=trust)}"


def _check_generates(run: Run) -> None:
    """Raise ValueError if the run trains a reward model."""
    evaluate: Any = run.config.get("evaluate")
    if evaluate["by"] == "agreement":
        raise ValueError(
            f"{run.folder} trains a reward model, which generates no answers. Fix: its checkpoint is a policy/ of "
            f"{run.folder}/rounds; use it as scorer.path."
        )


def serve_command(folder: Path, *, dtype: str, trust_remote_code: bool) -> str:
    """The shell command of vLLM's OpenAI-compatible server, with the template that the policy was trained with."""
    words = ["vllm", "serve", str(folder), "--dtype", dtype]
    if (folder / TEMPLATE).is_file():
        words += ["--chat-template", str(folder / TEMPLATE)]
    return shlex.join([*words, *(["--trust-remote-code"] if trust_remote_code else [])])
