"""A primary and its standbys on this machine, made in a second and gone without a trace."""

from __future__ import annotations

import time
import weakref
from typing import TYPE_CHECKING

from . import files
from .binaries import find_server
from .errors import ClusterError, ClusterTimeout
from .initdb import make_files
from .node import Node
from .password import ITERATIONS, RULES, check_password, file_content, for_uri, make_password, make_verifier
from .ports import same_port
from .sandbox import Sandbox
from .server import POLL, USER, quoted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from .binaries import ServerBinaries

SETTINGS = {
    "fsync": "off",  # only the operating system's crash could tell
    "shared_buffers": "16MB",
    "max_connections": "60",
    "wal_level": "replica",
    "max_wal_senders": "10",
    "max_replication_slots": "10",
    "wal_keep_size": "256MB",
    "wal_log_hints": "on",
    "wal_init_zero": "off",  # a promotion begins a file of WAL on each node
    "hot_standby": "on",
    "wal_retrieve_retry_interval": "100ms",  # promotion and re-pointing wait this long: the default is 5 s
    "wal_receiver_status_interval": "1s",
    "dynamic_shared_memory_type": "mmap",  # in the data directory: SIGKILL leaves nothing in /dev/shm
    "log_line_prefix": "%m [%p] %b ",
}
START_ATTEMPTS = 3
WAL_FILE = "SELECT CASE WHEN NOT pg_is_in_recovery() THEN pg_walfile_name(pg_current_wal_lsn()) END"


