"""The house is in order: imports go down only, heavy packages have one home each, and names stay where they belong."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import rlhf_flow
from rlhf_flow.config.compose import parts

PACKAGE = Path(rlhf_flow.__file__).parent
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))

# From the ground up. A module imports from its own folder and from lower layers; those on one layer see no other.
LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"draw", "seeds"}),
    frozenset({"types"}),
    frozenset({"system"}),
    frozenset({"metrics", "storage", "tokenization", "weights"}),
    frozenset({"protocols"}),
    frozenset({"specs"}),
    frozenset({"engine", "learner", "objective", "prompts", "replay", "sampler", "schedule", "scorer", "selector"}),
    frozenset({"cluster", "games", "observe"}),
    frozenset({"stages"}),
    frozenset({"loop"}),
    frozenset({"config"}),
    frozenset({"capacity", "label", "report", "serve"}),
    frozenset({"runner"}),
    frozenset({"doctor", "sandbox", "verify"}),
    frozenset({"cli"}),
    frozenset({"__main__"}),
)
AT_THE_ROOT = 10  # files

HOMES = {"ray": ["cluster/"], "vllm": ["engine/vllm"], "deepspeed": ["learner/backend_deepspeed", "learner/deepspeed"]}
AT_TOP = ("torch", "transformers", "datasets", "ray", "vllm", "deepspeed", "wandb", "tensorboard")
PART_FOLDERS = ("objective", "sampler", "selector", "scorer", "engine", "learner", "prompts", "cluster", "observe")


def name(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def layer(path: Path) -> str:
    """The file or folder of the package that a module belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def imported(node: ast.AST) -> Iterator[str]:
    """The dotted names that a statement imports; `from package import name` gives package.name."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute"
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def top_level(module: ast.Module) -> Iterator[ast.AST]:
    """Statements that run on import: not inside a function, not under TYPE_CHECKING."""
    waiting: list[ast.AST] = [module]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            waiting.extend(node.orelse)
            continue
        yield node
        waiting.extend(ast.iter_child_nodes(node))


def typing_only(module: ast.Module) -> set[int]:
    """Line numbers of imports that only a type checker sees."""
    blocks = (
        node
        for node in ast.walk(module)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    )
    return {child.lineno for block in blocks for child in ast.walk(block) if isinstance(child, ast.stmt)}


def level(home: str) -> int:
    found = [number for number, homes in enumerate(LAYERS) if home in homes]
    assert found, f"{home} has no layer yet: give it one in LAYERS"
    return found[0]


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_imports_go_down_only(path: Path) -> None:
    home = layer(path)
    if home == "__init__":
        return
    skipped = typing_only(tree(path))
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.stmt) and node.lineno in skipped:
            continue
        for target in imported(node):
            package, *rest = target.split(".")
            if package != "rlhf_flow" or not rest or rest[0] in (home, "__version__"):
                continue
            assert level(rest[0]) < level(home), f"{name(path)} imports {target}, which is not below it"


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_heavy_packages_are_imported_in_their_homes_alone(path: Path) -> None:
    for node in ast.walk(tree(path)):
        for target in imported(node):
            homes = HOMES.get(target.split(".")[0])
            assert homes is None or any(name(path).startswith(home) for home in homes), f"{name(path)} imports {target}"


@pytest.mark.parametrize("path", [path for path in MODULES if layer(path) in PART_FOLDERS], ids=name)
def test_a_registered_part_is_imported_without_heavy_packages(path: Path) -> None:
    """Composing a configuration imports the module of every registered part, and what these import."""
    registered = {part.__module__ for group in PART_FOLDERS[:-1] for part in parts(group).values()}
    module = ".".join(["rlhf_flow", *path.relative_to(PACKAGE).with_suffix("").parts])
    if module not in registered and path.name != "__init__.py":
        return
    for node in top_level(tree(path)):
        for target in imported(node):
            assert target.split(".")[0] not in AT_TOP, f"{name(path)} imports {target} at its top"


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_nothing_is_asked_of_an_object_that_its_type_does_not_promise(path: Path) -> None:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{name(path)}:{node.lineno}: a bare except"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "hasattr", f"{name(path)}:{node.lineno}: hasattr"
            assert node.func.id != "getattr" or len(node.args) == 2, (
                f"{name(path)}:{node.lineno}: getattr with a default"
            )


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_an_algorithm_is_named_in_its_own_file_and_its_registration_alone(path: Path) -> None:
    if layer(path) == "objective":  # an objective that is built on another one calls it
        return
    if name(path).startswith("verify/claims/"):  # what is claimed, is claimed of an algorithm
        return
    algorithms = {part.__name__.lower() for part in parts("objective").values()} | set(parts("objective"))
    for node in ast.walk(tree(path)):
        words = [node.id] if isinstance(node, ast.Name) else []
        words += [node.attr] if isinstance(node, ast.Attribute) else []
        words += [node.name] if isinstance(node, ast.alias) else []
        words += [node.value] if isinstance(node, ast.Constant) and isinstance(node.value, str) else []
        for word in words:
            assert word.lower() not in algorithms, f"{name(path)} names {word}"


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_file_fits_its_subject(path: Path) -> None:
    assert path.stem not in ("utils", "util", "helpers", "common", "base", "misc", "trainer")
    assert len(path.read_text().splitlines()) <= 300
    assert path.stem == "__init__" or ast.get_docstring(tree(path)), f"{name(path)} does not say what it is"


def test_few_files_are_at_the_root() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= AT_THE_ROOT


def test_no_import_goes_round() -> None:
    """Among modules, imports inside functions included; the `__init__` of a package is a module."""
    modules = {dotted(path): path for path in MODULES}
    arrows = {one: set(imported_by(path, modules)) - {one} for one, path in modules.items()}
    TopologicalSorter(arrows).prepare()  # raises CycleError


def imported_by(path: Path, modules: Mapping[str, Path]) -> Iterator[str]:
    """The modules of the package that a module imports, also in its functions."""
    skipped = typing_only(tree(path))
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.stmt) and node.lineno not in skipped:
            for target in imported(node):
                yield from [found for found in (target, target.rpartition(".")[0]) if found in modules][:1]


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
