"""Runs the code in the page's cells: as it is written, or on the other face of a router."""

from __future__ import annotations

import ast
import dataclasses
import inspect
from typing import Any

_AWAIT = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT


def _parse(code: str) -> ast.Module:
    tree: ast.Module = compile(code, f"<{code}>", "exec", _AWAIT | ast.PyCF_ONLY_AST)
    return tree


class _Noting(ast.NodeTransformer):
    """Hands the value of each statement that is an expression to `_note`."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr:
        return ast.Expr(_call("_note", node.value))


class _EitherFace(ast.NodeTransformer):
    """Awaits each coroutine, and enters asynchronously: the same code serves both faces."""

    def visit_Await(self, node: ast.Await) -> Any:
        return self.visit(node.value)

    def visit_Call(self, node: ast.Call) -> ast.Await:
        self.generic_visit(node)
        return ast.Await(_call("_resolve", node))

    def visit_Lambda(self, node: ast.Lambda) -> ast.Lambda:
        return node

    def _with(self, node: ast.With | ast.AsyncWith) -> ast.AsyncWith:
        self.generic_visit(node)
        for item in node.items:
            item.context_expr = _call("_entered", item.context_expr)
        return ast.AsyncWith(node.items, node.body)

    visit_With = visit_AsyncWith = _with  # noqa: N815


def _call(name: str, value: ast.expr) -> ast.Call:
    return ast.Call(ast.Name(name, ast.Load()), [value], [])


async def _resolve(value: Any) -> Any:
    return await value if inspect.iscoroutine(value) else value


class _Entered:
    """A context manager of the sync face, as an asynchronous one."""

    def __init__(self, manager: Any) -> None:
        self._manager = manager

    async def __aenter__(self) -> Any:
        return self._manager.__enter__()

    async def __aexit__(self, *args: object) -> Any:
        return self._manager.__exit__(*args)


async def run_code(code: str, names: dict[str, Any], face: str = "") -> list[Any]:
    """Run statements and return the values, but None, of those that are expressions.

    Args:
        code: with ``await`` where it likes.
        names: what it may use.
        face: "async" or "sync": what is written for one face is run on this one; empty: it is run as it is written.
    """
    found: list[Any] = []
    tree: ast.AST = _parse(code)
    if face:
        tree = _EitherFace().visit(tree)
    tree = ast.fix_missing_locations(_Noting().visit(tree))
    assert isinstance(tree, ast.Module)
    entered = _Entered if face == "sync" else lambda manager: manager
    space = {**names, "_note": found.append, "_resolve": _resolve, "_entered": entered}
    await _resolve(eval(compile(tree, f"<{code}>", "exec", _AWAIT), space))
    return [plain(value) for value in found if not (value is None or type(value).__name__.endswith("Cursor"))]


async def evaluate(code: str, names: dict[str, Any]) -> Any:
    """Return the value of an expression, with ``await`` where it likes."""
    return await _resolve(eval(compile(code, f"<{code}>", "eval", _AWAIT), dict(names)))


def plain(value: Any) -> Any:
    """Return a row or rows of any driver as tuples and lists."""
    if isinstance(value, dict):
        return tuple(plain(each) for each in value.values())
    if isinstance(value, list):
        return [plain(each) for each in value]
    if isinstance(value, tuple):
        return tuple(plain(each) for each in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.astuple(value)
    classes = {cls.__name__ for cls in type(value).__mro__}
    if "Record" in classes:  # asyncpg's, psqlpy's
        return tuple(value)
    if classes & {"QueryResult", "SingleQueryResult"}:  # psqlpy's
        return plain(value.result())
    return value
