"""Every example of a launcher: the run that it starts fits the GPUs that it asks for, in bfloat16 and sharded.

An example is a `run` in scripts/launch, in docker or on a page about clusters. Its GPUs are those of the pods in its
file, of its `--nodes` and `--gpus-per-node`, or of the comment behind it: `# 16 GPUs`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from rlhf_flow.capacity.cluster_needs import gpus
from rlhf_flow.cluster.placement import Demand, placed
from rlhf_flow.config import compose as config
from rlhf_flow.config.overrides import expanded
from tests.test_docs import FENCE, ROOT, composed

FILES = sorted([*(ROOT / "scripts/launch").iterdir(), *(ROOT / "docker").iterdir()])
PAGES = [ROOT / "README.md", *(ROOT / f"docs/how-to/{name}.md" for name in ("several-nodes", "slurm", "kubernetes"))]
NAMED = ("model.path=m", "prompts.path=p", "scorer.path=s")  # of the user; mine.yaml names some


@dataclass(frozen=True)
class Example:
    where: str
    text: str
    gpus: int | None  # None: it says nothing of GPUs

    @property
    def keys(self) -> list[str]:
        words = shlex.split(self.text, comments=True)
        return [word for word in words[words.index("run", 1) + 1 :] if re.match(r"[\w.@/]+=", word)]

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"


def examples() -> Iterator[Example]:
    for path in PAGES:
        for language, text in FENCE.findall(path.read_text(encoding="utf-8")):
            if language == "bash":
                yield from in_lines(path, text)
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        comments = [line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#  ")]
        yield from in_lines(path, "\n".join(comments))
        if path.suffix == ".yaml":
            job = list(yaml.safe_load_all(text))[-1]["spec"]
            yield Example(path.name, job["entrypoint"], of_pods(job) or None)


def in_lines(path: Path, text: str) -> Iterator[Example]:
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        launched = re.match(r"(sbatch|scripts/launch/ssh\.sh|docker run) .* run ", line)
        if launched or (line.startswith("rlhf-flow run ") and re.search(r"cluster[.=]|learner\.ranks|stack=", line)):
            yield Example(path.name, line, told(line))


def told(line: str) -> int | None:
    found = re.search(r"--nodes=(\d+) --gpus-per-node=(\d+)", line) or re.search(r"#.* (\d+) GPUs?()$", line)
    return None if found is None else int(found[1]) * int(found[2] or 1)


def of_pods(job: dict) -> int:
    groups = job["rayClusterSpec"]["workerGroupSpecs"]
    return sum(
        group["replicas"] * int(container["resources"]["limits"].get("nvidia.com/gpu", 0))
        for group in groups
        for container in group["template"]["spec"]["containers"]
    )


EXAMPLES = list(examples())
ON_GPUS = [example for example in EXAMPLES if example.gpus is not None]


def test_every_launcher_has_an_example() -> None:
    assert {"rayjob.yaml", "slurm.sbatch", "ssh.sh", "Dockerfile"} <= {example.where for example in ON_GPUS}


@pytest.mark.parametrize("example", [each for each in EXAMPLES if each.gpus is None], ids=str)
def test_one_without_gpus_composes_and_is_for_cpus(example: Example) -> None:
    composed("run", [*NAMED, *expanded(example.keys)])
    assert {"stack=cpu", "experiment=sandbox"} & {*example.keys}, "how many GPUs is it for?"


@pytest.mark.parametrize("example", ON_GPUS, ids=str)
def test_the_roles_take_the_gpus_that_are_asked_for_and_fit_a_large_model(
    example: Example, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert example.gpus is not None
    monkeypatch.setenv("RAY_ADDRESS", "auto")  # as launchers do
    made = config.compose(*NAMED, *example.keys)
    assert gpus(made) == example.gpus
    assert (made.model.dtype, made.learner.training.precision, made.scorer.dtype) == ("bfloat16",) * 3
    assert made.learner.zero_stage == 3
    if made.cluster.disaggregated:
        each = [("learner", made.learner.ranks, 1), *[("scorer", 1, 1)] * made.cluster.scorers]
        each += [("engine", 1, made.engine.tensor_parallel)] * made.cluster.engines
        nodes = {str(node): {"GPU": 8.0} for node in range(example.gpus // 8)}
        assert placed(nodes, [Demand(name, 0, size, {"GPU": number}) for name, size, number in each])
