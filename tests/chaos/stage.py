"""Where the faults play: the cluster, who is the primary, how another one is made so that nothing acknowledged is lost.

The zero-loss condition, with synchronous replication: from before the promoted standby is chosen, no standby
receives anything from the old primary, so nothing is acknowledged after the choice that the chosen one does not have.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterator, Mapping

import psycopg

from pgroute.testing import ClusterError, FaultProxy, LocalCluster, Node
from tests.chaos.check import Row
from tests.chaos.crew import Crew
from tests.chaos.worker import TIMELINE

USER = "app"
SETUP = (
    f"CREATE ROLE {USER} LOGIN PASSWORD '{{password}}'",
    # No unique constraint: a row written twice must be seen, not refused.
    f"""
    CREATE TABLE chaos (
        id bigint NOT NULL,
        port int NOT NULL DEFAULT inet_server_port(),
        timeline int NOT NULL DEFAULT {TIMELINE},
        txid xid8 NOT NULL DEFAULT pg_current_xact_id()
    )
    """,
    "CREATE INDEX ON chaos (id)",
    f"GRANT SELECT, INSERT ON chaos TO {USER}",
)
ROWS = "SELECT id, port, timeline FROM chaos"
RECEIVED = "SELECT greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) - '0/0'::pg_lsn"
WORKERS = f"usename = '{USER}' AND application_name <> 'pressure'"
TIMEOUT = 30.0
_POLL = 0.02
_QUIET = 0.15


class Stage:
    """What a fault acts on.

    Args:
        cluster: started, its first node the primary.
        proxies: what the workers see of each node.
        crew: the workers.
        say: told what is done, one line each.
    """

    def __init__(
        self,
        cluster: LocalCluster,
        proxies: Mapping[Node, FaultProxy],
        crew: Crew,
        say: Callable[[str], None],
    ) -> None:
        self.cluster = cluster
        self.crew = crew
        self._proxies = proxies
        self.say = say
        self.primary: Node = cluster.nodes[0]
        self.timeline = self._timeline(self.primary)
        self._former = 0
        self.left_behind: list[Row] = []
        self.over = threading.Event()

    @property
    def standbys(self) -> tuple[Node, ...]:
        """All nodes but the primary, in the order of the DSN."""
        return tuple(node for node in self.cluster.nodes if node is not self.primary)

    def nodes(self, target: str) -> tuple[Node, ...]:
        """Return the nodes that a fault names: "primary", "standby 1", "standbys", "all"."""
        name, _, number = target.partition(" ")
        if number:
            return (self.standbys[int(number) - 1],)
        return {"primary": (self.primary,), "standbys": self.standbys, "all": self.cluster.nodes}[name]

    def pause(self, seconds: float) -> None:
        """Let time pass, unless the run is over."""
        self.over.wait(seconds)

    def hold_back(self, *nodes: Node) -> None:
        """Have some standbys receive nothing any more: what the primary commits from now on they do not have."""
        for node in nodes:
            node.execute("ALTER SYSTEM SET primary_conninfo TO ''")
            node.execute("SELECT pg_reload_conf()")
        for node in nodes:
            _until(functools.partial(_quiet, node), f"{node.name} did not stop receiving")

    def fail_over(self, *, after: float = 0.0) -> Node:
        """Promote the standby that has received most, and return the old primary, in whatever state it is.

        The other standby follows the new one from before the promotion, so that commits are acknowledged at once.

        Args:
            after: seconds from now to the promotion, at least.
        """
        since = time.monotonic()
        old, standbys = self.primary, self.standbys
        self.hold_back(*standbys)
        received = {node: int(node.execute(RECEIVED)[0][0]) for node in standbys}
        new = max(standbys, key=lambda node: received[node])
        for node in standbys:
            if node is not new:
                node.follow(new, wait=False)
        self.pause(since + after - time.monotonic())
        self.say(f"promoting {new.name}, {time.monotonic() - since:.2f} s later")
        new.promote(timeout=TIMEOUT)
        self._former, self.primary = self.timeline, new
        self.timeline = self._timeline(new)
        return old

    def take_back(self, old: Node) -> None:
        """Make the deposed primary a standby, after a look at what it had and the new one has not."""
        if old.frozen:
            old.kill()
        old.stop("fast", timeout=TIMEOUT)
        self._look_behind(old)
        old.rejoin(self.primary)
        self.settle()

    def settle(self) -> None:
        """Return when every standby streams from the primary."""
        for node in self.standbys:
            node.wait_streaming(self.primary, timeout=TIMEOUT)

    def rows(self) -> list[Row]:
        """Return what the primary has."""
        return [Row(*row) for row in self.primary.execute(ROWS)]

    def terminate(self, node: Node, share: float | None = None) -> None:
        """End the workers' sessions at a node, all, or the one at a place from 0 to 1; nothing if it is away."""
        pids = f"SELECT array_agg(pid ORDER BY pid) AS pids FROM pg_stat_activity WHERE {WORKERS}"
        which = "unnest(pids)" if share is None else f"pids[1 + floor({share} * cardinality(pids))::int]"
        with contextlib.suppress(psycopg.Error, ClusterError):
            node.execute(f"SELECT pg_terminate_backend({which}) FROM ({pids}) p", timeout=2.0)

    def limit_connections(self, number: int) -> None:
        """Let the workers' role have so many connections, -1 for any number."""
        self.primary.execute(f"ALTER ROLE {USER} CONNECTION LIMIT {number}")

    def allow_login(self, *, allowed: bool) -> None:
        """Let the workers' role log in, or not."""
        self.primary.execute(f"ALTER ROLE {USER} {'LOGIN' if allowed else 'NOLOGIN'}")

    def conninfo(self, node: Node) -> str:
        """Return what leads the workers' role to a node, past its proxy."""
        return f"{node.conninfo} user={USER}"

    @contextlib.contextmanager
    def faulty(self, target: str) -> Iterator[tuple[FaultProxy, ...]]:
        """Give the proxies in front of the nodes that a fault names, and clear their faults afterwards."""
        proxies = tuple(self._proxies[node] for node in self.nodes(target))
        try:
            yield proxies
        finally:
            for proxy in proxies:
                proxy.clear_faults()

    def _look_behind(self, old: Node) -> None:
        """Read what a stopped server committed on its last timeline and its successor has not, without a network."""
        path = old.data_dir / "chaos.rows"
        sandbox = old._sandbox
        sql = f"COPY (SELECT id, port, timeline FROM chaos WHERE timeline = {self._former}) TO '{path}'\n"
        options = ["-c", "synchronous_standby_names=", "-c", "default_transaction_read_only=off", old.dbname]
        said = sandbox.run("postgres", "--single", "-D", old.data_dir, *options, stdin=sql, timeout=TIMEOUT)
        if not path.exists():
            raise ClusterError(f"{old.name} did not tell its rows:\n{said}")
        had = [Row(*map(int, line.split())) for line in path.read_text().splitlines()]
        path.unlink()
        have = {
            id_ for (id_,) in self.primary.execute(f"SELECT id FROM chaos WHERE timeline = {self._former}")
        }
        behind = [row for row in had if row.id not in have]
        self.left_behind += behind
        if behind:
            self.say(f"{old.name} had {len(behind)} rows that {self.primary.name} has not")

    @staticmethod
    def _timeline(node: Node) -> int:
        return int(node.execute(f"SELECT {TIMELINE}")[0][0])


def _quiet(node: Node) -> bool:
    """Whether a standby receives nothing, told twice: a receiver that ends by itself is started again."""
    look = "SELECT count(*) FROM pg_stat_wal_receiver"
    if node.execute(look)[0][0]:
        return False
    time.sleep(_QUIET)
    return not node.execute(look)[0][0]


def _until(condition: Callable[[], bool], otherwise: str) -> None:
    until = time.monotonic() + TIMEOUT
    while not condition():
        if time.monotonic() > until:
            raise ClusterError(f"{otherwise} within {TIMEOUT:g} s")
        time.sleep(_POLL)
