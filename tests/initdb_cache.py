"""Copies of what initdb made for a cluster before, and cheaper copies: most tests start a cluster."""

from __future__ import annotations

import os
import re
import sys
import threading
from typing import TYPE_CHECKING

from pgroute.testing.initdb import run_initdb
from pgroute.testing.sandbox import Sandbox

if TYPE_CHECKING:
    from pathlib import Path

    from pgroute.testing.binaries import ServerBinaries

COPY_ALL = Sandbox.copy
WAL_FILE = re.compile(r"[0-9A-F]{24}")
# Nobody can connect to template0 (oid 4 from PostgreSQL 15 on), and initdb froze its rows: its tables, a third of all
# files, are only read. They are hard links. pg_rewind writes the two other files in place, so those are copies.
COPY = """
cd "$1"
target=$2
cp -R --parents [!b]* base/[!4]* "$target"
cp -Rl --parents base/4 "$target"
cp --parents --remove-destination base/4/PG_VERSION base/4/pg_filenode.map "$target"
"""


class InitdbCache:
    """Stands in for `run_initdb`.

    A copy has the system identifier of its template, so that a template serves one cluster at a time: clusters that
    exist side by side differ, as real ones do. A test whose cluster comes after another one, in one router, asks for
    the fixture `real_initdb`.
    """

    def __init__(self, server: ServerBinaries) -> None:
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._sandbox = Sandbox(server)
        self._templates: dict[ServerBinaries, list[Path]] = {}
        self._users: dict[Path, Path] = {}

    def close(self) -> None:
        """Remove the templates."""
        self._sandbox.close()

    def fill(self, server: ServerBinaries, sandbox: Sandbox, folder: Path, timeout: float) -> None:
        """Make the files of a new server, as `run_initdb`."""
        if os.getpid() != self._owner:
            run_initdb(server, sandbox, folder, timeout)
            return
        with self._lock:
            templates = self._templates.setdefault(server, [])
            free = [template for template in templates if not self._users[template].exists()]
            if free:
                sandbox.copy(free[0], folder, timeout=timeout)
                self._users[free[0]] = folder
                return
            run_initdb(server, sandbox, folder, timeout)
            template = self._sandbox.folder / f"template{len(self._users)}"
            self._sandbox.copy(folder, template, timeout=timeout)
            make_sparse(template)
            templates.append(template)
            self._users[template] = folder


def copy(sandbox: Sandbox, source: Path, target: Path, *, timeout: float) -> None:
    """Stand in for `Sandbox.copy`: copy the files of a server that is stopped."""
    if sys.platform != "linux" or not (source / "base/4/PG_VERSION").exists():
        COPY_ALL(sandbox, source, target, timeout=timeout)
        return
    sandbox.make_folder(target)
    sandbox.run("/bin/sh", "-ec", COPY, "sh", source, target, timeout=timeout)


def make_sparse(folder: Path) -> None:
    """Make holes of the zeros at the ends of the files of WAL, as most of the first one is: copies have them too."""
    for path in (folder / "pg_wal").iterdir():
        if WAL_FILE.fullmatch(path.name):
            with path.open("r+b") as file:
                content = file.read()
                file.truncate(len(content.rstrip(b"\0")))
                file.truncate(len(content))
