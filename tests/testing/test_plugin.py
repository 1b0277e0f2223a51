"""The pytest plugin, which every run of pytest in an environment loads, asks for nothing until a fixture is used."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]

# As where psycopg finds no libpq.
RUN = """
import sys

class NoLibpq:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0].startswith("psycopg"):
            raise ImportError("no pq wrapper available")

sys.meta_path.insert(0, NoLibpq())
import pytest
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "-p", PLUGIN]))
"""


def entry_point() -> str:
    """Return the module that pytest loads."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert "pytest_pgroute.py" in project["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]
    [module] = project["project"]["entry-points"]["pytest11"].values()
    return str(module)


TESTS = """
import sys

def test_nothing_of_ours_is_there():
    ours = [name for name in sys.modules if name.partition(".")[0] in ("pgroute", "psycopg", "psycopg_pool")]
    assert ours == []

def test_ours(pgroute_cluster):
    pass
"""


def test_the_tests_of_others_run_where_psycopg_cannot_be_imported(tmp_path: Path) -> None:
    (tmp_path / "test_other.py").write_text(TESTS)
    done = subprocess.run(
        [sys.executable, "-c", f"PLUGIN = {entry_point()!r}\n{RUN}"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "1 passed, 1 error" in done.stdout, done.stdout + done.stderr
    assert "no pq wrapper available" in done.stdout
