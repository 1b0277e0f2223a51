"""One node of a local cluster: a server that can be promoted, follow a primary and rejoin it."""

from __future__ import annotations

import contextlib
import re
import shutil
from typing import TYPE_CHECKING

from . import files
from .environment import conninfo
from .errors import ClusterError
from .server import USER, Server, quoted
from .wal_tail import clear_tail

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .ports import Port
    from .sandbox import Sandbox

STANDBY_SIGNAL = "standby.signal"
_WAL_FILE = re.compile(r"[0-9A-F]{24}")


class Node(Server):
    """A server of a `LocalCluster`.

    Every method that waits raises ClusterTimeout after its timeout, and ClusterError if the server dies; both messages
    have the end of the server's log.

    Attributes:
        name: "node1", "node2", ...: also its cluster_name and the application_name of its replication.
        host: 127.0.0.1.
        port: its TCP port, which stays the same after restarts.
        dbname: the database of the cluster.
        passfile: the password file, readable by the servers' user and root only.
        data_dir: its data directory.
        log_path: its log file.
    """

    def __init__(
        self,
        name: str,
        sandbox: Sandbox,
        *,
        dbname: str,
        passfile: Path,
        find_primary: Callable[[], Node],
        at: tuple[str, Port] | None = None,
    ) -> None:
        super().__init__(name, sandbox, dbname=dbname, passfile=passfile, at=at)
        self._find_primary = find_primary

    @property
    def has_standby_signal(self) -> bool:
        """Whether standby.signal exists: PostgreSQL removes it before a promotion ends recovery."""
        return (self.data_dir / STANDBY_SIGNAL).exists()

    def promote(self, *, wait: bool = True, timeout: float = 30.0) -> None:
        """Make this standby a primary. `LocalCluster.promote` also re-points the other standbys.

        Args:
            wait: True returns once it accepts writes.
            timeout: seconds to wait.
        """
        self.execute("SELECT pg_catalog.pg_promote(false)", timeout=timeout)
        if wait:
            self._wait_true("NOT pg_is_in_recovery()", timeout, "leave recovery")

    def pause_replay(self, *, timeout: float = 30.0) -> None:
        """Pause WAL replay on this standby, which still receives WAL; return once replay has stopped.

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
        """Resume WAL replay on this standby."""
        self.execute("SELECT pg_wal_replay_resume()")

    def follow(self, primary: Node, *, wait: bool = True, timeout: float = 30.0) -> None:
        """Make this running standby stream from a primary.

        Args:
            primary: the primary to follow.
            wait: True returns once it streams from there.
            timeout: seconds to wait.
        """
        self.execute(f"ALTER SYSTEM SET primary_conninfo TO {quoted(self._source(primary))}")
        self.execute("SELECT pg_reload_conf()")
        if wait:
            self.wait_streaming(primary, timeout=timeout)

    def wait_streaming(self, primary: Node, *, timeout: float = 30.0) -> None:
        """Return once this standby streams WAL from a primary.

        A standby with paused replay is not waited for: PostgreSQL connects to a new source only after it resumes.

        Args:
            primary: the primary to stream from.
            timeout: seconds.
        """
        sender = f"(sender_host, sender_port) = ('{primary.host}', {primary.port})"
        receiver = f"FROM pg_stat_wal_receiver WHERE status = 'streaming' AND {sender}"
        self._wait_true(
            f"pg_is_wal_replay_paused() OR EXISTS (SELECT {receiver})", timeout, f"stream from {primary.name}"
        )

    def wait_following(self, primary: Node, *, timeout: float = 30.0) -> bool:
        """Wait until this standby streams from a newly promoted primary; return False if it never will.

        It never will if it has received more WAL of the old primary than the new one had. A running old primary keeps
        sending WAL, so this cannot be known before the promotion. A standby with paused replay is not waited for, as in
        `wait_streaming`.

        Args:
            primary: the promoted node.
            timeout: seconds.
        """
        current, history = timeline_history(primary)
        fork = history.splitlines()[-1].split("\t")[1]
        timeline = int(current, 16)
        sender = f"(sender_host, sender_port, received_tli) = ('{primary.host}', {primary.port}, {timeline})"
        streams = f"EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming' AND {sender})"
        # Either position may be behind: WAL can be received but not replayed, or replayed from a file.
        ahead = f"greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) > '{fork}'"
        self._wait_true(
            f"pg_is_wal_replay_paused() OR {streams} OR {ahead}", timeout, f"stream from {primary.name}"
        )
        [(follows,)] = self.execute(f"SELECT {streams} OR NOT {ahead}", timeout=timeout)
        return bool(follows)

    def rejoin(self, primary: Node | None = None, *, timeout: float = 60.0) -> None:
        """Become a standby of a primary, from any state of this server.

        Stops the server (kills it if frozen), rewinds it with pg_rewind, or copies the primary with pg_basebackup if
        that fails, starts it, and returns once it streams.

        Args:
            primary: the primary to follow; None: the current one of the cluster.
            timeout: seconds for each step.
        """
        primary = self._find_primary() if primary is None else primary
        if primary is self:
            raise ClusterError(f"{self.name} cannot be a standby of itself")
        if self.frozen:
            self.kill()
        self.stop(timeout=timeout)
        self._end()
        # Before PostgreSQL 16 pg_rewind reads the timeline from the control file, which a checkpoint updates.
        primary.execute("CHECKPOINT", timeout=timeout)
        try:
            if self._is_rival(primary):
                raise ClusterError("both were promoted to the same timeline, which pg_rewind does not detect")
            self._rewind(primary, timeout=timeout)
            self.configure_standby(primary)
            self.start(timeout=timeout)
            self.wait_streaming(primary, timeout=10.0)
        except ClusterError as error:
            if not primary.running:
                raise
            with self.log_path.open("a") as log:
                log.write(f"pgroute: copying {primary.name} with pg_basebackup, because: {error}\n")
            self._copy_from(primary, timeout=timeout)

    def configure_standby(self, primary: Node) -> None:
        """Write the files that make this stopped server a standby of `primary`."""
        folder, settings = self.data_dir, "postgresql.auto.conf"
        with contextlib.suppress(FileExistsError):
            files.create(folder, STANDBY_SIGNAL, self._sandbox.owner)
        lines = files.read_text(folder, settings).splitlines()
        kept = [line for line in lines if not line.startswith("primary_conninfo")]
        files.write(
            folder, settings, "\n".join([*kept, f"primary_conninfo = {quoted(self._source(primary))}", ""])
        )

    def _rewind(self, primary: Node, *, timeout: float) -> None:
        options = ["--no-sync", "--source-server", primary.tool_conninfo]
        output = self._sandbox.run("pg_rewind", "-D", self.data_dir, *options, timeout=timeout)
        if "no rewind required" in output:
            _, history = timeline_history(primary)
            [(size,)] = primary.execute("SELECT pg_size_bytes(current_setting('wal_segment_size'))")
            clear_tail(self.data_dir, history, size)

    def _is_rival(self, primary: Node) -> bool:
        """Whether this stopped server was a primary on the same timeline as the other one."""
        if self.has_standby_signal:
            return False
        [(current,)] = primary.execute("SELECT pg_walfile_name(pg_current_wal_lsn())")
        names = (path.name for path in (self.data_dir / "pg_wal").iterdir())
        last = max((name[:8] for name in names if _WAL_FILE.fullmatch(name)), default="")
        return bool(last == current[:8])

    def _copy_from(self, primary: Node, *, timeout: float) -> None:
        self._end()
        shutil.rmtree(self.data_dir)
        self._sandbox.make_folder(self.data_dir)
        options = ["--checkpoint=fast", "--no-sync", "--wal-method=stream"]
        source = ["-d", primary.tool_conninfo]
        self._sandbox.run("pg_basebackup", "-D", self.data_dir, *options, *source, timeout=timeout)
        self.configure_standby(primary)
        self.start(timeout=timeout)
        self.wait_streaming(primary, timeout=timeout)

    def _source(self, primary: Node) -> str:
        """The value of primary_conninfo; application_name is what synchronous_standby_names looks for."""
        return conninfo(
            host=primary.host,
            port=primary.port,
            user=USER,
            passfile=str(self.passfile),
            application_name=self.name,
            sslmode="disable",
            gssencmode="disable",
        )


def timeline_history(primary: Node) -> tuple[str, str]:
    """Return a primary's timeline, as in the names of its files, and its history file; "" if it was never promoted."""
    [(current,)] = primary.execute("SELECT pg_walfile_name(pg_current_wal_lsn())")
    timeline = str(current)[:8]
    try:
        return timeline, files.read_text(primary.data_dir, f"pg_wal/{timeline}.history")
    except FileNotFoundError:
        return timeline, ""
