"""The mutation drill: what its operators change, and a drill of a repository of one file."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "scripts/proofs"

operators, imports, equivalents = (
    importlib.import_module(f"mutation.{name}") for name in ("operators", "imports", "equivalents")
)

OBJECTIVE, SAMPLER = "rlhf_flow/objective/x.py", "rlhf_flow/sampler/x.py"
FILES = imports.mutated_files(ROOT)


def made(source: str, operator: str, path: str = OBJECTIVE) -> list[str]:
    """The changed lines, of one operator."""
    return [mutant.after for mutant in operators.mutants(path, source) if mutant.operator == operator]


@cache
def of_file(path: str) -> list:
    return operators.mutants(path, (ROOT / path).read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("operator", "line", "expected"),
    [
        ("sign", "a = b - (c + d)", ["a = b + (c + d)", "a = b - (c - d)"]),
        ("sign", "a = -b", ["a = +b"]),
        ("sign", "a += 1", ["a -= 1"]),
        ("times or over", "π = (a * b) / c", ["π = (a / b) / c", "π = (a * b) * c"]),
        ("times or over", "a = b ** c // d", []),
        ("comparison", "a = not 0 <= b < c", ["a = not 0 < b < c", "a = not 0 <= b <= c"]),
        ("comparison", "a = b == c, b >= c", ["a = b != c, b >= c", "a = b == c, b > c"]),
        ("and or or", "a = b and not (c or d)", ["a = b or not (c or d)", "a = b and not (c and d)"]),
        ("and or or", "a = b and c and d", ["a = b or c and d", "a = b and c or d"]),
        ("min or max", "a = min(b, c.argmax())", ["a = max(b, c.argmax())", "a = min(b, c.argmin())"]),
        ("sum or mean", "a = b.sum - c.mean(-1)", ["a = b.mean - c.mean(-1)", "a = b.sum - c.sum(-1)"]),
        ("sum or mean", "a = b == 'mean'", ['a = b == "sum"']),
        ("first or second", "a = b.first, c.second", ["a = b.second, c.second", "a = b.first, c.first"]),
        ("wrong anchor", "a = b['reference']", ['a = b["previous"]']),
        ("policy or reference", "a = 'policy', 'reference'", ["a = \"reference\", 'reference'"]),
        ("stop-gradient", "a = (b + c.d).detach() * e", ["a = (b + c.d) * e"]),
        ("stop-gradient", "a = torch.no_grad()", ["a = torch.enable_grad()"]),
        ("off by a round", "a = b(round)", ["a = b(round + 1)", "a = b(round - 1)"]),
        ("off by a round", "a = b.round * c", ["a = (b.round + 1) * c", "a = (b.round - 1) * c"]),
        ("off by a round", "a = round - 1", ["a = round", "a = round - 2"]),
        ("twice the constant", "a = 0.5 * b[1:]", ["a = 1.0 * b[1:]", "a = 0.5 * b[2:]"]),
        ("twice the constant", "a = 0 * b + True", []),
    ],
)
def test_each_operator_finds_its_places(operator: str, line: str, expected: list[str]) -> None:
    assert made(f"{line}  # 1 + 1\n", operator) == expected


def test_a_name_is_swapped_where_there_is_the_other_one() -> None:
    both = "def f(a):\n    first, second = a\n    return first\n"
    assert made(both, "first or second") == ["second, first = a", "return second"]
    assert made("def f(first):\n    return first\n", "first or second") == []


def test_what_an_anchor_is_depends_on_the_folder() -> None:
    source = "a = 'reference', 'policy'\n"
    assert made(source, "wrong anchor", SAMPLER) == []
    assert len(made(source, "policy or reference", SAMPLER)) == 2
    assert len(made(source, "wrong anchor", "rlhf_flow/schedule.py")) == 1


def test_what_is_not_code_is_left_alone() -> None:
    source = '''"""policy - 1"""
from a import sum

def f(round: "reference" = None) -> Literal["sum"]:
    """reference"""
    b: Literal["mean"] = f"{round - 1}"
    raise ValueError("reference", 2 + 2)
'''
    assert operators.mutants(OBJECTIVE, source) == []


def test_what_two_operators_make_alike_is_one_mutant() -> None:
    assert [mutant.after for mutant in operators.mutants(OBJECTIVE, "a = round - 1\n")] == [
        "a = round",
        "a = round - 2",
        "a = round + 1",
    ]


@pytest.mark.parametrize("path", FILES)
def test_a_mutant_differs_in_one_line(path: str) -> None:
    source = (ROOT / path).read_text(encoding="utf-8").splitlines()
    for mutant in of_file(path):
        lines = zip(source, mutant.source.splitlines(), strict=True)
        assert [at for at, (one, other) in enumerate(lines, start=1) if one != other] == [mutant.line]


def test_every_file_has_tests_and_its_own_come_into_it() -> None:
    whole = imports.Imports(ROOT)
    for path in FILES:
        assert whole.tests(path)
        assert imports.named_after(path) in whole.tests(path) or not (ROOT / imports.named_after(path)).exists()
    assert "tests/objective/test_every_objective.py" in whole.tests("rlhf_flow/objective/log_ratios.py")
    assert "rlhf_flow/verify/claims/dno.py:V7a" in whole.claims("rlhf_flow/objective/dno.py")
    assert "rlhf_flow/verify/claims/dno.py:V7a" in whole.claims("rlhf_flow/sampler/policy.py")  # by the setting


def test_equivalent_mutants_are_mutants_and_have_a_proof() -> None:
    found = [one for path in FILES for one in of_file(path)]
    assert equivalents.stale(equivalents.EQUIVALENTS, found) == []
    assert all(entry.proof.endswith(".") for entry in equivalents.EQUIVALENTS)
    gone = equivalents.Equivalent("rlhf_flow/replay.py", "1", "2", "There is no such line.")
    assert equivalents.stale([gone], found) == [gone]


# -- a whole drill -----------------------------------------------------------------------------------------------------

SMALL = {
    "pyproject.toml": '[tool.pytest.ini_options]\nmarkers = ["heavy"]\n',
    "rlhf_flow/__init__.py": "",
    "rlhf_flow/replay.py": """def kept(n):
    return n + 1

