"""The mutation operators. Each finds the places in a source file to which it applies, and changes one place at a time.

A mutant replaces one span of the text and keeps the rest as it was written. Docstrings, annotations, imports, f-strings
and `raise` statements are not mutated.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TypeAlias

COMPARISONS: Mapping[type[ast.cmpop], tuple[str, str]] = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
}
EXTREMES = {"min": "max", "argmin": "argmax", "minimum": "maximum"}
EXTREMES |= {other: one for one, other in EXTREMES.items()}
REDUCTIONS = {"sum": "mean", "mean": "sum"}
SIDES = {"first": "second", "second": "first"}
ANCHORS = {"reference": "previous", "previous": "reference"}
ROLES = {"policy": "reference", "reference": "policy"}

Span: TypeAlias = tuple[int, int]
Edit: TypeAlias = tuple[Span, str]  # the replaced span, and the new text


@dataclass(frozen=True)
class Mutant:
    """A file with one place changed."""

    path: str  # of the file, under the root of the repository
    line: int
    operator: str
    before: str  # the line, without indentation and comment
    after: str
    source: str  # the whole file

    @property
    def diff(self) -> str:
        return f"- {self.before}\n+ {self.after}"


class Text:
    """A source and its syntax tree, with places as offsets in characters."""

    def __init__(self, path: str, source: str) -> None:
        self.path, self.source = path, source
        self.tree = ast.parse(source)
        self.parents = {child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)}
        self.lines = source.splitlines(keepends=True)
        self.starts = [0]
        for line in self.lines:
            self.starts.append(self.starts[-1] + len(line))
        self.tokens: list[tuple[str, int]] = []  # operators and names, and where they begin
        self.comments: dict[int, int] = {}  # line -> where its comment begins
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            number, column = token.start
            if token.type in (tokenize.OP, tokenize.NAME):
                self.tokens.append((token.string, self.starts[number - 1] + column))
            elif token.type == tokenize.COMMENT:
                self.comments[number] = self.starts[number - 1] + column

    def span(self, node: ast.expr) -> Span:
        assert node.end_lineno is not None and node.end_col_offset is not None
        return self._offset(node.lineno, node.col_offset), self._offset(node.end_lineno, node.end_col_offset)

    def written(self, node: ast.expr) -> str:
        start, end = self.span(node)
        return self.source[start:end]

    def last(self, node: ast.Attribute) -> Span:
        """The span of the name of an attribute."""
        end = self.span(node)[1]
        return end - len(node.attr), end

    def between(self, left: ast.expr, right: ast.expr, symbol: str) -> Span:
        """The span of the operator between two expressions."""
        start, end = self.span(left)[1], self.span(right)[0]
        at = next(at for string, at in self.tokens if string == symbol and start <= at < end)
        return at, at + len(symbol)

    def _offset(self, line: int, column: int) -> int:
        # columns of the syntax tree count bytes
        return self.starts[line - 1] + len(self.lines[line - 1].encode()[:column].decode())


Operator: TypeAlias = Callable[[ast.AST, Text], Iterator[Edit]]


def sign(node: ast.AST, text: Text) -> Iterator[Edit]:
    match node:
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int())) if _is_place(text.parents[node]):
            return  # in `sum(-1)` and `shape[-1]`, -1 is the last axis, which is 1 too if there are two
        case ast.UnaryOp(op=ast.USub() | ast.UAdd()):
            start, _ = text.span(node)
            yield (start, start + 1), "+" if isinstance(node.op, ast.USub) else "-"
        case ast.BinOp(op=ast.Add()):
            yield text.between(node.left, node.right, "+"), "-"
        case ast.BinOp(op=ast.Sub()):
            yield text.between(node.left, node.right, "-"), "+"
        case ast.AugAssign(op=ast.Add()):
            yield text.between(node.target, node.value, "+="), "-="
        case ast.AugAssign(op=ast.Sub()):
            yield text.between(node.target, node.value, "-="), "+="


def _is_place(parent: ast.AST) -> bool:
    return isinstance(parent, ast.Call | ast.keyword | ast.Subscript)


def times(node: ast.AST, text: Text) -> Iterator[Edit]:
    match node:
        case ast.BinOp(op=ast.Mult()):
            yield text.between(node.left, node.right, "*"), "/"
        case ast.BinOp(op=ast.Div()):
            yield text.between(node.left, node.right, "/"), "*"


def comparison(node: ast.AST, text: Text) -> Iterator[Edit]:
    if isinstance(node, ast.Compare):
        for left, kind, right in zip([node.left, *node.comparators], node.ops, node.comparators, strict=False):
            if type(kind) in COMPARISONS:
                symbol, other = COMPARISONS[type(kind)]
                yield text.between(left, right, symbol), other


def and_or(node: ast.AST, text: Text) -> Iterator[Edit]:
    if isinstance(node, ast.BoolOp):
        symbol, other = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in zip(node.values, node.values[1:], strict=False):
            yield text.between(left, right, symbol), other


def extreme(node: ast.AST, text: Text) -> Iterator[Edit]:
    match node:
        case ast.Name(id=name, ctx=ast.Load()) if name in EXTREMES:
            yield text.span(node), EXTREMES[name]
        case ast.Attribute(attr=name) if name in EXTREMES:
            yield text.last(node), EXTREMES[name]


def reduction(node: ast.AST, text: Text) -> Iterator[Edit]:
    match node:
        case ast.Attribute(attr=name) if name in REDUCTIONS:
            yield text.last(node), REDUCTIONS[name]
        case ast.Constant(value=str(name)) if name in REDUCTIONS:
            yield text.span(node), f'"{REDUCTIONS[name]}"'


def sides(node: ast.AST, text: Text) -> Iterator[Edit]:
    match node:
        case ast.Attribute(attr=name, ctx=ast.Load()) if name in SIDES:
            yield text.last(node), SIDES[name]
        case ast.Name(id=name, ctx=ast.Load()) if name in SIDES and SIDES[name] in _bound(node, text):
            yield text.span(node), SIDES[name]
        case ast.Tuple(elts=[ast.Name(id="first"), ast.Name(id="second")], ctx=ast.Store()):
            yield text.span(node), "second, first"


def anchor(node: ast.AST, text: Text) -> Iterator[Edit]:
    if _folder(text) in ("objective", "schedule"):
        yield from _renamed(node, text, ANCHORS)


def role(node: ast.AST, text: Text) -> Iterator[Edit]:
    # in an objective "reference" is an anchor, and no anchor is called "policy"
    yield from _renamed(node, text, {"policy": "reference"} if _folder(text) == "objective" else ROLES)


def stop_gradient(node: ast.AST, text: Text) -> Iterator[Edit]:
    match node:
        case ast.Call(func=ast.Attribute(attr="detach") as method):
            dot = max(at for string, at in text.tokens if string == "." and at < text.last(method)[0])
            yield (dot, text.span(node)[1]), ""
        case ast.Attribute(attr="no_grad"):
            yield text.last(node), "enable_grad"


def off_by_one(node: ast.AST, text: Text) -> Iterator[Edit]:
    """The round after and the round before: `round - 1` becomes `round` and `round - 2`."""
    if isinstance(node, ast.BinOp) and (moved := _moved_round(node)):
        for number in (moved + 1, moved - 1):
            by = f" {'+' if number > 0 else '-'} {abs(number)}" if number else ""
            yield text.span(node), text.written(node.left) + by
    elif isinstance(node, ast.expr) and _is_round(node) and not _moved_round(text.parents[node]):
        inner = isinstance(text.parents[node], ast.BinOp | ast.UnaryOp)
        for symbol in "+-":
            now = f"{text.written(node)} {symbol} 1"
            yield text.span(node), f"({now})" if inner else now


def doubled(node: ast.AST, text: Text) -> Iterator[Edit]:
    match node:
        case ast.Constant(value=int(number) | float(number)) if number and not isinstance(number, bool):
            yield text.span(node), repr(2 * number)


OPERATORS: Mapping[str, Operator] = {
    "sign": sign,
    "times or over": times,
    "comparison": comparison,
    "and or or": and_or,
    "min or max": extreme,
    "sum or mean": reduction,
    "first or second": sides,
    "wrong anchor": anchor,
    "policy or reference": role,
    "stop-gradient": stop_gradient,
    "off by a round": off_by_one,
    "twice the constant": doubled,
}


def mutants(path: str, source: str) -> list[Mutant]:
    """Every mutant of a file, in the order of its lines. A mutant that two operators make is listed once."""
    text = Text(path, source)
    seen = {ast.dump(text.tree)}
    found = []
    for node in _code(text.tree):
        for name, operator in OPERATORS.items():
            for (start, end), new in operator(node, text):
                made = source[:start] + new + source[end:]
                tree = ast.dump(ast.parse(made))
                if tree not in seen:
                    seen.add(tree)
                    found.append((start, _mutant(text, name, (start, end), new, made)))
    return [mutant for _, mutant in sorted(found, key=lambda pair: pair[0])]


def _mutant(text: Text, operator: str, span: Span, new: str, made: str) -> Mutant:
    start, end = span
    first, last = (text.source.count("\n", 0, at) + 1 for at in span)
    head = text.source[text.starts[first - 1] : start]
    tail = text.source[end : text.comments.get(last, text.starts[last])]
    before, after = (_on_one_line(head + middle + tail) for middle in (text.source[start:end], new))
    return Mutant(text.path, first, operator, before, after, made)


def _on_one_line(written: str) -> str:
    return " ".join(line.strip() for line in written.splitlines())


def _code(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that may be mutated."""
    yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns"):
            continue
        for child in value if isinstance(value, list) else [value]:
            match child:
                # Python 3.11 gives no positions of expressions in an f-string
                case ast.Import() | ast.ImportFrom() | ast.Raise() | ast.JoinedStr():
                    pass
                case ast.Expr(value=ast.Constant(value=str())):
                    pass
                case ast.AST():
                    yield from _code(child)


