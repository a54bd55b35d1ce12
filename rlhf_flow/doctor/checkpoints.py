"""Checkpoints of a run: whether they are there, and what is wrong with their files. No weight is read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rlhf_flow.doctor.finding import Finding, ok, problem, warning
from rlhf_flow.tokenization.chat_template import ChatTemplate
from rlhf_flow.weights.start_checkpoint import faults, header


@dataclass(frozen=True)
class Named:
    """A checkpoint, by the key that names it."""

    key: str  # model.path, scorer.path, evaluate.scorer.path, ...
    path: str
    kind: str  # policy, start of a reward model, classifier or language model
    revision: str | None = None
    trust_remote_code: bool = False
    chat: bool = True  # whether its own template is used
    template: ChatTemplate = field(default_factory=ChatTemplate)


def folder_of(named: Named) -> Path | None:
    """Where it is on this disk: the folder itself, or the hub's cache; None where it is neither."""
    if Path(named.path).is_dir():
        return Path(named.path)
    if Path(named.path).is_absolute() or named.path.startswith((".", "~")) or named.path.count("/") != 1:
        return None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(named.path, revision=named.revision, local_files_only=True))
    except (LocalEntryNotFoundError, OSError, ValueError):
        return None


def check(named: Named, folder: Path | None) -> Iterator[Finding]:
    """Findings on a checkpoint; one ok where there is nothing to say."""
    what = f"{named.key}={named.path}"
    if folder is None:
        if named.path.count("/") == 1 and not Path(named.path).is_absolute() and not named.path.startswith((".", "~")):
            yield warning(
                "models",
                f"{what} is not on this disk: it is fetched when the run starts",
                f"hf download {named.path}, to see now whether it is there",
            )
        else:
            yield problem("models", f"{what}: there is no such folder", "correct the path")
        return
    found = [*faults(folder, kind=named.kind, key=named.key, trust_remote_code=named.trust_remote_code)]
    yield from (problem("models", f"{what}: {fault.says}", fault.way_out) for fault in found)
    if not found:
        files = sorted(folder.glob("*.safetensors"))
        kinds = sorted({str(one["dtype"]) for file in files for one in header(file).values()})
        if "F16" in kinds:
            yield warning(
                "models",
                f"{what} is stored as float16, whose numbers run out: it is read as another type",
                "save it as bfloat16 or float32, to know what you start from",
            )
        else:
            yield ok("models", f"{what}: {len(files)} safetensors, {', '.join(kinds)}")
