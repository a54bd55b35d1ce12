"""Where exported data comes from, in words that reveal no path of this machine."""

from __future__ import annotations

from pathlib import Path

from rlhf_flow.report.facts import algorithm_of, judges
from rlhf_flow.report.run_folder import read


def provenance(run: Path) -> dict[str, str | None]:
    """The columns run (name of its folder), algorithm, and judge (kind and name of the training scorer).

    Raises ValueError if the folder holds no run.
    """
    found = read(run)
    scorers = judges(found)
    return {
        "run": found.name,
        "algorithm": algorithm_of(found) or None,
        "judge": scorers.training or scorers.evaluation,
    }
