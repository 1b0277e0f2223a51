"""One PostgreSQL server on this machine: start, stop, crash, freeze and query it."""

from __future__ import annotations

import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any, Literal

from . import files, processes
from .environment import client_parameters, conninfo, program_conninfo
from .errors import ClusterError, ClusterTimeout
from .password import parameters
from .ports import HOST, Port
from .query import run_query

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from .sandbox import Sandbox

USER = "postgres"
POLL = 0.01  # seconds
STOP_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}


class Server:
    """A server in a folder of its own; `Node` documents the attributes."""

    port: int

    def __init__(
        self,
        name: str,
        sandbox: Sandbox,
        *,
        dbname: str,
        passfile: Path,
        at: tuple[str, Port] | None = None,
    ) -> None:
        self.name = name
        self.host: str = HOST if at is None else at[0]
        self.dbname = dbname
        self.passfile = passfile
        self.data_dir: Path = sandbox.folder / name
        self.log_path: Path = sandbox.folder / f"{name}.log"
        self._sandbox = sandbox
        self._process: subprocess.Popen[bytes] | None = None
        self._frozen = False
        self._shares_port = at is not None
        if at is None:
            self.take_port()
        else:
            self._keep(at[1])

    def __repr__(self) -> str:
        state = "frozen" if self.frozen else "running" if self.running else "stopped"
        return f"<{type(self).__name__} {self.name} {self.host}:{self.port} {state}>"

    @property
    def conninfo(self) -> str:
        """A conninfo for this server as superuser, with the password file.

        `PG*` variables count as in `LocalCluster.dsn`.
        """
        options = client_parameters(self.passfile)
        return conninfo(host=self.host, port=self.port, user=USER, dbname=self.dbname, **options)

    @property
    def _target(self) -> dict[str, str | int]:
        return {
            "host": self.host,
            "hostaddr": self.host,
            "port": self.port,
            "user": USER,
            "dbname": self.dbname,
            **parameters(self.passfile),
        }

    @property
    def tool_conninfo(self) -> str:
        """A conninfo for PostgreSQL's programs, which run without the environment of this process."""
        return program_conninfo(self._target)

    @property
    def socket_dir(self) -> Path | None:
        """The directory of the server's Unix socket; None if its path is too long, or if the nodes share a port."""
        return None if self._shares_port else self._sandbox.socket_folder

    @property
    def pid(self) -> int | None:
        """The postmaster's process id; None if it is not running."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def _children(self) -> list[int]:
        return [] if (pid := self.pid) is None else [pid]

    @property
    def running(self) -> bool:
        """Whether the postmaster exists, frozen or not."""
        return self.pid is not None

    @property
    def frozen(self) -> bool:
        """Whether `freeze()` is in effect."""
        return self._frozen and self.running

    def log(self) -> str:
        """Return the server's log."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def start(self, *, wait: bool = True, timeout: float = 30.0) -> None:
        """Start the server in the role of its files: an old primary starts as a primary.

        Args:
            wait: True returns once it accepts connections.
            timeout: seconds to wait.

        Raises:
            ClusterError: it is already running, or does not start.
        """
        if self.running:
            raise ClusterError(f"{self.name} runs already")
        sockets = self.socket_dir
        settings = {
            "listen_addresses": self.host,
            "port": str(self.port),
            "cluster_name": self.name,
            "unix_socket_directories": "" if sockets is None else str(sockets),
        }
        self._frozen = False
        args = ["-D", str(self.data_dir)]
        for name, value in settings.items():
            args += ["-c", f"{name}={value}"]
        self._process = self._sandbox.spawn(self.data_dir, args, self.log_path)
        if wait:
            self.wait_ready(timeout=timeout)

    def wait_ready(self, *, timeout: float = 30.0) -> None:
        """Return once the server accepts connections.

        Args:
            timeout: seconds.
        """
        self._wait(self._ready, timeout, "accept connections")

    def stop(self, mode: Literal["smart", "fast", "immediate"] = "fast", *, timeout: float = 30.0) -> None:
        """Shut the server down and wait for its end; does nothing if it is stopped.

        Args:
            mode: "smart" waits for clients to disconnect, "fast" ends their sessions, "immediate" exits without a
                checkpoint, so that the next start recovers.
            timeout: seconds.

        Raises:
            ValueError: an unknown mode.
            ClusterError: it is frozen and cannot react.
        """
        if mode not in STOP_SIGNALS:
            raise ValueError(f"mode must be one of {', '.join(STOP_SIGNALS)}, not {mode!r}")
        if self.frozen:
            raise ClusterError(f"{self.name} is frozen: thaw() or kill() it")
        process = self._process
        if process is None:
            return
        process.send_signal(STOP_SIGNALS[mode])
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise ClusterTimeout(self._failure(f"did not stop ({mode}) within {timeout} s")) from None
        if mode == "immediate":
            self._end()

    def kill(self) -> None:
        """SIGKILL the postmaster and all its children, frozen or not, like a crash of the machine; the files stay.

        All are stopped first. Otherwise a session that begins meanwhile could go on when new ones are refused.

        Raises:
            ClusterError: the children are hidden from this process; the postmaster is killed.
        """
        try:
            self._check_visible()
            self._stop_all()
        finally:
            self._end()

    def freeze(self, *, postmaster_only: bool = False) -> None:
        """SIGSTOP the server: it stops answering, while the kernel keeps its connections and accepts new ones.

        Args:
            postmaster_only: True freezes new connections only; existing sessions continue.

        Raises:
            ClusterError: it is not running, or its processes are hidden from this one.
        """
        if self._process is None or not self.running:
            raise ClusterError(f"{self.name} does not run")
        self._check_visible()
        self._frozen = True
        if postmaster_only:
            self._process.send_signal(signal.SIGSTOP)
        else:
            self._stop_all()

    def thaw(self) -> None:
        """Resume a frozen server; does nothing if it is not frozen."""
        if self.running:
            processes.send(signal.SIGCONT, self._sandbox.folder, self.name, children=self._children)
        self._frozen = False

    def execute(
        self, sql: str, params: Sequence[Any] | Mapping[str, Any] | None = None, *, timeout: float = 30.0
    ) -> list[tuple[Any, ...]]:
        """Run one statement with autocommit in a new session; return its rows ([] if it has none).

        Args:
            sql: the statement.
            params: its parameters, as in psycopg.
            timeout: seconds for the answer.

        Raises:
            psycopg.Error: the server's error.
            ClusterError: the server is not running or is frozen.
            ClusterTimeout: no answer in time; the session was cut off, and the statement may have been executed.
        """
        if not self.running or self.frozen:
            raise ClusterError(
                self._failure("cannot execute: it is frozen" if self.frozen else "does not run")
            )
        try:
            return run_query(self._target, sql, params, timeout)
        except TimeoutError as error:
            raise ClusterTimeout(self._failure(f"gave {error}")) from error

    def take_port(self) -> None:
        """Reserve a port for this server, or replace the one it has, which nobody may know yet."""
        self._keep(Port())

    def _keep(self, port: Port) -> None:
        self._sandbox.ports.append(port)
        self.port = port.number

    def _stop_all(self) -> None:
        """SIGSTOP every process of this server; the postmaster first, so that no other one begins."""
        if self._process is not None and self.running:
            self._process.send_signal(signal.SIGSTOP)
        processes.freeze(self._sandbox.folder, self.name, children=self._children)

    def _check_visible(self) -> None:
        """Raise ClusterError if the server's processes cannot be seen: none but the postmaster would get a signal."""
        pid = self.pid
        if pid is not None and not processes.visible(pid) and self.running:
            raise ClusterError(f"the processes of {self.name} are hidden: is /proc mounted with hidepid?")

    def _end(self) -> None:
        """End every process of this server."""
        processes.end(self._sandbox.folder, self.name, children=self._children)
        if self._process is not None:
            if self._process.poll() is None:
                self._process.kill()
            self._process.wait(10)
        self._process, self._frozen = None, False

    def _ready(self) -> bool:
        """Whether line 8 of this process's lock file says so ("standby": hot_standby is off)."""
        try:
            lines = files.read_text(self.data_dir, "postmaster.pid").splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() in ("ready", "standby")

    def _wait_true(self, expression: str, timeout: float, goal: str) -> None:
        import psycopg

        def condition() -> bool:
            try:
                return bool(self.execute(f"SELECT {expression}", timeout=timeout)[0][0])
            except psycopg.OperationalError:  # it is about to end, or restarts its sessions
                return False

        self._wait(condition, timeout, goal)

    def _wait(self, condition: Callable[[], bool], timeout: float, goal: str) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            if not self.running:
                raise ClusterError(self._failure(f"ended and did not {goal}"))
            if time.monotonic() > deadline:
                raise ClusterTimeout(self._failure(f"did not {goal} within {timeout} s"))
            time.sleep(POLL)

    def _failure(self, what: str) -> str:
        tail = "\n".join(self.log().splitlines()[-20:])
        return f"{self.name} {what}; the end of its log:\n{tail}"


def quoted(value: str) -> str:
    """Return a value quoted for configuration files and ALTER SYSTEM."""
    escaped = value.replace("\\", "\\\\").replace("'", "''")
    return f"'{escaped}'"
