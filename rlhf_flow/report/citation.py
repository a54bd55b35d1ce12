"""What a recipe of this package does, in a sentence, and how to cite it and the software."""

from __future__ import annotations

import re

from rlhf_flow.config.compose import CONFIGS

SOFTWARE = """```bibtex
@software{{rlhf_flow,
  title = {{rlhf\\_flow: online iterative RLHF}},
  version = {{{version}}}
}}
```"""


def sentence(algorithm: str) -> str:
    """The first sentence about a recipe; empty if it is none of this package."""
    return _comment(algorithm).partition(". ")[0]


def cite(algorithm: str, version: str) -> str:
    """The papers that the recipe names, if it is one of this package, and the software, in Markdown."""
    papers = dict.fromkeys(re.findall(r"arXiv:\d{4}\.\d{4,5}", _comment(algorithm)))
    named = [f"- {algorithm}: [{paper}](https://arxiv.org/abs/{paper.removeprefix('arXiv:')})" for paper in papers]
    return "\n".join([*named, *([""] if named else []), SOFTWARE.format(version=version)])


def _comment(algorithm: str) -> str:
    """The text at the top of the recipe's file; empty if there is no such file."""
    recipe = CONFIGS / "algorithm" / f"{algorithm}.yaml"
    lines = recipe.read_text(encoding="utf-8").splitlines() if recipe.is_file() else []
    return " ".join(line.removeprefix("# ") for line in lines if line.startswith("# ") and "@package" not in line)