def _is_round(node: ast.AST) -> bool:
    match node:
        case ast.Name(id="round", ctx=ast.Load()) | ast.Attribute(attr="round", ctx=ast.Load()):
            return True
    return False


def _moved_round(node: ast.AST) -> int:
    """The offset in `round + 1`; 0 if the node is not such a sum."""
    match node:
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() as op, right=ast.Constant(value=int(by))) if _is_round(left):
            return by if isinstance(op, ast.Add) else -by
    return 0


def _renamed(node: ast.AST, text: Text, names: Mapping[str, str]) -> Iterator[Edit]:
    match node:
        case ast.Constant(value=str(name)) if name in names:
            yield text.span(node), f'"{names[name]}"'


def _folder(text: Text) -> str:
    """The folder in the package (objective, selector, ...); for a file at the package root, its name."""
    return PurePosixPath(text.path).with_suffix("").parts[1]


def _bound(node: ast.AST, text: Text) -> set[str]:
    """The names bound in the functions around a node: arguments and assigned names."""
    names: set[str] = set()
    while node in text.parents:
        node = text.parents[node]
        if isinstance(node, ast.FunctionDef | ast.Lambda):
            names |= {inner.arg for inner in ast.walk(node) if isinstance(inner, ast.arg)}
            names |= {one.id for one in ast.walk(node) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)}
    return names
