"""One node of a local cluster: a server that is promoted, follows a primary and rejoins it."""

from __future__ import annotations

import contextlib
import re
import shutil
from typing import TYPE_CHECKING

from . import files
from .errors import ClusterError
from .server import USER, Server, quoted
from .surroundings import conninfo

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .ports import Port
    from .sandbox import Sandbox

STANDBY_SIGNAL = "standby.signal"
_WAL_FILE = re.compile(r"[0-9A-F]{24}")


class Node(Server):
    """A server of a `LocalCluster`, which makes them.

    Every method that waits raises ClusterTimeout in the end, and ClusterError when the server dies meanwhile,
    both with the tail of the server's log.

    Attributes:
        name: "node1", "node2", ...: also its cluster_name, and the application_name of its replication.
        host: 127.0.0.1.
        port: its TCP port, the same through all restarts.
        dbname: the cluster's.
        passfile: the file with the password, which only the servers' user may read (and root).
        data_dir: the folder of its data.
        log_path: the file of its log.
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
        """Whether its files say that it is a standby: PostgreSQL removes that one before a promotion ends recovery."""
        return (self.data_dir / STANDBY_SIGNAL).exists()

    def promote(self, *, wait: bool = True, timeout: float = 30.0) -> None:
        """Make this standby a primary. `LocalCluster.promote` does more.

        Args:
            wait: return when it accepts writes.
            timeout: seconds for that.
        """
        self.execute("SELECT pg_catalog.pg_promote(false)", timeout=timeout)
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
        self.execute(f"ALTER SYSTEM SET primary_conninfo TO {quoted(self._source(primary))}")
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

    def wait_following(self, primary: Node, *, timeout: float = 30.0) -> bool:
        """Return when this standby, pointed at a primary just promoted, streams from there: True; False if it never
        will, having more of the old primary's WAL than the new one had.

        An old primary that is still at work goes on sending until then, so nothing that was known before the promotion
        tells. A standby with paused replay is not waited for, as in `wait_streaming`.

        Args:
            primary: which one.
            timeout: seconds.
        """
        [(current,)] = primary.execute("SELECT pg_walfile_name(pg_current_wal_lsn())")
        history = files.read_text(primary.data_dir, f"pg_wal/{current[:8]}.history").splitlines()
        fork = history[-1].split("\t")[1]
        timeline = int(current[:8], 16)
        sender = f"(sender_host, sender_port, received_tli) = ('{primary.host}', {primary.port}, {timeline})"
        streams = f"EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming' AND {sender})"
        # Each position alone, as one may stay behind: WAL can be received and not applied, or found in a file.
        ahead = f"greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) > '{fork}'"
        self._wait_true(
            f"pg_is_wal_replay_paused() OR {streams} OR {ahead}", timeout, f"stream from {primary.name}"
        )
        [(follows,)] = self.execute(f"SELECT {streams} OR NOT {ahead}", timeout=timeout)
        return bool(follows)

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
            options = ["--no-sync", "--source-server", primary.tool_conninfo]
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
        folder, settings = self.data_dir, "postgresql.auto.conf"
        with contextlib.suppress(FileExistsError):
            files.create(folder, STANDBY_SIGNAL, self._sandbox.owner)
        lines = files.read_text(folder, settings).splitlines()
        kept = [line for line in lines if not line.startswith("primary_conninfo")]
        files.write(
            folder, settings, "\n".join([*kept, f"primary_conninfo = {quoted(self._source(primary))}", ""])
        )

    def _is_rival(self, primary: Node) -> bool:
        """Whether this stopped server was a primary, and on the timeline of the other one."""
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
