"""One PostgreSQL server of a local cluster: start, stop, crash, freeze, promote and rejoin it."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any, Literal

from . import processes
from .errors import ClusterError, ClusterTimeout
from .ports import HOST, Port
from .query import FIXED, run_query

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from .sandbox import Sandbox

USER = "postgres"
POLL = 0.01  # seconds
_WAL_FILE = re.compile(r"[0-9A-F]{24}")
STOP_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}


class Node:
    """A server of a `LocalCluster`, which makes them.

    Every method that waits raises ClusterTimeout in the end, and ClusterError when the server dies meanwhile,
    both with the tail of the server's log.

    Attributes:
        name: "node1", "node2", ...: also its cluster_name, and the application_name of its replication.
        host: 127.0.0.1.
        port: its TCP port, the same through all restarts.
        dbname: the cluster's.
        data_dir: the folder of its data.
        log_path: the file of its log.
    """

    port: int

    def __init__(
        self,
        name: str,
        sandbox: Sandbox,
        *,
        dbname: str,
        find_primary: Callable[[], Node],
        at: tuple[str, Port] | None = None,
    ) -> None:
        self.name = name
        self.host: str = HOST if at is None else at[0]
        self.dbname = dbname
        self.data_dir: Path = sandbox.folder / name
        self.log_path: Path = sandbox.folder / f"{name}.log"
        self._sandbox = sandbox
        self._find_primary = find_primary
        self._process: subprocess.Popen[bytes] | None = None
        self._frozen = False
        self._shares_port = at is not None
        if at is None:
            self.take_port()
        else:
            self._keep(at[1])

    def __repr__(self) -> str:
        state = "frozen" if self.frozen else "running" if self.running else "stopped"
        return f"<Node {self.name} {self.host}:{self.port} {state}>"

    @property
    def conninfo(self) -> str:
        """A conninfo for this server alone, as superuser."""
        return f"host={self.host} port={self.port} user={USER} dbname={self.dbname}"

    @property
    def socket_dir(self) -> Path | None:
        """The directory of the server's Unix socket; None when its path would be too long, or the ports are one."""
        return None if self._shares_port else self._sandbox.socket_folder

    @property
    def pid(self) -> int | None:
        """The postmaster's process id; None when it does not run."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def running(self) -> bool:
        """Whether the postmaster exists, frozen or not."""
        return self.pid is not None

    @property
    def frozen(self) -> bool:
        """Whether `freeze()` is in effect."""
        return self._frozen and self.running

    def log(self) -> str:
        """Return all that the server has written to its log."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def start(self, *, wait: bool = True, timeout: float = 30.0) -> None:
        """Start the server as what its files say it is: an old primary comes back as a primary.

        Args:
            wait: return when it accepts connections.
            timeout: seconds for that.

        Raises:
            ClusterError: it runs already, or does not start.
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
        self._process = self._sandbox.spawn("postgres", args, self.log_path)
        if wait:
            self.wait_ready(timeout=timeout)

    def wait_ready(self, *, timeout: float = 30.0) -> None:
        """Return when the server accepts connections.

        Args:
            timeout: seconds.
        """
        self._wait(self._ready, timeout, "accept connections")

    def stop(self, mode: Literal["smart", "fast", "immediate"] = "fast", *, timeout: float = 30.0) -> None:
        """Shut down and wait for the end; nothing happens when the server is stopped already.

        Args:
            mode: "smart" waits for clients to go, "fast" ends their sessions, "immediate" crashes: the next start
                recovers.
            timeout: seconds.

        Raises:
            ValueError: another mode.
            ClusterError: it is frozen, and would not notice.
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
        """SIGKILL the postmaster and all its children, frozen or not: a crash of the machine. The files
        stay.
        """
        self._end()

    def freeze(self, *, postmaster_only: bool = False) -> None:
        """SIGSTOP the server: it answers nothing, while the kernel keeps its connections and accepts new ones
        for it.

        Args:
            postmaster_only: the sessions there are go on, and new ones hang.

        Raises:
            ClusterError: it does not run.
        """
        if self._process is None or not self.running:
            raise ClusterError(f"{self.name} does not run")
        self._frozen = True
        self._process.send_signal(signal.SIGSTOP)
        if not postmaster_only:
            processes.freeze(self.data_dir, self._sandbox.bindir)

    def thaw(self) -> None:
        """Let a frozen server go on; nothing happens to another."""
        if self.running:
            processes.send(signal.SIGCONT, self.data_dir, self._sandbox.bindir)
        self._frozen = False

    def execute(
        self, sql: str, params: Sequence[Any] | Mapping[str, Any] | None = None, *, timeout: float = 30.0
    ) -> list[tuple[Any, ...]]:
        """Run one statement in a session of its own with autocommit, and return the rows ([] if it has none).

        Args:
            sql: the statement.
            params: for it, as in psycopg.
            timeout: seconds for the answer.

        Raises:
            psycopg.Error: the server's error.
            ClusterError: the server does not run or is frozen.
            ClusterTimeout: the answer took longer; the session is cut off, so the statement may or may not be done.
        """
        if not self.running or self.frozen:
            raise ClusterError(
                self._failure("cannot execute: it is frozen" if self.frozen else "does not run")
            )
        try:
            return run_query(f"{self.conninfo} hostaddr={self.host}", sql, params, timeout)
        except TimeoutError as error:
            raise ClusterTimeout(self._failure(f"gave {error}")) from error

    def promote(self, *, wait: bool = True, timeout: float = 30.0) -> None:
        """Make this standby a primary. `LocalCluster.promote` does more.

        Args:
            wait: return when it accepts writes.
            timeout: seconds for that.
        """
        self.execute("SELECT pg_promote(false)", timeout=timeout)
        if wait:
            self._wait_true("NOT pg_is_in_recovery()", timeout, "leave recovery")

    def pause_replay(self, *, timeout: float = 30.0) -> None:
        """Stop applying WAL on this standby (it still receives it); return when replay has stopped.

        Args:
            timeout: seconds.
        """
        self.execute("SELECT pg_wal_replay_pause()", timeout=timeout)
        version = int(self.execute("SHOW server_version_num")[0][0])
        state = (
            "pg_get_wal_replay_pause_state() = 'paused'" if version >= 140000 else "pg_is_wal_replay_paused()"
        )
        self._wait_true(state, timeout, "pause replay")

    def resume_replay(self) -> None:
        """Go on applying WAL on this standby."""
        self.execute("SELECT pg_wal_replay_resume()")

    def follow(self, primary: Node, *, wait: bool = True, timeout: float = 30.0) -> None:
        """Point this running standby at a primary.

        Args:
            primary: which one.
            wait: return when it streams from there.
            timeout: seconds for that.
        """
        self.execute(f"ALTER SYSTEM SET primary_conninfo TO '{self._source(primary)}'")
        self.execute("SELECT pg_reload_conf()")
        if wait:
            self.wait_streaming(primary, timeout=timeout)

    def wait_streaming(self, primary: Node, *, timeout: float = 30.0) -> None:
        """Return when this standby receives WAL from a primary as it comes.

        A standby with paused replay is not waited for: PostgreSQL connects it to a new source only once it
        goes on.

        Args:
            primary: which one.
            timeout: seconds.
        """
        sender = f"(sender_host, sender_port) = ('{primary.host}', {primary.port})"
        receiver = f"FROM pg_stat_wal_receiver WHERE status = 'streaming' AND {sender}"
        self._wait_true(
            f"pg_is_wal_replay_paused() OR EXISTS (SELECT {receiver})", timeout, f"stream from {primary.name}"
        )

    def rejoin(self, primary: Node | None = None, *, timeout: float = 60.0) -> None:
        """Become a standby of a primary, from whatever state this server is in.

        Stops it if it runs (a frozen one is killed), takes back what the primary does not have with pg_rewind,
        or copies all with pg_basebackup if that is not possible, starts it and returns when it streams.

        Args:
            primary: which one; None: the cluster's current one.
            timeout: seconds for each step.
        """
        primary = self._find_primary() if primary is None else primary
        if primary is self:
            raise ClusterError(f"{self.name} cannot be a standby of itself")
        if self.frozen:
            self.kill()
        self.stop(timeout=timeout)
        self._end()
        # Before PostgreSQL 16 pg_rewind believes the control file, which has an old timeline until then.
        primary.execute("CHECKPOINT", timeout=timeout)
        try:
            if self._is_rival(primary):
                raise ClusterError("both were promoted to the same timeline, which pg_rewind does not see")
            options = ["--no-sync", "--source-server", f"{primary.conninfo} {FIXED}"]
            self._sandbox.run("pg_rewind", "-D", self.data_dir, *options, timeout=timeout)
            self.configure_standby(primary)
            self.start(timeout=timeout)
            self.wait_streaming(primary, timeout=10.0)
        except ClusterError as error:
            if not primary.running:
                raise
            with self.log_path.open("a") as log:
                log.write(f"pgroute: copying {primary.name} afresh, because: {error}\n")
            self._copy_from(primary, timeout=timeout)

    def configure_standby(self, primary: Node) -> None:
        """Write the files that make this stopped server a standby of `primary`."""
        signal_file, settings = self.data_dir / "standby.signal", self.data_dir / "postgresql.auto.conf"
        signal_file.touch(mode=0o600)
        self._sandbox.adopt(signal_file)
        kept = [line for line in settings.read_text().splitlines() if not line.startswith("primary_conninfo")]
        settings.write_text("\n".join([*kept, f"primary_conninfo = '{self._source(primary)}'", ""]))

    def take_port(self) -> None:
        """Reserve a port for this server, a new one if it has one. Only before anybody knows the old one."""
        self._keep(Port())

    def _keep(self, port: Port) -> None:
        self._sandbox.ports.append(port)
        self.port = port.number

    def _is_rival(self, primary: Node) -> bool:
        """Whether this stopped server was a primary, and on the timeline of the other one."""
        if (self.data_dir / "standby.signal").exists():
            return False
        [(current,)] = primary.execute("SELECT pg_walfile_name(pg_current_wal_lsn())")
        names = (path.name for path in (self.data_dir / "pg_wal").iterdir())
        last = max((name[:8] for name in names if _WAL_FILE.fullmatch(name)), default="")
        return bool(last == current[:8])

    def _copy_from(self, primary: Node, *, timeout: float) -> None:
        self._end()
        shutil.rmtree(self.data_dir)
        options = ["--checkpoint=fast", "--no-sync", "--wal-method=stream"]
        source = f"{primary.conninfo} {FIXED}"
        self._sandbox.run("pg_basebackup", "-D", self.data_dir, *options, "-d", source, timeout=timeout)
        self.configure_standby(primary)
        self.start(timeout=timeout)
        self.wait_streaming(primary, timeout=timeout)

    def _end(self) -> None:
        """Make sure that no process of this server is left."""
        processes.end(self.data_dir, self._sandbox.bindir)
        if self._process is not None:
            if self._process.poll() is None:
                self._process.kill()
            self._process.wait(10)
        self._process, self._frozen = None, False

    def _ready(self) -> bool:
        """Whether the lock file of this very process says so (line 8; "standby" is one with hot_standby
        off).
        """
        try:
            lines = (self.data_dir / "postmaster.pid").read_text().splitlines()
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

    def _source(self, primary: Node) -> str:
        """The value of primary_conninfo; application_name is what synchronous_standby_names looks for."""
        return (
            f"host={primary.host} port={primary.port} user={USER} application_name={self.name} "
            "sslmode=disable gssencmode=disable"
        )
