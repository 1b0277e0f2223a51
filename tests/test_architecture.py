"""The rooms of pgroute and the arrows between and within them, read from the imports."""

from __future__ import annotations

import ast
import functools
import importlib.util
import inspect
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import pgroute

ROOT = Path(__file__).parents[1]
# A room may import itself and every room of an earlier row. Rooms of one row do not import each other, nor do the two
# faces. Annotations count.
_FACE = (
    ("opening", "statements"),
    ("pool",),
    ("listening", "open_state", "schema_check"),
    ("progress",),
    ("commit", "proving"),
    ("checkout", "keyed", "reconciler"),
    ("ending",),
    ("lifecycle",),
    ("acquiring",),
    ("manager",),
    ("pool_tasks",),
    ("pool_control", "session", "transaction"),
    ("alone",),
    ("causal", "copying", "direct", "listener"),
    ("observing", "routing"),
    ("router",),
)
ROWS = (
    ("errors",),
    ("core.late_dataclass", "core.late_pattern", "core.spelling"),
    ("core", "core.callables", "core.model", "core.printable"),
    ("core.faults", "core.mailbox", "core.sql"),
    ("core.topology",),
    ("core.routing",),
    ("core.config",),
    (
        "core.abort_policy",
        "core.copying",
        "core.discovery",
        "core.freshness",
        "core.listening",
        "core.schedule",
        "core.transactions",
    ),
    ("runtime",),
    ("_psycopg",),
    ("monitor",),
    ("_acompat",),
    ("_async", "_sync"),
    *(tuple(f"{face}.{room}" for face in ("_async", "_sync") for room in row) for row in _FACE),
    ("faces",),
    ("config_file",),
    ("__init__",),
    ("testing", "batch", "contrib"),
    ("cli",),
    ("__main__",),
)
RANK = {room: rank for rank, row in enumerate(ROWS) for room in row}
# Decisions take the time and the observations as arguments.
NOT_IN_CORE = {"_thread", "asyncio", "concurrent", "select", "selectors", "socket", "threading", "time"}
# `core/__init__.py` and its like hold a docstring alone, so that nothing is a room of its own there.
WHOLE = {"core", "_async", "_sync"}


@functools.cache
def import_statements(text: str) -> list[ast.Import | ast.ImportFrom]:
    """Return all of a module, inner ones too."""
    return [node for node in ast.walk(ast.parse(text)) if isinstance(node, (ast.Import, ast.ImportFrom))]


