"""Write reference/presets.md before Sphinx reads the sources: the presets of configs/experiment/<paper>/."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml
from sphinx.application import Sphinx

from rlhf_flow.config.compose import CONFIGS, compose
from rlhf_flow.config.schema import RunConfig

EXPERIMENTS = CONFIGS / "experiment"
FIELD = re.compile(r"(source|published|differs): (.+)")
HEAD = """\
# Presets

`rlhf-flow run experiment=NAME` with a name of the first column. [How to use them](../how-to/presets.md).

The comments of the files say where a constant comes from: `[paper]`, the official `[code]`, or `[unconfirmed]` if
neither could be read. A constant without a mark is a choice of this project. Published numbers are those of the paper
or its code; no preset was run here at its full size.
"""
TABLE = """
| preset | start | algorithm | rounds | prompts a round | batch | epochs | learning rate | loss |
|---|---|---|---|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Preset:
    """A file of configs/experiment/<paper>/, with what the comments at its head say."""

    name: str
    about: str
    fields: tuple[tuple[str, str], ...]  # source, published or differs, and its text
    text: str  # of the file below its head

    @property
    def sources(self) -> list[str]:
        return [one for _, text in self.of("source") for one in text.split(", ")]

    def of(self, field: str) -> list[tuple[str, str]]:
        return [one for one in self.fields if one[0] == field]

    def config(self) -> RunConfig:
        named = yaml.safe_load(self.text).get("model", {}).get("path")
        return compose(f"experiment={self.name}", *([] if named else ["model.path=any"]))


def presets() -> list[Preset]:
    """All presets, by name."""
    return [_read(path) for path in sorted(EXPERIMENTS.glob("*/*.yaml"))]


def _read(path: Path) -> Preset:
    lines = path.read_text(encoding="utf-8").splitlines()
    end = next(at for at, line in enumerate(lines) if not line.startswith("#"))
    head = re.sub(r"\n#   ", " ", "\n".join(lines[1:end])).splitlines()  # lines that go on are indented
    texts = [line.removeprefix("# ") for line in head]
    found = [(match[1], match[2]) for text in texts if (match := FIELD.fullmatch(text))]
    about = " ".join(text for text in texts if not FIELD.fullmatch(text))
    return Preset(path.relative_to(EXPERIMENTS).with_suffix("").as_posix(), about, tuple(found), "\n".join(lines[end:]))


def page() -> str:
    listed = [one for one in presets() if not one.name.startswith("chat/")]
    rows = "".join(f"| {' | '.join(_row(one))} |\n" for one in listed)
    return HEAD + TABLE + rows + "\n" + "\n".join(line for one in presets() for line in _section(one))


def _row(preset: Preset) -> Iterator[str]:
    config, given = preset.config(), yaml.safe_load(preset.text)
    training = config.learner.training
    rate = training.optimizer.lr
    algorithm = [one["override /algorithm"] for one in given["defaults"] if "override /algorithm" in one]
    yield f"[{preset.name}](#{re.sub(r'[^a-z0-9_]', '', preset.name)})"
    yield f"`{config.model.path}`"
    yield f"`{algorithm[0] if algorithm else 'online_dpo'}`"
    yield str(config.rounds)
    yield f"{config.prompts.batch:,}"
    yield str(training.batch)
    yield str(training.epochs)
    yield "by size" if rate is None else f"{rate:g}"
    yield ", ".join(f"{key} {value}" for key, value in given.get("objective", {}).items()) or "defaults"


def _section(preset: Preset) -> Iterator[str]:
    yield from (f"## {preset.name}", "", preset.about, "")
    for field, text in preset.fields:
        yield f"- {field}: " + re.sub(r"(https://\S+?)(?=,|$)", r"<\1>", text)
    yield from ("", "```yaml", preset.text, "```", "")


def write(app: Sphinx) -> None:
    path = Path(app.srcdir) / "reference" / "presets.md"
    text = page()
    if not path.exists() or path.read_text(encoding="utf-8") != text:  # unchanged pages are not read again
        path.write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
