"""A transaction-mode pgbouncer in front of each of three servers: either goes while the other stays."""

from __future__ import annotations

import contextlib
import functools
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgroute import CommitUnknown, HostState, NoHostAvailable, PoolOptions, Router
from pgroute.testing import FaultProxy
from tests.chaos.account import Style
from tests.chaos.journal import Ended, Read, writer_of
from tests.docker.conftest import ports_free, project, put_application
from tests.docker.containers import docker, until
from tests.docker.load import UNDER_WAY, Figures, Load, judge
from tests.docker.pooled_worker import OPTIONS
from tests.docker.primary_replica import NODES, Cluster
from tests.support import Background

BOUNCERS = tuple(f"bouncer{number}:6432" for number in (1, 2, 3))
POOL_SIZE = 20
READERS = 4
"""How many readers a load has: no more sessions than that are in flight at a standby."""


class Pooled(Cluster):
    """The nodes and the bouncers in front of them."""

    def bouncer(self, node: str) -> str:
        """Return the service in front of a node."""
        return node.replace("db", "bouncer")

    def port(self, node: str) -> int:
        """Return where a node's bouncer is on this machine; after it was started again it is elsewhere."""
        return int(docker("port", self.id(self.bouncer(node)), "6432").split(":")[-1])

    def dsn(self, *ports: int, user: str = "app_watch") -> str:
        """Return what leads to bouncers from this machine."""
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        return f"postgresql://{user}:{self.password}@{hosts}/app"

    def connect(self, node: str, **options: Any) -> psycopg.Connection[Any]:
        """Connect to a node through its bouncer, without pgroute."""
        dsn = self.dsn(self.port(node), user="app")
        return psycopg.connect(dsn, connect_timeout=5, **options)

    def answers(self, node: str) -> bool:
        """Whether a bouncer leads to its node."""
        try:
            with self.connect(node) as conn:
                conn.execute("SELECT")
        except psycopg.Error:
            return False
        return True

    def promote(self, node: str = "") -> str:
        """Promote the standby that has most, once none receives anything more; the old primary must have ended."""
        for name in NODES:
            if self.state(name) == "running":
                until(functools.partial(self._receives_nothing, name), f"{name} receives nothing more")
        return super().promote(node)

    def _receives_nothing(self, node: str) -> bool:
        look = "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'"
        return self.sql(node, look) == [["0"]]


@pytest.fixture(scope="module")
def started(compose_command: str, images: None) -> Iterator[Pooled]:
    ports = ports_free("DB1", "DB2", "DB3", "BOUNCER1", "BOUNCER2", "BOUNCER3")
    environment = {"PGROUTE_SYNCHRONOUS": "on", "PGROUTE_POOL_SIZE": str(POOL_SIZE), **ports}
    with project(
        compose_command, "pgbouncer", "primary-replica", "pgbouncer", environment=environment
    ) as containers:
        cluster = Pooled(containers.project)
        primary = cluster.whole()
        for role in ("app_watch", "app_reader"):
            cluster.sql(primary, f"CREATE ROLE {role} LOGIN PASSWORD '{cluster.password}'")
        cluster.sql(primary, "SET ROLE app; CREATE TABLE note (text text)")
        put_application(cluster, primary, ",".join(BOUNCERS), "app")
        yield cluster


@pytest.fixture
def cluster(started: Pooled) -> Pooled:
    primary = started.whole()
    until(lambda: all(map(started.answers, NODES)), "every bouncer leads to its node")
    started.sql(primary, "TRUNCATE chaos, probe, note, pgroute.once")
    return started


def pooled_load(cluster: Pooled, folder: Path, probe: tuple[str, ...] = NODES) -> Load:
    """Return a load through the bouncers; the prober goes past them unless they are what it asks."""
    dsn = f"postgresql://app_watch:{cluster.password}@{','.join(BOUNCERS)}/app"
    return Load(cluster, BOUNCERS, folder, dsn=dsn, probe=probe, module="tests.docker.pooled_worker")


def routed(dsn: str, **options: Any) -> Router[Any]:
    """Return a router with the options that a transaction pooler asks for."""
    return Router(dsn, **{**OPTIONS, **options})


def settle(
    load: Load,
    fault: str,
    record: list[Figures],
    *,
    at: float | None = None,
    host: str | None = None,
    since: float | None = None,
    outage: float = 0.0,
    rejoin: str = "",
) -> list[Ended]:
    """End a load, check and note what came of it, and return what writers were told that were patient enough.

    A COMMIT whose answer was lost is settled by its key; without a key its writer is told that nobody knows. Who gives
    up before the outage is over may be told anything that is true.
    """
    cluster = load.containers
    assert isinstance(cluster, Pooled)
    load.recovered()
    if at is not None:
        outage = time.monotonic() - at
    if rejoin:
        cluster.rejoin(rejoin)
        load.recovered()
    load.end()
    history = load.history(cluster.whole())
    judge(history)
    record += load.figures(f"pgbouncer: {fault}", history, at=at, host=host, since=since)
    told = [end for end in history.ended.values() if end.error]
    patient = [end for end in told if Style.of(writer_of(end.id)[1]).timeout > outage]
    assert {end.error for end in patient} <= {"pgroute.CommitUnknown"}
    assert not [end for end in patient if writer_of(end.id)[1] % 2], "a writer with a key was told so"
    return patient


