"""Uploads exported files to the Hugging Face Hub, or lists what would be uploaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rlhf_flow.system.errors import ConfigError, reason
from rlhf_flow.system.hub import hub_errors, is_hub_name

Files = Mapping[str, Path | bytes]  # path in the repository -> file, or its content


def push(files: Files, repo: str, *, kind: str, private: bool, dry_run: bool) -> str:
    """Upload the files in one commit; return a summary. With `dry_run`, nothing is sent and no token is needed.

    `kind`: model or dataset. An absent repository is created. Raises ValueError if `repo` is not owner/name, if the Hub
    refuses, or if it is not reached.
    """
    check_repo(repo)
    lines = [f"{_size(file):>9}  {path}" for path, file in sorted(files.items())]
    where = f"the {'private ' if private else ''}{kind} repository {repo}"
    if dry_run:
        return "\n".join([f"dry run: this would go to {where}", *lines])
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    api = HfApi(library_name="rlhf_flow")
    try:
        api.create_repo(repo, repo_type=kind, private=private, exist_ok=True)
        adds = [CommitOperationAdd(path, file) for path, file in files.items()]
        commit = api.create_commit(repo, adds, commit_message="Export of rlhf_flow", repo_type=kind)
    except (HfHubHTTPError, LocalTokenNotFoundError) as error:
        raise ConfigError(f"--push={repo}: the Hub refuses: {reason(error)}", "hf auth login, or HF_TOKEN") from error
    except hub_errors() as error:
        raise ConfigError(f"--push={repo}: uploading failed: {reason(error)}", "check the network") from error
    return "\n".join([f"uploaded to {where}: {commit.commit_url}", *lines])


def check_repo(repo: str) -> None:
    if "/" not in repo or not is_hub_name(repo):
        raise ValueError(f"--push={repo}: a repository is owner/name. Fix: --push me/{repo.rpartition('/')[2]}.")


def files_of(folder: Path) -> dict[str, Path]:
    """All files of a folder, by their path in it."""
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def _size(file: Path | bytes) -> str:
    size = float(len(file) if isinstance(file, bytes) else file.stat().st_size)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
