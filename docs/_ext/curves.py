"""The directive `{curve} ALGORITHM`: its learning curve in algorithms/curves.json, as inline SVG."""

from __future__ import annotations

import json
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.application import Sphinx

from rlhf_flow.report.svg_chart import Curve, curves

CAPTION = (
    "Win rate against the start on held-out prompts, by the gold scorer; shaded: its 95 % interval over prompts. 4,096 "
    "queries of the reward model in 4 rounds, learning rate {lr:g}, seed {seed}: "
)


class LearningCurve(Directive):
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        environment = self.state.document.settings.env
        path = Path(environment.srcdir) / "algorithms/curves.json"
        environment.note_dependency(str(path))
        found = json.loads(path.read_text(encoding="utf-8"))[self.arguments[0]]
        points, low, high = (
            {int(round): value for round, value in found[key].items()}
            for key in ("win_rate", "win_rate_low", "win_rate_high")
        )
        line = Curve("win rate", points, "win-rate", low=low, high=high)
        picture = curves("win rate by round", [line], rounds=points, base=0.5)
        caption = nodes.paragraph("", CAPTION.format(**found), nodes.literal("", "make curves"), nodes.Text("."))
        return [nodes.raw("", f'<div class="learning-curve">{picture}</div>', format="html"), caption]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("curve", LearningCurve)
    app.add_css_file("curves.css")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
