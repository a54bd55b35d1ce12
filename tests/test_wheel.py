"""A wheel that was built and installed elsewhere holds all that the program needs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHIPPED = ("pyproject.toml", "README.md", "LICENSE", "rlhf_flow", "configs")

pytestmark = pytest.mark.slow  # it builds


def python(*arguments: str, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the source, so that nothing is left in the source itself."""
    folder = tmp_path_factory.mktemp("a folder with a space")
    for name in SHIPPED:
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, folder / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(source, folder / name)
    python("-m", "build", "--wheel", "--no-isolation", "--outdir", "dist", ".", cwd=folder)
    (built,) = (folder / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    site = tmp_path_factory.mktemp("site")
    python("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site), str(wheel), cwd=site)
    return site


def test_it_ships_every_module_and_every_configuration(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "rlhf_flow").rglob("*.py")}
    configs = {f"rlhf_flow/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "configs").rglob("*.yaml")}
    data = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "rlhf_flow").rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc") and "/." not in path.relative_to(ROOT).as_posix()
    }
    assert modules | configs | data | {"rlhf_flow/py.typed"} <= held
    assert {name.split("/")[0].split("-")[0] for name in held} == {"rlhf_flow"}, "nothing else at the top"


def test_it_composes_from_another_folder(installed: Path, tmp_path: Path) -> None:
    where = python("-c", "import rlhf_flow; print(rlhf_flow.__file__)", cwd=tmp_path, PYTHONPATH=str(installed))
    assert Path(where.strip()).is_relative_to(installed)
    shown = python("-m", "rlhf_flow", "run", "--cfg", "job", cwd=tmp_path, PYTHONPATH=str(installed))
    assert "run_dir: runs/default" in shown
    assert list(tmp_path.iterdir()) == []


def test_its_console_script_is_the_program(installed: Path, tmp_path: Path) -> None:
    script = installed / "bin" / "rlhf-flow"
    told = python(str(script), "--help", cwd=tmp_path, PYTHONPATH=str(installed))
    assert told == python("-m", "rlhf_flow", "--help", cwd=tmp_path, PYTHONPATH=str(installed))
