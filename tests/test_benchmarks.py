"""The benchmarks can be imported: nobody runs them all, and they use what is private."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "benchmarks").rglob("*.py"))


def imported(tree: ast.Module) -> list[tuple[str, str]]:
    """Return the modules and names that a file takes from this repository."""
    return [
        (node.module, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and not node.level
        for alias in node.names
        if node.module.partition(".")[0] in ("benchmarks", "pgroute", "tests")
    ]


def defined(module: str) -> set[str]:
    """Return the names at the top of a file of the benchmarks, without what it imports being there."""
    path = ROOT.joinpath(*module.split("."))
    if path.is_dir():
        return {each.stem for each in path.iterdir()}
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.with_suffix(".py").read_text())):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.Name(id=name, ctx=ast.Store()):
                names.add(name)
            case ast.alias(name=name, asname=other):
                names.add(other or name)
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_a_benchmark_imports_is_there(path: Path) -> None:
    for module, name in imported(ast.parse(path.read_text())):
        if module.startswith("benchmarks"):
            assert name in defined(module), f"{module} has no {name}"
        elif not hasattr(importlib.import_module(module), name):
            importlib.import_module(f"{module}.{name}")
