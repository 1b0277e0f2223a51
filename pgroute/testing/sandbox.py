"""A temporary folder in which server programs run as the right user, and which takes them along when it
goes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import processes, watchdog
from .account import EXECUTE, copy_server, reachable, server_account, temporary_root
from .errors import ClusterError, ClusterTimeout
from .surroundings import program_environment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .binaries import ServerBinaries
    from .ports import Port

SOCKET_PATH_LIMIT = 85  # sun_path holds 104 to 108 bytes, and "/.s.PGSQL.65535.lock" follows


class Sandbox:
    """The folder, its processes and ports. `close()` ends and removes everything; so does the death of this
    process.

    A small watchdog process waits at a pipe whose other end only we hold, so SIGTERM and SIGKILL leave
    nothing either. A forked child inherits the object but never cleans up: the servers are its parent's.
    """

    def __init__(self, server: ServerBinaries) -> None:
        self._account = server_account()
        self._owner = os.getpid()
        self._children: list[subprocess.Popen[bytes]] = []
        self._watchdog: subprocess.Popen[bytes] | None = None
        self.ports: list[Port] = []
        self.bindir = server.bindir
        self.folder = Path(tempfile.mkdtemp(prefix="pgroute-", dir=temporary_root(self._account)))
        try:
            self.adopt(self.folder)
            if self._account is not None and not reachable(server, self._account):
                self.bindir = copy_server(server, self.folder / "server")
                if not self._account.may(EXECUTE, self.bindir / "postgres"):
                    raise ClusterError(
                        f"the user {self._account.name} can reach neither {server.bindir} nor a copy"
                    )
            self._environment = self._make_environment()
            self._start_watchdog()
        except BaseException:
            self.close()
            raise

    @property
    def socket_folder(self) -> Path | None:
        """Where servers put their Unix sockets; None when the path is too long for one."""
        return self.folder if len(os.fsencode(self.folder)) <= SOCKET_PATH_LIMIT else None

    def run(self, tool: str, *args: str | Path, stdin: str = "", timeout: float = 60.0) -> str:
        """Run a program (of the server, or of the system by its absolute path) to its end and return its
        output.

        Raises ClusterError with that output if it fails, ClusterTimeout after `timeout` seconds.
        """
        command = [str(self.bindir / tool), *map(str, args)]
        try:
            done = subprocess.run(
                command,
                check=False,
                input=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=timeout,
                **self._popen_options(),
            )
        except subprocess.TimeoutExpired as error:
            raise ClusterTimeout(f"{tool} did not end within {timeout} s: {error.output}") from error
        if done.returncode != 0:
            raise ClusterError(
                f"{tool} failed with exit status {done.returncode}: {' '.join(command)}\n{done.stdout}"
            )
        return str(done.stdout)

    def spawn(self, tool: str, args: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
        """Start a server program that stays, its output appended to `log`, out of reach of the terminal's
        Ctrl-C.
        """
        self._children = [child for child in self._children if child.poll() is None]
        with log.open("ab") as output:
            child = subprocess.Popen(
                [str(self.bindir / tool), *args],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                **self._popen_options(),
            )
        self._children.append(child)
        return child

    def adopt(self, path: Path) -> None:
        """Make a file or folder belong to the servers' user."""
        if self._account is not None:
            os.chown(path, self._account.uid, self._account.gid)

    def close(self) -> None:
        """End all processes, remove the folder, give the ports back. Idempotent; nothing happens in a forked
        child.
        """
        if os.getpid() != self._owner:
            return
        try:
            processes.end(self.folder, self.bindir)
            for child in self._children:
                if child.poll() is None:
                    child.kill()
                child.wait(10)
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
            while self.ports:
                self.ports.pop().release()
        if self._watchdog is not None:
            self._watchdog.kill()
            self._watchdog.wait(10)
            if self._watchdog.stdin is not None:
                self._watchdog.stdin.close()
            self._watchdog = None

    def _popen_options(self) -> dict[str, Any]:  # as keyword arguments of very different types
        options: dict[str, Any] = {
            "cwd": self.folder,
            "env": self._environment,
            "start_new_session": True,
            "umask": 0o077,
        }
        if self._account is not None:
            options |= {"user": self._account.uid, "group": self._account.gid, "extra_groups": []}
        return options

    def _make_environment(self) -> dict[str, str]:
        environment = program_environment(self.folder)
        if self.bindir.is_relative_to(self.folder):
            libraries = [str(self.bindir.parent / "lib"), environment.get("LD_LIBRARY_PATH", "")]
            environment["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, libraries))
        return environment

    def _start_watchdog(self) -> None:
        if not sys.executable:  # an embedded interpreter: do without
            return
        command = [sys.executable, "-I", "-S", watchdog.__file__, str(self.folder), str(self.bindir)]
        with contextlib.suppress(OSError):
            self._watchdog = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
            )
