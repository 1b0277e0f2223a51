"""Copies of what initdb made for a cluster before, and cheaper copies: most tests start a cluster."""

from __future__ import annotations

import fcntl
import itertools
import os
import re
import shutil
import sys
import threading
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from pgroute.testing.binaries import find_server
from pgroute.testing.initdb import run_initdb
from pgroute.testing.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pgroute.testing.binaries import ServerBinaries

TEMPLATES = "PGROUTE_TESTS_TEMPLATES"
"""The variable of the environment that tells the workers where the templates are."""

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


class Templates:
    """The folder of the templates, which all workers of a run share, from the beginning of the run to its end."""

    def __init__(self) -> None:
        self._sandbox = Sandbox(find_server())
        os.environ[TEMPLATES] = str(self._sandbox.folder)

    def close(self) -> None:
        """Remove the templates."""
        os.environ.pop(TEMPLATES, None)
        self._sandbox.close()


class InitdbCache:
    """Stands in for `run_initdb`.

    A copy has the system identifier of its template, so that in a process a template serves one cluster at a time:
    clusters that exist side by side differ, as real ones do. A test whose cluster comes after another one, in one
    router, asks for the fixture `real_initdb`.
    """

    def __init__(self) -> None:
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._folder = Path(os.environ[TEMPLATES])
        self._users: dict[Path, Path] = {}

    def fill(self, server: ServerBinaries, sandbox: Sandbox, folder: Path, timeout: float) -> None:
        """Make the files of a new server, as `run_initdb`."""
        if os.getpid() != self._owner:
            run_initdb(server, sandbox, folder, timeout)
            return
        with self._lock:
            template = next(path for path in self._names(server) if not self._in_use(path))
            self._users[template] = folder
            with Path(f"{template}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not template.exists():
                    run_initdb(server, sandbox, folder, timeout)
                    making = Path(f"{template}.new")
                    shutil.rmtree(making, ignore_errors=True)
                    sandbox.copy(folder, making, timeout=timeout)
                    make_sparse(making)
                    making.rename(template)
                    return
            sandbox.copy(template, folder, timeout=timeout)

    def _names(self, server: ServerBinaries) -> Iterator[Path]:
        name = f"{server.major}-{zlib.crc32(os.fsencode(server.bindir)):08x}"
        return (self._folder / f"{name}-{number}" for number in itertools.count())

    def _in_use(self, template: Path) -> bool:
        user = self._users.get(template)
        return user is not None and user.exists()


def copy(sandbox: Sandbox, source: Path, target: Path, *, timeout: float) -> None:
    """Stand in for `Sandbox.copy`: copy the files of a server that is stopped."""
    elsewhere = source.stat().st_dev != target.parent.stat().st_dev
    if elsewhere or sys.platform != "linux" or not (source / "base/4/PG_VERSION").exists():
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