def read_errors(load: Load) -> list[str]:
    """Return what readers were told."""
    load.crew.follow()
    return [read.error for read in load.crew.records if isinstance(read, Read) and read.error]


def test_the_primary_is_killed(cluster: Pooled, tmp_path: Path, record: list[Figures]) -> None:
    old = cluster.primary()
    with pooled_load(cluster, tmp_path) as load:
        at = time.monotonic()
        cluster.kill(old)
        new = cluster.promote()
        seen = load.primary_since(at)
        assert seen.host == new
        settle(load, "crash", record, at=at, host=new, since=seen.at, rejoin=old)


@pytest.mark.long
def test_switchover(cluster: Pooled, tmp_path: Path, record: list[Figures]) -> None:
    old = cluster.primary()
    with pooled_load(cluster, tmp_path) as load:
        at = time.monotonic()
        cluster.stop(old)
        new = cluster.promote()
        seen = load.primary_since(at)
        assert seen.host == new
        settle(load, "switchover", record, at=at, host=new, since=seen.at, rejoin=old)


def test_the_primarys_bouncer_is_killed(cluster: Pooled, tmp_path: Path, record: list[Figures]) -> None:
    """Its server lives and nobody is promoted: writers wait for the bouncer."""
    primary = cluster.primary()
    bouncer = cluster.bouncer(primary)
    with pooled_load(cluster, tmp_path, BOUNCERS) as load:
        at = time.monotonic()
        cluster.kill(bouncer)
        killed = time.monotonic()
        until(lambda: load.reads(killed) > 50, "readers go on")
        assert not load.acknowledged(killed + UNDER_WAY)
        cluster.start(bouncer)
        seen = load.primary_since(killed)
        settle(load, "primary's bouncer killed", record, at=at, host=seen.host, since=seen.at)
        assert seen.host == f"{bouncer}:6432"
        assert not read_errors(load)
    assert cluster.primary() == primary


@pytest.mark.long
def test_a_standbys_bouncer_is_killed(cluster: Pooled, tmp_path: Path, record: list[Figures]) -> None:
    """Readers go elsewhere, writers do not notice."""
    primary = cluster.primary()
    bouncer = cluster.bouncer(next(node for node in NODES if node != primary))
    with pooled_load(cluster, tmp_path) as load:
        cluster.kill(bouncer)
        killed = time.monotonic()
        until(lambda: load.reads(killed) > 50, "readers go on")
        cluster.start(bouncer)
        assert not settle(load, "standby's bouncer killed", record)
        lost = read_errors(load)
        assert len(lost) <= READERS
        assert set(lost) <= {"psycopg.OperationalError", "pgroute.SessionLost"}


@pytest.mark.long
def test_the_primarys_bouncer_freezes(cluster: Pooled, tmp_path: Path, record: list[Figures]) -> None:
    """Sessions stuck there are left alone, for nobody else could serve them, and go on when it does."""
    bouncer = cluster.bouncer(cluster.primary())
    with (
        pooled_load(cluster, tmp_path) as load,
        Router(cluster.dsn(*map(cluster.port, NODES)), **OPTIONS) as router,
    ):
        router.wait(timeout=10)
        at = time.monotonic()
        cluster.pause(bouncer)
        frozen = time.monotonic()
        until(lambda: not router.topology.writable, "the host is down")
        states = [host.state for host in router.topology.hosts]
        assert states.count(HostState.DOWN) == 1
        until(lambda: load.reads(frozen) > 50, "readers go on")
        assert not load.acknowledged(frozen + UNDER_WAY)
        since = time.monotonic()
        cluster.unpause(bouncer)
        settle(load, "primary's bouncer frozen", record, at=at, since=since)
        assert not read_errors(load)


@pytest.mark.long
def test_rolling_restart_of_the_bouncers(cluster: Pooled, tmp_path: Path, record: list[Figures]) -> None:
    """A bouncer stopped by SIGINT lets transactions end first: `run()` does all that it had not begun again."""
    outages = []
    with pooled_load(cluster, tmp_path) as load:
        for node in NODES:
            begun = time.monotonic()
            cluster.stop(cluster.bouncer(node))
            cluster.start(cluster.bouncer(node))
            until(functools.partial(cluster.answers, node), "it answers again")
            load.recovered()
            outages.append(time.monotonic() - begun)
        assert not settle(load, "bouncers restarted", record, outage=max(outages))
        # A plain reader() whose first statement came too late is told so; nobody does that again for it.
        lost = read_errors(load)
        assert len(lost) <= len(NODES) * READERS
        assert set(lost) <= {"psycopg.OperationalError", "pgroute.SessionLost"}


