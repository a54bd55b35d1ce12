"""`rlhf-flow export model RUN`: a policy of a run as a checkpoint that other programs load."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf_flow.report.card import model_card
from rlhf_flow.report.run_folder import Run, read
from rlhf_flow.storage.ledger import Ledger
from rlhf_flow.storage.run_policies import RunPolicy, named_policy
from rlhf_flow.system.files import new_folder, read_json, write_json
from rlhf_flow.system.output import kept_on_failure
from rlhf_flow.weights.whole_checkpoint import load_whole

SHARD = "4GB"  # the most of one safetensors file
DTYPES = ("bfloat16", "float16", "float32")
TEMPLATE = "chat_template.jinja"
CARD, SOURCE = "README.md", "rlhf_flow.json"  # SOURCE: which policy the folder holds


def write_model(name: str, *, out: Path | None = None, dtype: str = DTYPES[0]) -> tuple[Path, str]:
    """Write the policy that RUN or RUN@ROUND names; return the folder and a summary with the command that serves it.

    Adapters are merged into their base in float32. The folder, by default RUN/export/model, gets weights as
    safetensors, config, tokenizer, chat template and a model card. A folder that has this policy in this dtype already
    stays as it is.

    Raises ValueError if `name` names no policy of a run, or if the folder has other files.
    """
    policy = named_policy(name)
    if policy is None:
        raise ValueError(f"{name} holds no run: it has no config.yaml and rounds. Fix: name the run's folder.")
    folder = policy.run / "export/model" if out is None else out
    run = read(policy.run)
    _check_generates(run)
    trust = bool(_model_settings(run)["trust_remote_code"])
    source = _source(policy, dtype)
    done = "as it was exported before" if _holds(folder, source) else _write(folder, run, policy, source)
    said = f"the policy of round {policy.round} in {dtype} ({done})"
    return folder, f"{said}\nserve it: {serve_command(folder, dtype=dtype, trust_remote_code=trust)}"


def _write(folder: Path, run: Run, policy: RunPolicy, source: Mapping[str, object]) -> str:
    """Write the folder; return what was done to the weights."""
    dtype = str(source["dtype"])
    with new_folder(folder) as new, kept_on_failure(folder.with_name(f"{folder.name}.log")):
        import torch

        trust = bool(_model_settings(run)["trust_remote_code"])
        model, tokenizer, done = load_whole(policy.folder, trust_remote_code=trust)
        model.to(getattr(torch, dtype)).save_pretrained(new, max_shard_size=SHARD)
        tokenizer.save_pretrained(new)
        for weights in new.glob("*.safetensors"):  # safetensors makes files that only their owner can read
            weights.chmod((new / "config.json").stat().st_mode)
        card = model_card(run, policy.round, dtype=dtype, is_average=policy.is_average)
        (new / CARD).write_text(card, encoding="utf-8")
        write_json(new / SOURCE, source)
    return done


def _source(policy: RunPolicy, dtype: str) -> Mapping[str, object]:
    """What identifies an exported policy: its run, its weights, and their type."""
    pointer, record = policy.run / "average.json", Ledger(policy.run).folder(policy.round) / "record.json"
    sha256 = read_json(pointer)["sha256"] if policy.is_average else read_json(record)["policy"]
    return {"policy": policy.name, "sha256": sha256, "dtype": dtype}


def _holds(folder: Path, source: Mapping[str, object]) -> bool:
    """Whether an earlier export wrote the folder of `source`. Raises ValueError if it wrote another policy."""
    if not (folder / SOURCE).is_file():
        return False
    found = read_json(folder / SOURCE)
    if found != source:
        raise ValueError(
            f"{folder} is not empty: it holds {_named(found)}, not {_named(source)}. "
            "Fix: --out ANOTHER, or remove the folder."
        )
    return True


def _named(source: Mapping[str, object]) -> str:
    return f"{source['policy']} in {source['dtype']} (sha256 {str(source['sha256'])[:12]}…)"


def _model_settings(run: Run) -> dict[str, Any]:
    settings: Any = run.config["model"]
    return dict(settings)


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
