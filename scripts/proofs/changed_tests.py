"""Print the test files that import a file that differs from a commit, from main if none is given.

Files that are not committed count. Files of configs/ have the tests in tests/config; a conftest.py has the tests of its
folder.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from mutation.imports import Imports

ROOT = Path(__file__).parents[2]


def git(*arguments: str) -> list[str]:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()


def differing(base: str) -> set[str]:
    """The files that differ from the commit at which this branch left `base`, by their paths under the root."""
    (fork,) = git("merge-base", base, "HEAD")
    return {*git("diff", "--name-only", fork), *git("ls-files", "--others", "--exclude-standard")}


def tests_of(path: str, imports: Imports) -> Iterator[str]:
    file = Path(path)
    if file.name.startswith("test_"):
        yield path
    elif file.name == "conftest.py":
        yield from (test.relative_to(ROOT).as_posix() for test in (ROOT / path).parent.rglob("test_*.py"))
    elif file.parts[0] == "configs":
        yield "tests/config"
    elif path in imports.files:
        yield from imports.tests(path)


def main() -> int:
    imports = Imports(ROOT)
    found = {test for path in differing(*sys.argv[1:2] or ["main"]) for test in tests_of(path, imports)}
    print("\n".join(sorted(test for test in found if (ROOT / test).exists())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