class LocalCluster:
    """A primary and its streaming standbys on 127.0.0.1, as a context manager or with start() and stop().

    The superuser ``postgres`` has a password of this cluster's own, since all users of this machine reach the ports.
    What leads to the servers (`dsn`, `Node.conninfo`, `FaultProxy.dsn`) names a file with it. The file says it for any
    role: ``CREATE ROLE app LOGIN PASSWORD '{cluster.password}'``. Servers run as another user if we are root.
    Nothing is left when the block ends in whatever way, when the object is collected, and when this process
    dies.

    Args:
        standbys: how many.
        version: which PostgreSQL (16, "16", "16.14"); None: the newest found.
        synchronous: a commit waits for one standby, on whichever node is the primary.
        settings: configuration parameters of every node, over our defaults.
        dbname: the database in the DSN, made if need be.
        addresses: of loopback, one for each node ("127.0.0.2", "127.0.0.3", ...), all with one port then, as hosts
            behind a name have; `standbys` follows from them. Linux.
        password: of the superuser, None for a random one; clusters that share a DSN need the same.
        timeout: seconds for each step of the start.

    Attributes:
        server: the PostgreSQL that it runs.
        dbname: as given.
        password: the superuser's.

    Raises:
        ServerNotFound: there is no such PostgreSQL.
        ValueError: options that make no sense.
    """

    def __init__(
        self,
        standbys: int = 2,
        *,
        version: str | int | None = None,
        synchronous: bool = False,
        settings: Mapping[str, str] | None = None,
        dbname: str = "postgres",
        addresses: Sequence[str] = (),
        password: str | None = None,
        timeout: float = 60.0,
    ) -> None:
        if addresses:
            standbys = len(addresses) - 1
        if standbys < 0 or (synchronous and standbys == 0):
            raise ValueError(f"standbys must be at least {int(synchronous)}, not {standbys}")
        if not dbname.isidentifier() or not dbname.isascii():
            raise ValueError(f"dbname must be a plain name, not {dbname!r}")
        self.server: ServerBinaries = find_server(version)
        self.dbname = dbname
        self.password: str = make_password() if password is None else password
        check_password(self.password)
        self._count = 1 + standbys
        self._settings = dict(SETTINGS)
        if synchronous:
            names = ", ".join(f'"{self._name(index)}"' for index in range(self._count))
            self._settings["synchronous_standby_names"] = f"ANY 1 ({names})"
        if self.server.major >= 16:
            self._settings["scram_iterations"] = str(ITERATIONS)  # of the passwords that tests give to roles
        self._settings |= settings or {}
        self._addresses = tuple(addresses)
        self._timeout = timeout
        self._nodes: tuple[Node, ...] = ()
        self._sandbox: Sandbox | None = None
        self._safety_net: weakref.finalize[..., LocalCluster] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def nodes(self) -> tuple[Node, ...]:
        """All nodes, in the order of the DSN; the first one began as the primary. Empty unless started."""
        return self._nodes

    @property
    def dsn(self) -> str:
        """A libpq URI that lists all nodes, with the file of the password.

        Raises:
            ClusterError: the cluster is not started.
        """
        if not self._nodes:
            raise ClusterError("the cluster is not started")
        hosts = ",".join(f"{node.host}:{node.port}" for node in self._nodes)
        return f"postgresql://{USER}@{hosts}/{self.dbname}{for_uri(self.passfile)}"

    @property
    def passfile(self) -> Path:
        """The file with the password, which only the servers' user may read (and root).

        Raises:
            ClusterError: the cluster is not started.
        """
        if not self._nodes:
            raise ClusterError("the cluster is not started")
        return self._nodes[0].passfile

    @property
    def primary(self) -> Node:
        """The node that is not in recovery, by asking all that run and might be it; of several, the one on the
        highest timeline.

        Frozen nodes cannot be asked.

        Raises:
            ClusterError: there is none.
        """
        return self._highest(self._timelines([node for node in self._nodes if not node.has_standby_signal]))

    @property
    def standbys(self) -> tuple[Node, ...]:
        """The nodes that answer and are in recovery, in the order of the DSN."""
        return tuple(node for node, timeline in self._timelines(self._nodes).items() if timeline is None)

    def start(self) -> None:
        """Make and start the nodes; return when every standby streams.

        Raises:
            ClusterError: it is started already, or a server failed; the message then has the end of its log.
        """
        if self._sandbox is not None:
            raise ClusterError("the cluster is started already")
        self._sandbox = sandbox = Sandbox(self.server)
        self._safety_net = weakref.finalize(self, sandbox.close)
        try:
            passfile = sandbox.make_file("passfile", file_content(self.password))
            me = weakref.ref(self)  # nodes must not keep the cluster alive
            places = zip(self._addresses, same_port(self._addresses), strict=True) if self._addresses else ()
            self._nodes = tuple(
                Node(
                    self._name(index),
                    sandbox,
                    dbname=self.dbname,
                    passfile=passfile,
                    find_primary=lambda: _primary_of(me()),
                    at=at,
                )
                for index, at in enumerate([*places] or [None] * self._count)
            )
            self._start_nodes(sandbox)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End all processes, frozen ones too, and remove all files. Idempotent."""
        if self._sandbox is not None:
            self._sandbox.close()
        if self._safety_net is not None:
            self._safety_net.detach()
        self._sandbox, self._nodes = None, ()

    def promote(self, node: Node | None = None, *, repoint: bool = True, timeout: float = 30.0) -> Node:
        """Promote a standby and return it when it accepts writes.

        An old primary is left alone: for a switchover stop it first, for a split brain do not.

        Args:
            node: which one; None: the standby that has received most.
            repoint: have the other running standbys stream from it; one that had received more is rewound.
            timeout: seconds for each step.

        Raises:
            ClusterError: there is no standby, or a server failed.
            ClusterTimeout: a step took too long.
        """
        received = {standby: self._received(standby) for standby in self.standbys}
        if node is None and not received:
            raise ClusterError(f"no standby to promote: {self._nodes}")
        chosen = max(received, key=lambda standby: received[standby]) if node is None else node
        chosen.promote(timeout=timeout)
        if repoint:
            others = [standby for standby in received if standby is not chosen]
            for standby in others:
                standby.follow(chosen, wait=False)
            for standby in others:
                if not standby.wait_following(chosen, timeout=timeout):
                    standby.rejoin(chosen, timeout=timeout)
        return chosen

    def catch_up(self, *, timeout: float = 30.0) -> None:
        """Return when every standby that answers has replayed all that the primary has written until now.

        Args:
            timeout: seconds.

        Raises:
            ClusterError: there is no primary.
            ClusterTimeout: one did not in that time.
        """
        timelines = self._timelines(self._nodes)
        [(target,)] = self._highest(timelines).execute("SELECT pg_current_wal_lsn()::text")
        deadline = time.monotonic() + timeout
        for node in (node for node, timeline in timelines.items() if timeline is None):
            while not node.execute(f"SELECT pg_last_wal_replay_lsn() >= '{target}'")[0][0]:
                if time.monotonic() > deadline:
                    raise ClusterTimeout(f"{node.name} did not replay {target} within {timeout} s")
                time.sleep(POLL)

    @staticmethod
    def _name(index: int) -> str:
        return f"node{index + 1}"

    def _start_nodes(self, sandbox: Sandbox) -> None:
        primary, *standbys = self._nodes
        self._make_files(sandbox, primary)
        for standby in standbys:  # copies of a cleanly stopped server: no base backup needed
            sandbox.copy(primary.data_dir, standby.data_dir, timeout=self._timeout)
        self._start_one(primary)
        for standby in standbys:
            standby.configure_standby(primary)
            standby.start(wait=False)
        for standby in standbys:
            self._start_one(standby)
        for standby in standbys:
            standby.wait_streaming(primary, timeout=self._timeout)

    def _make_files(self, sandbox: Sandbox, node: Node) -> None:
        make_files(self.server, sandbox, node.data_dir, self._timeout)
        files.append(
            node.data_dir,
            "postgresql.conf",
            "".join(f"{name} = {quoted(value)}\n" for name, value in self._settings.items()),
        )
        files.write(node.data_dir, "pg_hba.conf", RULES)
        # One start alone records max_connections and its like, which a standby compares, in the control file.
        statements = f"ALTER ROLE {USER} PASSWORD '{make_verifier(self.password)}'\n"
        if self.dbname not in ("postgres", "template1"):
            statements += f'CREATE DATABASE "{self.dbname}"\n'
        options = ["-c", "synchronous_standby_names=", "postgres"]
        sandbox.run(
            "postgres", "--single", "-D", node.data_dir, *options, stdin=statements, timeout=self._timeout
        )

    def _start_one(self, node: Node) -> None:
        """Start a node (or wait for it); with another port if somebody took the one it had."""
        for attempt in range(1, START_ATTEMPTS + 1):
            try:
                if not node.running:
                    node.start(wait=False)
                node.wait_ready(timeout=self._timeout)
            except ClusterError:
                if attempt == START_ATTEMPTS or "Address already in use" not in node.log():
                    raise
                node.kill()
                node.take_port()
            else:
                return

    def _highest(self, timelines: Mapping[Node, int | None]) -> Node:
        primaries = {node: timeline for node, timeline in timelines.items() if timeline is not None}
        if not primaries:
            raise ClusterError(f"no node is a primary: {self._nodes}")
        return max(primaries, key=lambda node: primaries[node])

    @staticmethod
    def _timelines(nodes: Iterable[Node]) -> dict[Node, int | None]:
        """The timeline of each of these nodes that answers, None for one in recovery."""
        import psycopg

        timelines: dict[Node, int | None] = {}
        for node in nodes:
            if node.running and not node.frozen:
                try:
                    [(wal_file,)] = node.execute(WAL_FILE)
                except (psycopg.OperationalError, ClusterError):  # starting, stopping or just gone
                    continue
                timelines[node] = None if wal_file is None else int(wal_file[:8], 16)
        return timelines

    @staticmethod
    def _received(standby: Node) -> int:
        [(position,)] = standby.execute(
            "SELECT greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) - '0/0'::pg_lsn"
        )
        return int(position or 0)


def _primary_of(cluster: LocalCluster | None) -> Node:
    if cluster is None:
        raise ClusterError("the cluster is gone")
    return cluster.primary
