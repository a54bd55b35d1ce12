"""Selects the tests and the claims of a file: those that import it, a file of its folder that does, or such a test."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath

MUTATED = ("objective/*.py", "selector/*.py", "sampler/*.py", "schedule.py", "replay.py")
CLAIMS = "rlhf_flow/verify/claims"
TOPS = ("rlhf_flow", "tests", "scripts")


def mutated_files(root: Path) -> list[str]:
    """The files to mutate, as paths relative to the root of the repository."""
    return [_below(root, path) for pattern in MUTATED for path in sorted((root / "rlhf_flow").glob(pattern))]


class Imports:
    """The import graph of a repository."""

    def __init__(self, root: Path) -> None:
        self.files = {_below(root, path): path for top in TOPS for path in (root / top).rglob("*.py")}
        self.trees = {path: ast.parse(file.read_text(encoding="utf-8")) for path, file in self.files.items()}
        self.imported = {path: _imported(tree) for path, tree in self.trees.items()}

    def tests(self, path: str) -> dict[str, int]:
        """The test files of a file, with 0 for the one that is named after it and 1 for others."""
        direct = {user for user in self._importing(self._near(path)) if _name(user).startswith("test_")}
        tests = sorted(direct | {user for user in self._importing(direct) if _name(user).startswith("test_")})
        return {test: int(test != named_after(path)) for test in tests}

    def claims(self, path: str) -> dict[str, int]:
        """The claims of a file, as rlhf_flow/verify/claims/dno.py:V7a, with 0 for direct imports and 1 for others."""
        own = self._importing(self._near(path))
        users = self._importing(self._users(self._near(path), "rlhf_flow/verify"))
        modules = sorted(user for user in users if _folder(user) == CLAIMS and _name(user) != "__init__.py")
        return {
            f"{module}:{name}": int(module not in own) for module in modules for name in _claimed(self.trees[module])
        }

    def _near(self, path: str) -> set[str]:
        """A file, and those of its folder that import it. For a file at the package root, only the file."""
        return {path} if _folder(path) == "rlhf_flow" else self._users({path}, _folder(path))

    def _users(self, paths: Collection[str], folder: str) -> set[str]:
        """These files, and those of the folder that import one of them, directly or indirectly."""
        found = set(paths)
        while new := {user for user in self._importing(found) if _folder(user) == folder} - found:
            found |= new
        return found

    def _importing(self, paths: Collection[str]) -> set[str]:
        names = {module(path) for path in paths}
        return {user for user, imported in self.imported.items() if names & imported}


def module(path: str) -> str:
    """rlhf_flow/objective/__init__.py -> rlhf_flow.objective; scripts/proofs/drill.py -> drill"""
    path = re.sub("^scripts/[a-z]+/", "", path)
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _imported(tree: ast.Module) -> set[str]:
    """The dotted names; `from package import name` gives package and package.name."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def _claimed(tree: ast.Module) -> Iterator[str]:
    """The ids of the claims: V1a of `Claim("V1a", ...)`."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id="Claim"), args=[ast.Constant(value=str(name)), *_]):
                yield name


def named_after(path: str) -> str:
    """rlhf_flow/objective/xpo.py -> tests/objective/test_xpo.py"""
    _, *folders, name = PurePosixPath(path).parts
    return "/".join(["tests", *folders, f"test_{name}"])


def _folder(path: str) -> str:
    return PurePosixPath(path).parent.as_posix()


def _name(path: str) -> str:
    return PurePosixPath(path).name


def _below(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()
