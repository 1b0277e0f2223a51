"""The user that a server runs as (PostgreSQL refuses root), and the files that this user can reach."""

from __future__ import annotations

import functools
import os
import pwd
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .binaries import TOOLS
from .errors import ClusterError

if TYPE_CHECKING:
    from .binaries import ServerBinaries

READ, EXECUTE = 4, 1
_NOEXEC: int = getattr(os, "ST_NOEXEC", 0)  # macOS does not tell
SYSTEM_PREFIXES = ("/", "/usr", "/usr/local")
SHARED_PLACES = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - mkdtemp makes a private folder there


@dataclass(frozen=True, slots=True)
class Account:
    """A user with a passwd entry: initdb refuses a uid without one."""

    name: str
    uid: int
    gid: int

    def may(self, bits: int, path: Path) -> bool:
        """Return True if the mode bits of `path` and of all folders above it allow `bits` (READ, EXECUTE)."""
        if any(not self._allowed(EXECUTE, folder) for folder in path.parents):
            return False
        return self._allowed(bits, path)

    def _allowed(self, bits: int, path: Path) -> bool:
        stat = path.stat()
        shift = 6 if stat.st_uid == self.uid else 3 if stat.st_gid == self.gid else 0
        return (stat.st_mode >> shift) & bits == bits


def server_account() -> Account | None:
    """Return the user for the servers: None for the current one; for root postgres, nobody or any other user.

    Raises:
        ClusterError: root is the only user.
    """
    if os.geteuid() != 0:
        return None
    users = {entry.pw_name: entry for entry in pwd.getpwall() if entry.pw_uid != 0}
    for name in ("postgres", "nobody", *users):
        if name in users:
            return Account(name, users[name].pw_uid, users[name].pw_gid)
    raise ClusterError("PostgreSQL does not run as root, and there is no other user on this system")


@functools.cache
def changing_user(account: Account) -> list[str]:
    """Return a command that runs the one after it as `account`; empty where there is none that can.

    `subprocess` copies the page tables of this process if it has to change the user itself. setpriv spares that: a
    child of a large process starts in 2 ms, not 7. The setpriv of BusyBox cannot change the user.
    """
    program = shutil.which("setpriv", path="/usr/bin:/bin")
    if program is None:
        return []
    command = [program, f"--reuid={account.uid}", f"--regid={account.gid}", "--clear-groups", "--"]
    try:
        subprocess.run(
            [*command, program, "--version"],
            check=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=10.0,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return command


def temporary_root(account: Account | None, *, for_programs: bool = False) -> Path:
    """Return a folder for temporary files that `account` can reach, on a file system that lets programs run if asked.

    Raises:
        ClusterError: there is none.
    """
    for name in dict.fromkeys((tempfile.gettempdir(), *SHARED_PLACES)):
        path = Path(name).resolve()
        if not path.is_dir() or (account is not None and not account.may(EXECUTE, path)):
            continue
        if not for_programs or not os.statvfs(path).f_flag & _NOEXEC:
            return path
    what = "temporary files" + (" that lets programs run (not mounted noexec)" if for_programs else "")
    raise ClusterError(f"the user {account and account.name} can reach no folder for {what}")


def reachable(server: ServerBinaries, account: Account) -> bool:
    """Return True if `account` can run `server`, judged by the mode bits of the files that it needs."""
    links = [server.bindir / tool for tool in TOOLS]
    programs = {*links, *(path.resolve() for path in links)}
    prefix = server.bindir.parent
    data = [prefix / "share/postgresql/postgres.bki", prefix / "lib/postgresql/plpgsql.so"]
    if (bundled := _bundled(prefix)) is not None:
        data += (path for path in bundled.glob("*") if path.is_file())
    return all(account.may(READ | EXECUTE, path) for path in programs) and all(
        account.may(READ, path) for path in data if path.exists()
    )


def copy_server(server: ServerBinaries, folder: Path) -> Path:
    """Copy the installation of `server` into `folder`, readable for everybody; return the copy's bin directory.

    PostgreSQL finds its share and lib directories relative to its binaries, and the wheel's binaries find
    their shared libraries in a folder beside the package: the copy keeps that layout.

    Raises:
        ClusterError: it is not alone where it is installed.
    """
    prefix = server.bindir.parent
    if str(prefix) in SYSTEM_PREFIXES:
        raise ClusterError(
            f"the servers' user cannot run {server.bindir / 'postgres'}: look at its access rights"
        )
    copy = folder / prefix.parent.name / prefix.name
    shutil.copytree(
        prefix, copy, symlinks=True, ignore=shutil.ignore_patterns("include", "*.a", "doc", "man")
    )
    libraries = _bundled(prefix)
    if libraries is not None and libraries.is_dir():
        shutil.copytree(libraries, folder / libraries.name, symlinks=True)
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
    return copy / server.bindir.name


def _bundled(prefix: Path) -> Path | None:
    """The folder in which wheels for Linux keep shared libraries: `package.libs` beside `package`."""
    package = prefix.parent
    return package.with_name(f"{package.name}.libs") if package.name else None
