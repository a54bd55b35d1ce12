"""docker/: what a linter would say. The images themselves are not built here."""

from __future__ import annotations

import re
import shlex
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "docker").iterdir())


class Step(NamedTuple):
    name: str  # FROM, RUN, ...
    words: str


def steps(text: str) -> list[Step]:
    """The instructions of a Dockerfile, with their continuation lines."""
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    whole = re.sub(r"\s*\\\n\s*", " ", lines)
    return [Step(*line.split(maxsplit=1)) for line in whole.splitlines() if line.strip()]


@pytest.fixture(params=FILES, ids=[file.name for file in FILES])
def dockerfile(request: pytest.FixtureRequest) -> list[Step]:
    return steps(request.param.read_text())


def of(dockerfile: list[Step], name: str) -> list[str]:
    return [step.words for step in dockerfile if step.name == name]


def test_a_step_over_several_lines_is_one() -> None:
    assert steps("FROM a:1\n# why\nRUN b \\\n    && c\n") == [Step("FROM", "a:1"), Step("RUN", "b && c")]


def test_images_are_pinned_to_the_patch(dockerfile: list[Step]) -> None:
    images = [words.split()[0] for words in of(dockerfile, "FROM")]
    assert images
    assert [image for image in images if not re.search(r":\d+\.\d+\.\d+[-@\w.]*$", image)] == []


def test_nothing_is_fetched_but_packages(dockerfile: list[Step]) -> None:
    assert of(dockerfile, "ADD") == []
    assert [words for words in of(dockerfile, "RUN") if re.search(r"\b(curl|wget)\b|https?://|git clone", words)] == []


def test_python_packages_come_by_hash_and_torch_at_least_by_version(dockerfile: list[Step]) -> None:
    installs = [part for words in of(dockerfile, "RUN") for part in words.split("&&") if "pip install" in part]
    locked = [part for part in installs if "--requirement" in part]
    for part in locked:
        (file,) = re.findall(r"--requirement (\S+)", part)
        pins = [line for line in (ROOT / file).read_text().splitlines() if line and line[0].isalpha()]
        assert all(re.match(r"[\w.-]+==\S+", line) for line in pins)
        assert "--require-hashes" in part or file == "requirements/torch.txt"
    assert any("--require-hashes" in part for part in locked)
    assert [part.split("pip install ")[1].strip() for part in installs if part not in locked] == [
        "--no-deps --no-build-isolation ."
    ]


def test_apt_leaves_nothing_behind(dockerfile: list[Step]) -> None:
    for words in of(dockerfile, "RUN"):
        if "apt-get" in words:
            assert words.startswith("apt-get update && ")
            assert "install --yes --no-install-recommends " in words
            assert words.endswith("&& rm -rf /var/lib/apt/lists/*")


def test_the_image_for_gpus_has_what_nccl_opens_for_rdma() -> None:
    (install,) = [words for words in of(steps((ROOT / "docker/Dockerfile").read_text()), "RUN") if "apt-get" in words]
    assert {"libibverbs1", "ibverbs-providers"} <= set(install.split())


def test_it_runs_as_a_user_that_it_makes_and_who_is_not_root(dockerfile: list[Step]) -> None:
    user = of(dockerfile, "USER")[-1]
    assert int(user.split(":")[0]) > 0
    assert any(f"useradd --uid {user.split(':')[0]} " in words for words in of(dockerfile, "RUN"))
    names = [step.name for step in dockerfile]
    assert names.index("USER") < names.index("ENTRYPOINT")


def test_what_is_copied_exists_and_is_not_ignored(dockerfile: list[Step]) -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    ignored = [line for line in lines if line and not line.startswith("#")]
    for words in of(dockerfile, "COPY"):
        if "--from" in words:
            continue
        for source in shlex.split(words)[:-1]:
            assert (ROOT / source).exists()
            assert not any(fnmatch(source, pattern.removeprefix("**/")) for pattern in ignored)


def test_the_lock_is_installed_before_the_source_is_copied(dockerfile: list[Step]) -> None:
    text = [step.words for step in dockerfile]
    lock = next(index for index, words in enumerate(text) if "--require-hashes" in words)
    assert lock < text.index("rlhf_flow rlhf_flow")


def test_no_secret_is_in_it(dockerfile: list[Step]) -> None:
    named = " ".join(of(dockerfile, "ENV") + of(dockerfile, "ARG"))
    assert re.findall(r"\w*(?:TOKEN|SECRET|PASSWORD|API_KEY)\w*", named) == []


def test_what_a_working_tree_holds_besides_stays_out() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {".git", ".venv*", "runs", "wandb", "**/__pycache__"} <= set(ignored)
