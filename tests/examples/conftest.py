"""A folder for what an example leaves behind."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest


@pytest.fixture
def temporary():
    """A folder for temporary files that any user may enter: servers may run as another one."""
    with tempfile.TemporaryDirectory(prefix="pgroute-example-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)
