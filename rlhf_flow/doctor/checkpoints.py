"""Checks of the checkpoints that a run names: whether their files are there and sound. No weights are read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rlhf_flow.doctor.finding import Finding, from_error, ok, problem, warning
from rlhf_flow.system.hub import is_hub_name, missing_model
from rlhf_flow.tokenization.chat_template import ChatTemplate
from rlhf_flow.weights.start_checkpoint import faults, header


@dataclass(frozen=True)
class Named:
    """A checkpoint and the configuration key that names it."""

    key: str  # model.path, scorer.path, evaluate.scorer.path, ...
    path: str
    kind: str  # policy, start of a reward model, classifier or language model
    revision: str | None = None
    trust_remote_code: bool = False
    chat: bool = True  # whether the run renders prompts with its chat template
    template: ChatTemplate = field(default_factory=ChatTemplate)

    @property
    def on_hub(self) -> bool:
        """Whether the path has the form of a name on the hub."""
        return is_hub_name(self.path)


def folder_of(named: Named) -> Path | None:
    """The local folder of the checkpoint, or its folder in the hub's cache; None if it is in neither."""
    if Path(named.path).is_dir():
        return Path(named.path)
    if not named.on_hub:
        return None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(named.path, revision=named.revision, local_files_only=True))
    except (LocalEntryNotFoundError, OSError, ValueError):
        return None


def untrusted_code(named: Named, folder: Path) -> bool:
    """Whether the checkpoint needs its own code, and the configuration does not allow it."""
    try:
        return not named.trust_remote_code and bool(json.loads((folder / "config.json").read_text()).get("auto_map"))
    except (OSError, ValueError):
        return False


def check(named: Named, folder: Path | None) -> Iterator[Finding]:
    """One finding for each fault; one ok if there is none. `folder`: of `folder_of`."""
    what = f"{named.key}={named.path}"
    if folder is None and named.on_hub:
        yield warning(
            "models",
            f"{what} is not in the hub's cache; the run will download it",
            f"hf download {named.path}, to check now that it exists",
        )
        return
    if folder is None:
        yield from_error("models", missing_model(named.key, named.path))
        return
    found = [*faults(folder, kind=named.kind, key=named.key, trust_remote_code=named.trust_remote_code)]
    yield from (problem("models", f"{what}: {fault.says}", fault.way_out) for fault in found)
    if not found:
        files = sorted(folder.glob("*.safetensors"))
        dtypes = sorted({str(tensor["dtype"]) for file in files for tensor in header(file).values()})
        if "F16" in dtypes:
            yield warning(
                "models",
                f"{what} is stored in float16, which overflows above 65504; it is loaded in another dtype",
                "save it in bfloat16 or float32, so that the run starts from the weights that you evaluated",
            )
        else:
            yield ok("models", f"{what}: {len(files)} safetensors, {', '.join(dtypes)}")
