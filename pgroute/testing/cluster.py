"""A primary and its standbys on this machine, which start in a second and leave nothing behind."""

from __future__ import annotations

import time
import weakref
from typing import TYPE_CHECKING

from .binaries import find_server
from .cluster_arguments import (
    check_addresses,
    check_dbname,
    check_settings,
    check_standbys,
    check_timeout,
    check_version,
)
from .environment import uri
from .errors import ClusterError, ClusterTimeout
from .initdb import SETTINGS, make_files
from .node import Node
from .password import ITERATIONS, check_password, file_content, make_password
from .ports import same_port
from .sandbox import Sandbox
from .server import POLL, USER

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from .binaries import ServerBinaries

START_ATTEMPTS = 3
WAL_FILE = "SELECT CASE WHEN NOT pg_is_in_recovery() THEN pg_walfile_name(pg_current_wal_lsn()) END"


class LocalCluster:
    """A primary and its streaming standbys on 127.0.0.1, as a context manager or with start() and stop().

    *addresses* are loopback addresses ("127.0.0.2", "127.0.0.3", ...), one for each node. The nodes then share one
    port, like hosts behind one name. They determine `standbys`. Linux only.

    Each cluster has its own password, because all users of this machine can reach its ports. `dsn`, `Node.conninfo`
    and `FaultProxy.dsn` name a password file, which serves the superuser ``postgres`` and any role with that password:
    ``CREATE ROLE app LOGIN PASSWORD '{cluster.password}'``. Started by root, the servers run as another user.
    All processes and files are removed when the block ends, when the object is garbage collected, and when this process
    dies.

    Args:
        standbys: number of standbys.
        version: the PostgreSQL version (16, "16", "16.14"); None: the newest found.
        synchronous: True makes each commit wait for one standby, whichever node is the primary.
        settings: configuration parameters of every node, which override the defaults of LocalCluster.
        dbname: the database in the DSN; it is created if it does not exist.
        addresses: loopback addresses, one for each node, in place of *standbys*; Linux only.
        password: the superuser's password; None: a random one. Clusters that share a DSN need the same.
        timeout: seconds for each step of the start.

    Attributes:
        server: the PostgreSQL installation in use.
        dbname: as given.
        password: the superuser's password.

    Raises:
        ServerNotFound: no such PostgreSQL is installed.
        ValueError: an option is invalid.
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
        check_addresses(addresses)
        if addresses:
            standbys = len(addresses) - 1
        check_standbys(standbys, synchronous=synchronous)
        check_dbname(dbname)
        check_settings(settings)
        check_timeout(timeout)
        check_version(version)
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
        """All nodes, in the order of the DSN; the first one starts as the primary. Empty before start()."""
        return self._nodes

    @property
    def dsn(self) -> str:
        """A libpq URI that lists all nodes and names the password file.

        Where a `PG*` variable of now would change where or how it connects, such as PGSSLMODE, it has libpq's default.
        Add what you want otherwise: ``Router(cluster.dsn, sslmode="require")``.

        Raises:
            ClusterError: the cluster is not started.
        """
        if not self._nodes:
            raise ClusterError("the cluster is not started")
        hosts = ",".join(f"{node.host}:{node.port}" for node in self._nodes)
        return uri(USER, hosts, self.dbname, self.passfile)

    @property
    def passfile(self) -> Path:
        """The password file, readable by the servers' user and root only.

        Raises:
            ClusterError: the cluster is not started.
        """
        if not self._nodes:
            raise ClusterError("the cluster is not started")
        return self._nodes[0].passfile

    @property
    def primary(self) -> Node:
        """The running node that is not in recovery; of several, the one on the highest timeline.

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
        """Create and start the nodes; return once every standby streams.

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
        """End all processes, including frozen ones, and remove all files. Idempotent."""
        if self._sandbox is not None:
            self._sandbox.close()
        if self._safety_net is not None:
            self._safety_net.detach()
        self._sandbox, self._nodes = None, ()

    def promote(self, node: Node | None = None, *, repoint: bool = True, timeout: float = 30.0) -> Node:
        """Promote a standby; return it once it accepts writes.

        The old primary is left alone: stop it first for a switchover, leave it running for a split brain.

        Args:
            node: the standby to promote; None: the one that has received most WAL.
            repoint: True makes the other running standbys follow it; one that has received more is rewound.
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
        """Return once every standby that answers has replayed all WAL that the primary has written so far.

        Args:
            timeout: seconds.

        Raises:
            ClusterError: there is no primary.
            ClusterTimeout: a standby did not catch up in that time.
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
        make_files(
            self.server,
            sandbox,
            primary.data_dir,
            settings=self._settings,
            password=self.password,
            dbname=self.dbname,
            timeout=self._timeout,
        )
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

    def _start_one(self, node: Node) -> None:
        """Start a node, or wait for it; give it another port if its port was taken."""
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
        """The timelines of the nodes that answer; None for a node in recovery."""
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
