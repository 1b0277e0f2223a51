"""A folder for shared watches of each test's own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

collect_ignore_glob = [] if sys.platform == "linux" else ["test_*.py"]


@pytest.fixture(autouse=True)
def place(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the folder is made: as for a user without a session, so that other runs of the tests are not met."""
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    return temporary
