"""A temporary folder whose server programs run as the right user, and end when the folder is removed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import files, processes, watchdog
from .account import EXECUTE, changing_user, copy_server, reachable, server_account, temporary_root
from .environment import program_environment
from .errors import ClusterError, ClusterTimeout

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .binaries import ServerBinaries
    from .ports import Port

SOCKET_PATH_LIMIT = 85  # sun_path holds 104 to 108 bytes, and "/.s.PGSQL.65535.lock" follows
SOCKETS = "sockets"


class Sandbox:
    """The folder with its processes and ports. `close()` removes everything; so does the death of this process.

    Under root the folder belongs to root and the folders in it to the servers' user, who can therefore place no link
    where root works (`files.py` covers root's work in that user's folders).

    A watchdog process waits at a pipe that only this process holds open, so that SIGTERM and SIGKILL leave nothing
    behind. A forked child inherits the object but never cleans up: the servers belong to its parent.
    """

    def __init__(self, server: ServerBinaries) -> None:
        self._account = server_account()
        self._as_owner = [] if self._account is None else changing_user(self._account)
        self._owner = os.getpid()
        self._children: list[subprocess.Popen[bytes]] = []
        self._watchdog: subprocess.Popen[bytes] | None = None
        self.ports: list[Port] = []
        self.bindir: Path = server.bindir
        copied = self._account is not None and not reachable(server, self._account)
        root = temporary_root(self._account, for_programs=copied)
        self.folder: Path = Path(tempfile.mkdtemp(prefix="pgroute-", dir=root))
        try:
            if self._account is not None:  # the servers' user may enter this folder, but not change it
                os.chown(self.folder, -1, self._account.gid)
                self.folder.chmod(0o710)
            self.make_folder(self.folder / SOCKETS)
            self.make_folder(self.folder / processes.PROGRAMS)
            if self._account is not None and copied:
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
    def owner(self) -> tuple[int, int] | None:
        """The uid and gid of the servers; None: those of this process."""
        return None if self._account is None else (self._account.uid, self._account.gid)

    @property
    def socket_folder(self) -> Path | None:
        """The folder for Unix sockets; None if its path is too long."""
        folder = self.folder / SOCKETS
        return folder if len(os.fsencode(folder)) <= SOCKET_PATH_LIMIT else None

    def run(self, tool: str, *args: str | Path, stdin: str = "", timeout: float = 60.0) -> str:
        """Run a program of the server, or any program by its absolute path, and return its output.

        If it is given up, all that it has started ends with it.

        Raises:
            ClusterError: it failed; the message has its output.
            ClusterTimeout: it did not end within `timeout` seconds.
        """
        command = [str(self.bindir / tool), *map(str, args)]
        try:
            with subprocess.Popen(
                [*self._as_owner, self._link(tool), *command[1:]],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                **self._popen_options(),
            ) as process:
                try:
                    output, _ = process.communicate(stdin, timeout)
                except BaseException:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)  # of a session of its own
                    raise
        except subprocess.TimeoutExpired as error:
            raise ClusterTimeout(f"{tool} did not end within {timeout} s: {error.output}") from error
        except OSError as error:
            raise ClusterError(f"{tool} cannot be run: {error}") from error
        if process.returncode != 0:
            raise ClusterError(
                f"{tool} failed with exit status {process.returncode}: {' '.join(command)}\n{output}"
            )
        return str(output)

    def spawn(self, data_dir: Path, args: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
        """Start the server of a data directory, appending its output to `log`; Ctrl-C does not reach it."""
        self._children = [child for child in self._children if child.poll() is None]
        with open(log, "ab", opener=_private) as output:
            child = subprocess.Popen(
                [*self._as_owner, self._link("postgres", processes.link_name(data_dir)), *args],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                **self._popen_options(),
            )
        self._children.append(child)
        return child

    def make_folder(self, path: Path) -> None:
        """Create a subfolder for the servers' user alone."""
        path.mkdir(mode=0o700)
        if self.owner is not None:
            os.chown(path, *self.owner, follow_symlinks=False)

    def copy(self, source: Path, target: Path, *, timeout: float) -> None:
        """Create a subfolder as a copy of another one."""
        self.make_folder(target)
        # Not every system has it in these places, and not every place on PATH is open to the servers' user.
        places = os.pathsep.join(("/bin", "/usr/bin", *os.get_exec_path()))
        program = shutil.which("cp", path=places) or "/bin/cp"
        self.run(program, "-R", f"{source}/.", target, timeout=timeout)

    def make_file(self, name: str, content: str) -> Path:
        """Create a file in the folder that only the servers' user and root may read."""
        files.create(self.folder, name, self.owner, content)
        return self.folder / name

    def close(self) -> None:
        """End all processes, remove the folder and release the ports. Idempotent; does nothing in a forked child."""
        if os.getpid() != self._owner:
            return
        try:
            alive = [child.pid for child in self._children if child.poll() is None]
            processes.end(self.folder, children=alive)
            for child in self._children:
                if child.poll() is None:
                    child.kill()
                child.wait(10)
        finally:
            processes.remove(self.folder)
            while self.ports:
                self.ports.pop().release()
        if self._watchdog is not None:
            self._watchdog.kill()
            self._watchdog.wait(10)
            if self._watchdog.stdin is not None:
                self._watchdog.stdin.close()
            self._watchdog = None

    def _link(self, tool: str, name: str | None = None) -> str:
        """Return the link to start a program of the server from: `processes` finds what was started from there."""
        if Path(tool).is_absolute():
            return tool
        link = self.folder / processes.PROGRAMS / (name or tool)
        with contextlib.suppress(FileExistsError):
            link.symlink_to(self.bindir / tool)
        return str(link)

    def _popen_options(self) -> dict[str, Any]:  # as keyword arguments of very different types
        options: dict[str, Any] = {
            "cwd": self.folder,
            "env": self._environment,
            "start_new_session": True,
            "umask": 0o077,
        }
        if self._account is not None and not self._as_owner:
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
        command = [sys.executable, "-I", "-S", watchdog.__file__, str(self.folder)]
        with contextlib.suppress(OSError):
            self._watchdog = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
            )


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)