def imported(path: Path, package: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) for everything that a module of the package imports, for a type checker too."""
    parents = [package.name, *path.relative_to(package).parent.parts]
    for node in import_statements(path.read_text("utf-8")):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        else:
            base = parents[: len(parents) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from pgroute import errors` names a room, `from pgroute import Router` one of the public names.
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def room_of(names: list[str]) -> str | None:
    """Return the room of a module, given the parts of its name below the package; None: it is in no room."""
    for length in (2, 1):
        room = ".".join(names[:length])
        if room in RANK and not (length == 1 and room in WHOLE and len(names) > 1):
            return room
    return None


def bad_arrows(package: Path) -> list[str]:
    """List every import that the order of the rooms forbids."""
    found = []
    for path in sorted(package.rglob("*.py")):
        inside = path.relative_to(package)
        parts = list(inside.with_suffix("").parts)
        room = room_of(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)
        if room is None:
            found.append(f"{inside}: is in no room")
            continue
        for line, name in imported(path, package):
            top, *rest = name.split(".")
            if parts[0] == "core" and top in NOT_IN_CORE:
                found.append(f"{inside}:{line}: core imports {top}")
            if top != package.name:
                continue
            target = room_of(rest) or (rest[0] if rest and rest[0] in RANK else "__init__")
            faces = {room.split(".")[0], target.split(".")[0]}
            if target != room and (RANK[target] >= RANK[room] or faces == {"_async", "_sync"}):
                found.append(f"{inside}:{line}: {room} imports {target}")
    return found


def circle(package: Path) -> list[str]:
    """Return the modules of one import circle, the first one at the end again; empty if there is none."""
    modules = {}
    for path in package.rglob("*.py"):
        parts = [package.name, *path.relative_to(package).with_suffix("").parts]
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    graph: dict[str, set[str]] = {}
    for module, path in modules.items():
        for _, name in imported(path, package):
            target = name
            while target and target not in modules:
                target = target.rpartition(".")[0]
            if target and target != module:
                graph.setdefault(module, set()).add(target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as exc:
        return list(exc.args[1])
    return []


@pytest.fixture
def package(tmp_path):
    """A package whose arrows are all good, to plant a bad one in."""
    files = {
        "__init__.py": "from ._async.router import AsyncRouter\nfrom .core.config import dsn",
        "errors.py": "import psycopg",
        "core/__init__.py": "",
        "core/model/roles.py": "import random\nfrom pgroute.errors import A",
        "core/config/__init__.py": "",
        "core/config/dsn.py": "from pgroute.errors import A\nfrom ...errors import B\nfrom . import options",
        "core/config/options.py": "from ..model import roles",
        "runtime/fork.py": "import os, threading",
        "monitor/thread.py": "import asyncio, threading\nfrom pgroute.core.config.dsn import parse",
        "_acompat/__init__.py": "import time",
        "_async/router.py": "from .pool.role_pool import RolePool\nfrom .. import _acompat, errors",
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
    assert circle(package) == []


@pytest.mark.parametrize(
    ("file", "text", "arrow"),
    [
        ("errors.py", "from pgroute.core.config.dsn import parse", "errors.py:1: errors imports core.config"),
        (
            "core/config/dsn.py",
            "import pgroute.monitor.thread",
            "core/config/dsn.py:1: core.config imports monitor",
        ),
        (
            "core/config/dsn.py",
            "from ...monitor import x",
            "core/config/dsn.py:1: core.config imports monitor",
        ),
        (
            "core/config/dsn.py",
            "from pgroute import Router",
            "core/config/dsn.py:1: core.config imports __init__",
        ),
        (
            "core/config/dsn.py",
            "from ... import monitor",
            "core/config/dsn.py:1: core.config imports monitor",
        ),
        ("core/config/dsn.py", "import pgroute", "core/config/dsn.py:1: core.config imports __init__"),
        (
            "core/config/dsn.py",
            "def f():\n    from ...cli import x",
            "core/config/dsn.py:2: core.config imports cli",
        ),
        (
            "core/config/dsn.py",
            "try:\n    import time\nexcept E:\n    pass",
            "core/config/dsn.py:2: core imports time",
        ),
        ("core/model/x.py", "from concurrent.futures import F", "core/model/x.py:1: core imports concurrent"),
        (
            "core/model/x.py",
            "from ..config.dsn import p",
            "core/model/x.py:1: core.model imports core.config",
        ),
        ("core/model/x.py", "from ...cli import main", "core/model/x.py:1: core.model imports cli"),
        (
            "core/routing/x.py",
            "from ..config import dsn",
            "core/routing/x.py:1: core.routing imports core.config",
        ),
        ("runtime/x.py", "from ..monitor.thread import y", "runtime/x.py:1: runtime imports monitor"),
        ("monitor/probe.py", "from .._acompat import Lock", "monitor/probe.py:1: monitor imports _acompat"),
        (
            "_async/pool/x.py",
            "from ..._sync import statements",
            "_async/pool/x.py:1: _async.pool imports _sync.statements",
        ),
        (
            "_async/pool/x.py",
            "from ..router import y",
            "_async/pool/x.py:1: _async.pool imports _async.router",
        ),
        (
            "_async/session.py",
            "from .router import y",
            "_async/session.py:1: _async.session imports _async.router",
        ),
        (
            "_sync/manager.py",
            "from pgroute._async.router import y",
            "_sync/manager.py:1: _sync.manager imports _async.router",
        ),
        ("__init__.py", "from .testing import plugin", "__init__.py:1: __init__ imports testing"),
        ("testing/x.py", "from pgroute.batch import y", "testing/x.py:1: testing imports batch"),
        ("testing/x.py", "from pgroute.cli import y", "testing/x.py:1: testing imports cli"),
        ("helpers.py", "", "helpers.py: is in no room"),
        ("core/helpers.py", "", "core/helpers.py: is in no room"),
        ("_async/helpers.py", "", "_async/helpers.py: is in no room"),
    ],
)
def test_scanner_names_a_planted_bad_arrow(package, file, text, arrow):
    (package / file).parent.mkdir(exist_ok=True)
    (package / file).write_text(text + "\n")
    assert bad_arrows(package) == [arrow]


@pytest.mark.parametrize("condition", ["TYPE_CHECKING", "typing.TYPE_CHECKING"])
def test_scanner_counts_what_only_a_type_checker_reads(package, condition):
    text = f"if {condition}:\n    from ...monitor import thread\n"
    (package / "core/config/dsn.py").write_text(text)
    assert bad_arrows(package) == ["core/config/dsn.py:2: core.config imports monitor"]


@pytest.mark.parametrize("condition", ["True", "TYPE_CHECKING"])
def test_scanner_finds_a_planted_circle(package, condition):
    (package / "core/config/options.py").write_text(f"if {condition}:\n    from .dsn import parse\n")
    assert set(circle(package)) == {"pgroute.core.config.dsn", "pgroute.core.config.options"}


def test_every_arrow_points_to_an_earlier_room():
    assert (ROOT / "pgroute/core").is_dir()
    assert bad_arrows(ROOT / "pgroute") == []


def test_no_modules_import_each_other_in_a_circle():
    assert circle(ROOT / "pgroute") == []


def test_errors_import_nothing_of_the_package():
    names = [name for _, name in imported(ROOT / "pgroute/errors.py", ROOT / "pgroute")]
    assert [name for name in names if name.split(".")[0] == "pgroute"] == []


def test_every_module_says_its_job():
    silent = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "pgroute").rglob("*.py"))
        if not ast.get_docstring(ast.parse(path.read_text("utf-8")))
    ]
    assert silent == []


def test_importing_pgroute_leaves_slow_libraries_for_later():
    later = {"difflib", "dns", "rich", "secrets", "tenacity"}
    assert not later & loaded_by("from pgroute import AsyncRouter, Router")


def loaded_by(statement: str) -> set[str]:
    """Return the modules that a new process has after a statement."""
    code = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("statement", "faces"),
    [
        ("import pgroute", set()),
        ("from pgroute import Router, Session, from_config", {"_sync"}),
        ("from pgroute import AsyncRouter, HostKey", {"_async"}),
        ("from pgroute import *", {"_async", "_sync"}),
    ],
)
def test_a_face_is_imported_when_it_is_first_used(statement, faces):
    loaded = {name.split(".")[1] for name in loaded_by(statement) if name.startswith("pgroute.")}
    assert loaded & {"_async", "_sync"} == faces


def test_what_few_programs_use_is_imported_when_it_is_first_used():
    routers = "from pgroute import AsyncRouter, Router; Router('host=db'); AsyncRouter('host=db')"
    names = ("CopyInOptions", "CopyProgress", "Notification", "PatroniDiscovery")
    named = {f"pgroute.{pgroute._LATER[name]}" for name in names}
    adaptive = "pgroute.core.routing.adaptive"
    late = {"pgroute.runtime.credentials"} | {
        f"pgroute.{face}.{name}"
        for face in ("_async", "_sync")
        for name in ("copying.copy_in", "copying.copy_out", "copying.stream", "listener", "listening.hub")
    }
    assert [name for name in late if importlib.util.find_spec(name) is None] == []
    assert not (late | named | {adaptive}) & loaded_by(routers)
    used = f"{routers}; from pgroute import {', '.join(names)}; Router('host=db', balance='adaptive')"
    assert (named | {adaptive}) - loaded_by(used) == set()


def test_names_that_are_imported_later_can_be_listed_and_others_are_refused():
    code = "import pgroute; assert set(pgroute.__all__) <= set(dir(pgroute)); pgroute.Rooter"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    *_, told = done.stderr.splitlines()
    assert told.startswith("AttributeError: module 'pgroute' has no attribute 'Rooter'")


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
