"""Runs the code in the page's cells: as it is written, or on the other face of a router."""

from __future__ import annotations

import ast
import inspect
from typing import Any

_AWAIT = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT


def _parse(code: str) -> ast.Module:
    tree: ast.Module = compile(code, f"<{code}>", "exec", _AWAIT | ast.PyCF_ONLY_AST)
    return tree


class _Noting(ast.NodeTransformer):
    """Hands the value of each statement that is an expression to `_note`."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr:  # noqa: N802  (ast's name)
        return ast.Expr(_call("_note", node.value))


class _EitherFace(ast.NodeTransformer):
    """Awaits whatever can be awaited, and enters and iterates either way: the same code serves both faces."""

    def visit_Await(self, node: ast.Await) -> Any:  # noqa: N802
        return self.visit(node.value)

    def visit_Call(self, node: ast.Call) -> ast.Await:  # noqa: N802
        self.generic_visit(node)
        return ast.Await(_call("_resolve", node))

    def visit_Lambda(self, node: ast.Lambda) -> ast.Lambda:  # noqa: N802
        return node

    def _with(self, node: ast.With | ast.AsyncWith) -> ast.AsyncWith:
        self.generic_visit(node)
        for item in node.items:
            item.context_expr = _call("_Entered", item.context_expr)
        return ast.AsyncWith(node.items, node.body)

    visit_With = visit_AsyncWith = _with  # noqa: N815


def _call(name: str, value: ast.expr) -> ast.Call:
    return ast.Call(ast.Name(name, ast.Load()), [value], [])


async def _resolve(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


class _Entered:
    """A context manager of either face, as an asynchronous one."""

    def __init__(self, manager: Any) -> None:
        self._manager = manager
        self._is_async = hasattr(manager, "__aenter__")

    async def __aenter__(self) -> Any:
        return await self._manager.__aenter__() if self._is_async else self._manager.__enter__()

    async def __aexit__(self, *args: object) -> Any:
        return await self._manager.__aexit__(*args) if self._is_async else self._manager.__exit__(*args)


async def run_code(code: str, names: dict[str, Any], *, either_face: bool = False) -> list[Any]:
    """Run statements and return the values, but None, of those that are expressions.

    Args:
        code: with ``await`` where it likes.
        names: what it may use.
        either_face: whatever can be awaited is, and ``with`` serves asynchronous context managers too.
    """
    found: list[Any] = []
    tree: ast.AST = _parse(code)
    if either_face:
        tree = _EitherFace().visit(tree)
    tree = ast.fix_missing_locations(_Noting().visit(tree))
    assert isinstance(tree, ast.Module)
    space = {**names, "_note": found.append, "_resolve": _resolve, "_Entered": _Entered}
    await _resolve(eval(compile(tree, f"<{code}>", "exec", _AWAIT), space))  # noqa: S307  (our page's)
    return [plain(value) for value in found if not (value is None or type(value).__name__.endswith("Cursor"))]


async def evaluate(code: str, names: dict[str, Any]) -> Any:
    """Return the value of an expression, with ``await`` where it likes."""
    return await _resolve(eval(compile(code, f"<{code}>", "eval", _AWAIT), dict(names)))  # noqa: S307


def plain(value: Any) -> Any:
    """Return a row or rows of any driver as tuples and lists."""
    if isinstance(value, dict):
        return tuple(plain(each) for each in value.values())
    if isinstance(value, list):
        return [plain(each) for each in value]
    if isinstance(value, tuple):
        return tuple(plain(each) for each in value)
    match type(value).__name__:
        case "Record":  # asyncpg's, psqlpy's
            return tuple(value)
        case "QueryResult" | "SingleQueryResult":  # psqlpy's
            return plain(value.result())
    return value
