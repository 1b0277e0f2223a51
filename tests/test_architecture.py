"""The rooms of pgroute and the arrows between them, read from the imports."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pgroute

ROOT = Path(__file__).parents[1]
# A room may import itself and every room of an earlier row. Rooms of one row do not import each other.
ROWS = (
    ("errors",),
    ("core",),
    ("monitor",),
    ("_acompat",),
    ("_async", "_sync"),
    ("__init__",),
    ("testing", "batch", "contrib"),
    ("cli",),
    ("__main__",),
)
RANK = {room: rank for rank, row in enumerate(ROWS) for room in row}
# Decisions take the time and the observations as arguments.
NOT_IN_CORE = {"_thread", "asyncio", "concurrent", "select", "selectors", "socket", "threading", "time"}


def run_time_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Walk a module, leaving out what only a type checker reads."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).split(".")[-1] == "TYPE_CHECKING":
            for other in node.orelse:
                yield other
                yield from run_time_nodes(other)
        else:
            yield node
            yield from run_time_nodes(node)


def imported(path: Path, package: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) for everything that a module of the package imports."""
    parents = [package.name, *path.relative_to(package).parent.parts]
    for node in run_time_nodes(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = parents[: len(parents) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from pgroute import errors` names a room, `from pgroute import Router` one of the public names.
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def bad_arrows(package: Path) -> list[str]:
    """Tell every import that the order of the rooms forbids."""
    found = []
    for path in sorted(package.rglob("*.py")):
        inside = path.relative_to(package)
        room = inside.parts[0].removesuffix(".py")
        if room not in RANK:
            found.append(f"{inside}: is in no room")
            continue
        for line, name in imported(path, package):
            top, *rest = name.split(".")
            if room == "core" and top in NOT_IN_CORE:
                found.append(f"{inside}:{line}: core imports {top}")
            if top != package.name:
                continue
            target = rest[0] if rest and rest[0] in RANK else "__init__"
            if target != room and RANK[target] >= RANK[room]:
                found.append(f"{inside}:{line}: {room} imports {target}")
    return found


@pytest.fixture
def package(tmp_path):
    """A package whose arrows are all good, to plant a bad one in."""
    files = {
        "__init__.py": "from ._async.router import AsyncRouter\nfrom .core import dsn",
        "errors.py": "import psycopg",
        "core/__init__.py": "",
        "core/config/dsn.py": "from pgroute.errors import A\nfrom ..errors import B\nfrom . import roles",
        "core/model/roles.py": "import random",
        "monitor/thread.py": "import asyncio, threading\nfrom pgroute.core.config.dsn import parse",
        "_acompat.py": "import time",
        "_async/router.py": "from .pools import RolePool\nfrom .. import _acompat, errors",
        "_async/pool/role_pool.py": "",
        "_sync/router.py": "from ..monitor import thread",
        "testing/plugin.py": "from pgroute import Router\nimport pgroute",
        "cli/status.py": "from pgroute.testing import plugin\nfrom .. import Router",
        "__main__.py": "from pgroute.cli import main",
    }
    for name, text in files.items():
        path = tmp_path / "pgroute" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return tmp_path / "pgroute"


def test_scanner_accepts_every_arrow_of_the_design(package):
    assert bad_arrows(package) == []


@pytest.mark.parametrize(
    ("file", "text", "arrow"),
    [
        ("errors.py", "from pgroute.core.config.dsn import parse", "errors.py:1: errors imports core"),
        ("core/config/dsn.py", "import pgroute.monitor.thread", "core/config/dsn.py:1: core imports monitor"),
        ("core/config/dsn.py", "from ..monitor import thread", "core/config/dsn.py:1: core imports monitor"),
        ("core/config/dsn.py", "from pgroute import Router", "core/config/dsn.py:1: core imports __init__"),
        ("core/config/dsn.py", "from .. import monitor", "core/config/dsn.py:1: core imports monitor"),
        ("core/config/dsn.py", "import pgroute", "core/config/dsn.py:1: core imports __init__"),
        (
            "core/config/dsn.py",
            "def f():\n    from ..monitor import x",
            "core/config/dsn.py:2: core imports monitor",
        ),
        (
            "core/config/dsn.py",
            "try:\n    import time\nexcept E:\n    pass",
            "core/config/dsn.py:2: core imports time",
        ),
        (
            "core/config/dsn.py",
            "from concurrent.futures import Future",
            "core/config/dsn.py:1: core imports concurrent",
        ),
        ("core/deep/x.py", "from ...cli import main", "core/deep/x.py:1: core imports cli"),
        ("monitor/probe.py", "from .._acompat import Lock", "monitor/probe.py:1: monitor imports _acompat"),
        (
            "_async/pool/role_pool.py",
            "from .._sync import router",
            "_async/pool/role_pool.py:1: _async imports _sync",
        ),
        (
            "_sync/pool/role_pool.py",
            "from pgroute._async.x import y",
            "_sync/pool/role_pool.py:1: _sync imports _async",
        ),
        ("__init__.py", "from .testing import plugin", "__init__.py:1: __init__ imports testing"),
        ("testing/x.py", "from pgroute.batch import y", "testing/x.py:1: testing imports batch"),
        ("testing/x.py", "from pgroute.cli import y", "testing/x.py:1: testing imports cli"),
        ("helpers.py", "", "helpers.py: is in no room"),
    ],
)
def test_scanner_names_a_planted_bad_arrow(package, file, text, arrow):
    (package / file).parent.mkdir(exist_ok=True)
    (package / file).write_text(text + "\n")
    assert bad_arrows(package) == [arrow]


@pytest.mark.parametrize("condition", ["TYPE_CHECKING", "typing.TYPE_CHECKING"])
def test_scanner_leaves_out_only_what_a_type_checker_reads(package, condition):
    text = f"if {condition}:\n    from ..monitor import thread\nelse:\n    from .. import cli\n"
    (package / "core/config/dsn.py").write_text(text)
    assert bad_arrows(package) == ["core/config/dsn.py:4: core imports cli"]


def test_every_arrow_points_to_an_earlier_room():
    assert (ROOT / "pgroute/core").is_dir()
    assert bad_arrows(ROOT / "pgroute") == []


def test_every_module_says_its_job():
    silent = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "pgroute").rglob("*.py"))
        if not ast.get_docstring(ast.parse(path.read_text("utf-8")))
    ]
    assert silent == []


def test_importing_pgroute_leaves_slow_libraries_for_later():
    code = "import sys, pgroute; print(sorted({'dns', 'rich', 'tenacity'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names_are_sorted_and_exist():
    assert pgroute.__all__
    assert list(pgroute.__all__) == sorted(set(pgroute.__all__))
    assert [name for name in pgroute.__all__ if not hasattr(pgroute, name)] == []


def test_public_classes_and_functions_say_that_they_are_of_pgroute():
    public = {name: getattr(pgroute, name) for name in pgroute.__all__}
    strange = {
        name: value.__module__
        for name, value in public.items()
        if (inspect.isclass(value) or inspect.isroutine(value)) and value.__module__ != "pgroute"
    }
    assert strange == {}