@pytest.fixture
def port(cluster: Pooled) -> int:
    """The primary's bouncer."""
    return cluster.port(cluster.primary())


def answers_of_two(cluster: Pooled, **options: Any) -> set[str]:
    """Let two clients with a statement each share two connections of a pooler; return what one of them is told."""
    dsn = cluster.dsn(cluster.port(cluster.primary()), user="app")

    def ask(conn: psycopg.Connection[Any], name: str) -> set[str]:
        rows = (conn.execute(f"SELECT %s || '{name}'", ("answer of ",)).fetchall() for _ in range(7))
        return {row[0] for row in itertools.chain.from_iterable(rows)}

    with (
        psycopg.connect(dsn, autocommit=True, **options) as one,
        psycopg.connect(dsn, autocommit=True, **options) as other,
    ):
        ask(one, "one")
        with one.transaction():
            # The first connection to the server is taken: another one is made, and the statement prepared there.
            one.execute("SELECT")
            ask(other, "other")
        with other.transaction():
            return ask(other, "other")


def test_prepared_statements(cluster: Pooled) -> None:
    """By default psycopg runs what somebody else has prepared under the same name; no error tells.

    pgbouncer keeps them apart from 1.24 on, where max_prepared_statements is no longer 0.
    """
    said = cluster.execute(cluster.bouncer(NODES[0]), "pgbouncer", "--version").split()[1]
    told = "other" if tuple(map(int, said.split(".")[:2])) >= (1, 24) else "one"
    assert answers_of_two(cluster) == {f"answer of {told}"}
    assert answers_of_two(cluster, prepare_threshold=None) == {"answer of other"}


def add_note(conn: psycopg.Connection[Any], text: str) -> int:
    conn.execute("INSERT INTO note VALUES (%s)", (text,))
    [(count,)] = conn.execute("SELECT count(*) FROM note").fetchall()
    return int(count)


def notes(cluster: Pooled) -> int:
    return int(cluster.sql(cluster.primary(), "SELECT count(*) FROM note")[0][0])


def test_a_transaction_is_applied_once_whose_acknowledgement_was_lost(cluster: Pooled, port: int) -> None:
    with FaultProxy(("127.0.0.1", port)) as proxy, routed(cluster.dsn(proxy.port)) as router:
        lost = proxy.when(b"COMMIT")
        assert router.run(add_note, "a", once="first") == 1
        assert lost.hits == 1
        assert router.run(add_note, "a", once="first") == 1
        proxy.when(b"COMMIT")
        with pytest.raises(CommitUnknown):
            router.run(add_note, "b")
    assert notes(cluster) == 2


def test_readers_are_read_only_in_their_transactions(cluster: Pooled, port: int) -> None:
    """The pooler takes no `options`: in autocommit mode only a role with that default keeps a reader from writing."""
    primary = cluster.primary()
    cluster.sql(primary, "GRANT SELECT, INSERT ON note TO app_reader")
    cluster.sql(primary, "ALTER ROLE app_reader SET default_transaction_read_only = on")
    role = PoolOptions(kwargs={"user": "app_reader"})
    refused = pytest.raises(psycopg.errors.ReadOnlySqlTransaction)
    with routed(cluster.dsn(port)) as router:
        with refused, router.reader() as conn:
            add_note(conn, "in a transaction")
        with router.reader() as conn:
            conn.autocommit = True
            add_note(conn, "by itself")
        with router.writer() as conn:
            add_note(conn, "by a writer")
    assert notes(cluster) == 2
    with routed(cluster.dsn(port), reader=role) as router:
        with refused, router.reader() as conn:
            conn.autocommit = True
            add_note(conn, "by itself")
        assert router.topology.writable
    assert notes(cluster) == 2


def test_a_full_pool_is_no_dead_host_where_the_watch_has_a_user_of_its_own(
    cluster: Pooled, port: int
) -> None:
    shared = cluster.dsn(port, user="app")
    with (
        routed(cluster.dsn(port)) as router,
        routed(shared) as other,
        Background() as background,
        contextlib.ExitStack() as sessions,
    ):
        router.wait(timeout=10)
        other.wait(timeout=10)
        for _ in range(POOL_SIZE):
            sessions.enter_context(psycopg.connect(shared, prepare_threshold=None)).execute("SELECT")
        waiting = background.start(router.run, add_note, "waited")
        until(lambda: not other.topology.writable, "the probe waits too long")
        with pytest.raises(NoHostAvailable):
            other.run(add_note, "not at all", timeout=0.2)
        assert [host.state for host in router.topology.hosts] == [HostState.UP]
        assert not waiting.done()
        sessions.close()
        assert waiting.result() == 1
        other.wait(timeout=10)
