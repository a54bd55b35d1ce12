"""Imports go down only, each heavy package has one home, and names stay where they belong."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from functools import cached_property
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import rlhf_flow
from rlhf_flow.config.compose import parts

PACKAGE = Path(rlhf_flow.__file__).parent

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
    frozenset({"chat", "doctor", "evaluation", "export", "sandbox"}),
    frozenset({"verify"}),
    frozenset({"cli"}),
    frozenset({"__main__"}),
)
LEVELS = {home: level for level, homes in enumerate(LAYERS) for home in homes}
AT_THE_ROOT = 10  # files

HOMES = {
    "ray": ("cluster/",),
    "vllm": ("engine/vllm",),
    "lm_eval": ("evaluation/harness",),
    "deepspeed": ("learner/backend_deepspeed", "learner/deepspeed"),
}
AT_TOP = ("torch", "transformers", "datasets", "ray", "vllm", "deepspeed", "wandb", "tensorboard")
PART_FOLDERS = ("objective", "sampler", "selector", "scorer", "engine", "learner", "prompts", "cluster", "observe")
NO_SUBJECT = ("utils", "util", "helpers", "common", "base", "misc", "trainer")


class Import(NamedTuple):
    target: str  # dotted; `from package import name` gives package.name
    line: int
    on_import: bool  # it runs when the module is imported: it is in no function
    typing_only: bool


class Module:
    """A file of the package, parsed once, by the first test that needs it."""

    def __init__(self, path: Path) -> None:
        self.name = path.relative_to(PACKAGE).as_posix()
        self.layer = self.name.split("/")[0].removesuffix(".py")
        self.dotted = f"rlhf_flow.{self.name}".removesuffix(".py").replace("/", ".").removesuffix(".__init__")
        self.path = path

    @cached_property
    def lines(self) -> list[str]:
        return self.path.read_text(encoding="utf-8").splitlines()

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse("\n".join(self.lines), filename=str(self.path))

    @cached_property
    def nodes(self) -> list[ast.AST]:
        return list(ast.walk(self.tree))

    @cached_property
    def imports(self) -> list[Import]:
        return list(_imports(self.tree, on_import=True, typing_only=False))


def _imports(node: ast.AST, *, on_import: bool, typing_only: bool) -> Iterator[Import]:
    match node:
        case ast.Import():
            yield from (Import(alias.name, node.lineno, on_import, typing_only) for alias in node.names)
        case ast.ImportFrom():
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                yield Import(f"{node.module}.{alias.name}", node.lineno, on_import, typing_only)
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            for child in node.body:
                yield from _imports(child, on_import=False, typing_only=True)
            for child in node.orelse:
                yield from _imports(child, on_import=on_import, typing_only=typing_only)
        case _:
            in_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for child in ast.iter_child_nodes(node):
                yield from _imports(child, on_import=on_import and not in_function, typing_only=typing_only)


MODULES = [Module(path) for path in sorted(PACKAGE.rglob("*.py"))]


def none(offences: Iterable[str]) -> None:
    found = sorted(set(offences))
    assert not found, "\n".join(["", *found])


def test_every_file_and_folder_has_a_layer() -> None:
    none(module.name for module in MODULES if module.layer not in {*LEVELS, "__init__"})


def test_imports_go_down_only() -> None:
    none(
        f"{module.name}:{each.line} imports {each.target}, which is not below it"
        for module in MODULES
        if module.layer != "__init__"
        for each in module.imports
        if not each.typing_only and each.target.startswith("rlhf_flow.")
        if (home := each.target.split(".")[1]) not in (module.layer, "__version__")
        if LEVELS[home] >= LEVELS[module.layer]
    )


def test_heavy_packages_are_imported_in_their_homes_only() -> None:
    none(
        f"{module.name}:{each.line} imports {each.target}"
        for module in MODULES
        for each in module.imports
        if not module.name.startswith(HOMES.get(each.target.split(".")[0], ""))
    )


def test_a_registered_part_is_imported_without_heavy_packages() -> None:
    """Composing a configuration imports the module of every registered part, and what these import."""
    registered = {part.__module__ for group in PART_FOLDERS[:-1] for part in parts(group).values()}
    none(
        f"{module.name}:{each.line} imports {each.target} at its top"
        for module in MODULES
        if module.layer in PART_FOLDERS
        if module.dotted in registered or module.path.name == "__init__.py"
        for each in module.imports
        if each.on_import and each.target.split(".")[0] in AT_TOP
    )


def test_types_promise_every_attribute_and_every_exception_is_named() -> None:
    none(
        f"{module.name}:{node.lineno}: {wrong}" for module in MODULES for node in module.nodes for wrong in asked(node)
    )


def asked(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.ExceptHandler(type=None):
            yield "a bare except"
        case ast.Call(func=ast.Name(id="hasattr")):
            yield "hasattr"
        case ast.Call(func=ast.Name(id="getattr"), args=[_, _, _, *_]):
            yield "getattr with a default"


def test_an_algorithm_is_named_in_its_own_file_and_its_registration_only() -> None:
    """An objective may call another one, and a claim in rlhf_flow/verify is about algorithms."""
    algorithms = {part.__name__.lower() for part in parts("objective").values()} | set(parts("objective"))
    none(
        f"{module.name} names {word}"
        for module in MODULES
        if module.layer != "objective" and not module.name.startswith("verify/claims/")
        for node in module.nodes
        for word in words(node)
        if word.lower() in algorithms
    )


def words(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Name(id=word) | ast.Attribute(attr=word) | ast.alias(name=word) | ast.Constant(value=str(word)):
            yield word


def test_a_file_fits_its_subject() -> None:
    none(f"{module.name} is named after no subject" for module in MODULES if module.path.stem in NO_SUBJECT)
    none(f"{module.name} has {len(module.lines)} lines" for module in MODULES if len(module.lines) > 300)
    modules = [module for module in MODULES if module.path.stem != "__init__"]
    none(f"{module.name} has no docstring" for module in modules if not ast.get_docstring(module.tree))


def test_few_files_are_at_the_root() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= AT_THE_ROOT


def test_no_import_cycle() -> None:
    """Among modules, imports inside functions included; the `__init__` of a package is a module."""
    known = {module.dotted for module in MODULES}
    arrows = {module.dotted: set(within(module, known)) - {module.dotted} for module in MODULES}
    TopologicalSorter(arrows).prepare()  # raises CycleError


def within(module: Module, known: set[str]) -> Iterator[str]:
    """The modules of the package that a module imports."""
    for each in module.imports:
        if not each.typing_only:
            yield from [found for found in (each.target, each.target.rpartition(".")[0]) if found in known][:1]