def least():
    return 2

def most():
    return 3
""",
    "rlhf_flow/verify/claims/one.py": """from types import SimpleNamespace as Claim
from rlhf_flow import replay

CLAIMS = [Claim(id="V1", check=lambda seed: [Claim(what="least", holds=replay.least() == 2)])]
NAMED = lambda: Claim("V1")  # claims are found by such a call
""",
    "tests/test_replay.py": "from rlhf_flow.replay import kept\n\ndef test_kept():\n    assert kept(2) == 3\n",
}
DRILL = """import sys
from pathlib import Path
from mutants import main

print([main(["--jobs", "1"], root=Path(root), known=()) for root in sys.argv[1:]])
"""


def repository(root: Path, **changed: str) -> Path:
    for path, text in {**SMALL, **changed}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def contents(root: Path) -> Mapping[str, tuple[str, int]]:
    files = [path for path in root.rglob("*") if path.is_file()]
    return {str(path): (path.read_text(), path.stat().st_mtime_ns) for path in files}


def test_a_drill_tells_what_nothing_noticed_and_leaves_the_repository_alone(tmp_path: Path) -> None:
    whole = repository(tmp_path / "whole")
    broken = repository(
        tmp_path / "broken", **{"tests/test_replay.py": SMALL["tests/test_replay.py"] + "    assert 0\n"}
    )
    before = contents(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", DRILL, str(whole), str(broken)],
        env={**os.environ, "PYTHONPATH": str(SCRIPTS)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert contents(tmp_path) == before
    assert done.stdout.splitlines()[-1] == "[1, 2]"
    assert "red without a mutant: tests/test_replay.py::test_kept" in done.stdout
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith("rlhf_flow/replay.py")]
    assert rows == [["rlhf_flow/replay.py", "4", "3", "0", "1"]]  # of them one by the claim
    assert "survived: rlhf_flow/replay.py:8, twice the constant\n- return 3\n+ return 6" in done.stdout
    assert "75.0%" in done.stdout
