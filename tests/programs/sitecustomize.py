"""Has the programs that tests start use the servers of the run, and the files that initdb made for its other clusters.

Python imports a module of this name at its start (Python docs, `site`) if its folder is in PYTHONPATH, to which the
fixture `initdb_cache` adds this one.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType

TESTS = Path(__file__).resolve().parents[1]
WANTED = "pgroute.testing.initdb"


class Finder:
    """Finds the module with `run_initdb` as it is, and replaces that function once the module is there."""

    def find_spec(self, name: str, *_: Any) -> ModuleSpec | None:
        """Return where the module is; None for all others."""
        if name != WANTED:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_replace(module: ModuleType) -> None:
                execute(module)
                replace(module)

            spec.loader.exec_module = execute_and_replace  # type: ignore[method-assign]
        return spec


def replace(module: ModuleType) -> None:
    """Have `run_initdb` copy, and copies be cheap, and the same servers found."""
    load("majors").leave_out()
    cache = load("initdb_cache")
    module.run_initdb = cache.InitdbCache().fill  # type: ignore[attr-defined]
    cache.Sandbox.copy = cache.copy


def load(name: str) -> Any:
    """Return a module of the tests, which may be in no folder where modules are looked for."""
    spec = importlib.util.spec_from_file_location(name, TESTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if os.access(os.environ.get("PGROUTE_TESTS_TEMPLATES", ""), os.W_OK):
    sys.meta_path.insert(0, Finder())
