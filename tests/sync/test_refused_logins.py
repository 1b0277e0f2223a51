# Generated from tests/aio/test_refused_logins.py by .ci/unasync.py: edit that file, not this one.
"""Logins stop working while the router is open, at every host or at one, although sessions that are open go on."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import psycopg
import pytest

from pgroute import AcquireTimeout, Router, HostState, NoHostAvailable, PoolExhausted, ProbeOptions
from pgroute._sync.pool import connector
from pgroute.testing import LocalCluster, Node
from pgroute.testing.proxy_arguments import Endpoint
from tests.sync.workload import key, read, state
from tests.certificates import Authority
from tests.support import Background, call, eventually, dsn_at, dsn_with, within
from tests.tlsfront import TLSFront

pytestmark = [pytest.mark.cluster, pytest.mark.long]

PATIENCE = 2.0
"""Seconds for which sessions that cannot be had are asked for."""

RECOVERY = 8.0
"""Seconds from the mending to the recovery: the next attempt comes within 5 s, the one after it would be too late."""


@dataclasses.dataclass(frozen=True)
class Fault:
    """What makes every server refuse a role's new logins.

    Attributes:
        role: a role of this name has a database of this name.
        said: by the server, in its log too; a regular expression.
        breaks, mends: statements for the primary.
        kills: open sessions end, too.
        blinds: the watch's connection to the primary ends as well.
    """

    role: str
    said: str
    breaks: str
    mends: str
    kills: bool = False
    blinds: bool = False

    def refusals(self, node: Node) -> int:
        return len(re.findall(f"FATAL:  (?:{self.said})", node.log()))


FAULTS = [
    Fault(
        "rotated",
        'password authentication failed for user "rotated"',
        "ALTER ROLE rotated PASSWORD 'another'",
        "ALTER ROLE rotated PASSWORD 'secret'",
    ),
    Fault(
        "locked",
        'role "locked" is not permitted to log in',
        "ALTER ROLE locked NOLOGIN",
        "ALTER ROLE locked LOGIN",
        blinds=True,
    ),
    Fault(
        "dropped",
        'database "dropped" does not exist|cannot connect to invalid database "dropped"',
        "DROP DATABASE dropped WITH (FORCE)",
        "CREATE DATABASE dropped",
        kills=True,
    ),
]


END_WATCH = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{}' AND application_name "
    "LIKE '%pgroute-monitor'"
)


@pytest.fixture
def with_roles(mended: LocalCluster) -> Iterator[LocalCluster]:
    """Give a cluster with the roles and databases of FAULTS, and the role `barred`."""
    mended.primary.execute(f"CREATE ROLE barred LOGIN PASSWORD '{mended.password}'")
    for fault in FAULTS:
        mended.primary.execute(f"CREATE ROLE {fault.role} LOGIN PASSWORD 'secret'")
        mended.primary.execute(f"CREATE DATABASE {fault.role}")
    mended.catch_up()
    yield mended
    mended.primary.execute("DROP ROLE barred")
    for fault in FAULTS:
        mended.primary.execute(f"DROP DATABASE IF EXISTS {fault.role}")
        mended.primary.execute(f"DROP ROLE {fault.role}")


def all_in(router: Router[Any], wanted: HostState) -> None:
    eventually(lambda: all(h.state is wanted for h in router.topology.hosts))


def hopeless(router: Router[Any], role: Any, error: type[AcquireTimeout]) -> str:
    with pytest.raises(error) as caught:
        router.getconn(role, timeout=PATIENCE)
    return str(caught.value)


def write_until(router: Router[Any], stop: threading.Event) -> int:
    """Have sessions, one after the other, and return how many."""
    served = 0
    while not stop.is_set():
        with router.writer(timeout=PATIENCE) as conn:
            conn.execute("SELECT 1")
        served += 1
        time.sleep(0.01)  # the load leaves some of the processor to the server and the monitor
    return served


def serve_on(router: Router[Any], cluster: LocalCluster, fault: Fault) -> list[str]:
    """Have more writers than connections while the servers refuse others; return what is told to those in need."""
    stop = threading.Event()
    primary = key(cluster.nodes[0])
    with Background() as background:
        try:
            held = [router.getconn("writer") for _ in range(2)]
            generation = router.stats().writer.hosts[primary]["generation"]
            router.putconn(held.pop())
            call(execute, cluster, fault.breaks)
            writers = [background.start(write_until, router, stop) for _ in range(3)]
            eventually(lambda: state(router, cluster.nodes[0]) is HostState.REJECTED)
            router._manager.watch.kick(primary, fresh=True)  # as once in a minute
            if fault.blinds:
                call(execute, cluster, END_WATCH.format(fault.role))
                eventually(lambda: router.topology.primary_lost_at is not None)
            readers = [background.start(hopeless, router, "reader", NoHostAvailable) for _ in range(5)]
            texts = [reader.result() for reader in readers]
            all_in(router, HostState.REJECTED)
            if fault.blinds:
                eventually(lambda: "not watched" in router.topology.by_key[primary].reason)
        finally:
            stop.set()
        served = [writer.result() for writer in writers]
        assert 2 * min(served) > max(served) > 1, "each was served in its turn"
        held.append(router.getconn("writer"))
        assert router.stats().writer.hosts[primary]["generation"] == generation
        texts.append(hopeless(router, "writer", PoolExhausted))
        assert "all of its 2 connections are in use, and new ones are refused" in texts[-1]
        for conn in held:
            conn.execute("SELECT 1")
            conn.commit()
            router.putconn(conn)
    return texts


def serve_nobody(router: Router[Any], cluster: LocalCluster, fault: Fault) -> list[str]:
    """End all connections, and have none; return what is told."""
    held = router.getconn("writer")
    call(execute, cluster, fault.breaks)
    # The probes find it out. A pool that connects at the same moment is refused as well: not counted here.
    all_in(router, HostState.REJECTED)
    router.putconn(held)
    with Background() as background:
        waiters = [
            background.start(hopeless, router, role, NoHostAvailable)
            for role in ("writer", "reader")
            for _ in range(5)
        ]
        return [waiter.result() for waiter in waiters]


def execute(cluster: LocalCluster, sql: str) -> None:
    cluster.primary.execute(sql)
    cluster.catch_up()


def break_and_mend(cluster: LocalCluster, fault: Fault) -> None:
    dsn = dsn_with(cluster.dsn, user=fault.role, password="secret", dbname=fault.role)
    with Router(dsn) as router:
        all_in(router, HostState.UP)
        begun_at = time.monotonic()
        for text in (serve_nobody if fault.kills else serve_on)(router, cluster, fault):
            assert len(re.findall(fault.said, text)) >= 3, "why, for each host"
        refused, took = [fault.refusals(node) for node in cluster.nodes], time.monotonic() - begun_at
        assert min(refused) >= 1
        assert max(refused) <= 1 + took / 5, "one attempt in 5 s at each host, probe and pools together"
        call(execute, cluster, fault.mends)
        mended_at = time.monotonic()
        all_in(router, HostState.UP)
        conns = [router.getconn("writer", timeout=PATIENCE) for _ in range(3)]
        assert time.monotonic() - mended_at < RECOVERY, "found out by the next attempt"
        for conn in conns:
            router.putconn(conn)
        refused, took = [fault.refusals(node) for node in cluster.nodes], time.monotonic() - begun_at
        assert max(refused) <= 1 + took / 5
    print(f"{fault.role}: refused {refused} times in {took:.2f} s, recovered")


def one_host_refuses(router: Router[Any], refusing: Endpoint, other: Node) -> float:
    """Read until the refusal at a standby is known; return when that was, its probe being connected as before."""
    begun_at = time.monotonic()
    while state(router, refusing) is not HostState.REJECTED:
        assert (read(router)).port == other.port
        assert time.monotonic() - begun_at < within(2.0)
    until = begun_at + PATIENCE
    while time.monotonic() < until:
        assert (read(router)).port == other.port
        time.sleep(0.01)  # how often it reads
    return begun_at


def recovered(
    router: Router[Any], node: Endpoint, refusals: Callable[[], int], begun_at: float
) -> None:
    """Wait until a host that was mended is up, and see how often it was tried since the fault."""
    mended_at = time.monotonic()
    eventually(lambda: state(router, node) is HostState.UP)
    assert time.monotonic() - mended_at < RECOVERY, "found out by the next attempt"
    took = time.monotonic() - begun_at
    print(f"refused {refusals()} times in {took:.2f} s, recovered")
    assert refusals() <= 1 + took / 5


def refuse_at_one(cluster: LocalCluster) -> None:
    _, refusing, other = cluster.nodes
    hba = refusing.data_dir / "pg_hba.conf"
    rules = hba.read_text()

    def configure(text: str) -> None:
        hba.write_text(text)
        refusing.execute("SELECT pg_reload_conf()")

    def refusals() -> int:
        return refusing.log().count('pg_hba.conf rejects connection for host "127.0.0.1", user "barred"')

    with Router(dsn_with(cluster.dsn, user="barred")) as router:
        router.wait()
        eventually(lambda: all(h.state is HostState.UP for h in router.topology.hosts))
        call(configure, "host all barred all reject\n" + rules)
        begun_at = one_host_refuses(router, refusing, other)
        host = router.topology.host(key(refusing))
        assert host is not None
        assert "pg_hba.conf rejects connection" in host.reason
        assert "\n" not in host.reason
        assert refusals() == 1, "at most one attempt in 5 s, probe and pools together"
        call(configure, rules)
        recovered(router, refusing, refusals, begun_at)


def test_password_rotated_role_locked_out_database_dropped_pg_hba_closed_are_told_rarely_tried_and_recover(
    with_roles: LocalCluster,
) -> None:
    # At the same time, for each takes the 5 s of which it must be shown that they pass.
    with Background() as background:
        works = [background.start(break_and_mend, with_roles, fault) for fault in FAULTS]
        works.append(background.start(refuse_at_one, with_roles))
        for work in works:
            work.result()


def test_a_wrong_password_is_told_at_first_contact_without_waiting(with_roles: LocalCluster) -> None:
    said = 'password authentication failed for user "rotated"'
    before = [node.log().count(said) for node in with_roles.nodes]
    begun_at = time.monotonic()
    with Router(dsn_with(with_roles.dsn, user="rotated", password="wrong")) as router:
        with pytest.raises(NoHostAvailable, match="every host refuses the login") as caught:
            router.wait()
        assert str(caught.value).count(said) == len(with_roles.nodes)
        for role in ("writer", "reader"):
            with pytest.raises(NoHostAvailable, match="every host refuses the login"):
                router.getconn(role)
    assert time.monotonic() - begun_at < 3.0
    refused = [node.log().count(said) - n for node, n in zip(with_roles.nodes, before, strict=True)]
    assert refused == [1, 1, 1]


def test_a_login_refused_beside_a_watch_with_a_user_of_its_own_is_tried_once_in_5_s_for_both_roles(
    with_roles: LocalCluster,
) -> None:
    def refusals() -> int:
        return node.log().count('password authentication failed for user "rotated"')

    def refused(router: Router[Any], role: Any) -> None:
        with pytest.raises(NoHostAvailable, match='password authentication failed for user "rotated"'):
            router.getconn(role, timeout=PATIENCE)

    node = with_roles.primary
    dsn = f"postgresql://rotated:wrong@{node.host}:{node.port}/postgres"
    probe = ProbeOptions(kwargs={"user": "barred", "password": with_roles.password})
    with Router(dsn, probe=probe) as router:
        eventually(lambda: state(router, node) is HostState.UP)
        before, begun_at = refusals(), time.monotonic()
        for role in ("writer", "reader", "writer"):
            refused(router, role)
        took = time.monotonic() - begun_at
        assert 1 <= refusals() - before <= 1 + took / 5
        assert state(router, node) is HostState.UP, "as far as the watch can tell"
        call(node.execute, "ALTER ROLE rotated PASSWORD 'wrong'")
        router.wait("reader", timeout=RECOVERY)
        router.wait("writer", timeout=RECOVERY)


@pytest.fixture
def encrypted(shared: LocalCluster, trusted: Authority) -> Iterator[tuple[TLSFront, TLSFront]]:
    """Give a primary and a standby behind TLS."""
    with contextlib.ExitStack() as stack:
        primary, standby = (
            stack.enter_context(TLSFront(node, trusted.issue(node.name, "127.0.0.1")))
            for node in shared.nodes[:2]
        )
        yield primary, standby


@pytest.fixture
def trusted(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "trusted")


def test_one_host_whose_certificate_is_not_trusted_is_rarely_tried_leaves_the_others_and_recovers(
    shared: LocalCluster, encrypted: tuple[TLSFront, TLSFront], trusted: Authority, tmp_path: Path
) -> None:
    other, refusing = encrypted

    def refusals() -> int:
        return refusing.refused

    dsn = dsn_at(f"127.0.0.1:{other.port},127.0.0.1:{refusing.port}", other)
    with Router(dsn_with(dsn, sslmode="verify-full", sslrootcert=str(trusted.root))) as router:
        router.wait()
        eventually(lambda: all(h.state is HostState.UP for h in router.topology.hosts))
        with router.writer() as conn:
            assert conn.pgconn.ssl_in_use
        refusing.use(Authority(tmp_path, "strange").issue("strange", "127.0.0.1"))
        begun_at = one_host_refuses(router, refusing, shared.nodes[0])
        host = router.topology.host(key(refusing))
        assert host is not None
        assert "certificate verify failed" in host.reason
        assert refusals() == 1, "at most one attempt in 5 s, probe and pools together"
        refusing.use(trusted.issue("renewed", "127.0.0.1"))
        recovered(router, refusing, refusals, begun_at)


@pytest.mark.parametrize("doubt", [pytest.param(0.5, marks=pytest.mark.long), 0.0])
def test_a_database_dropped_under_busy_callers_costs_hardly_a_refused_login_at_each_host(
    mended: LocalCluster, monkeypatch: pytest.MonkeyPatch, doubt: float
) -> None:
    """Where the probe, which is waited for, is late, an attempt of one of the pools may be another one; where it is not
    waited for, a pool that grows may have two under way.
    """
    monkeypatch.setattr(connector, "DOUBT", doubt)
    said = 'FATAL:  (?:database "busy" does not exist|cannot connect to invalid database "busy")'
    mended.primary.execute("CREATE DATABASE busy")
    mended.catch_up()
    before = [len(re.findall(said, node.log())) for node in mended.nodes]
    stop = threading.Event()

    def ask(router: Router[Any], role: Literal["writer", "reader"]) -> None:
        while not stop.is_set():
            with contextlib.suppress(psycopg.OperationalError):
                router.putconn(router.getconn(role, timeout=0.2))
            time.sleep(0.002)

    with (
        Router(dsn_with(mended.dsn, dbname="busy")) as router,
        Background() as background,
    ):
        eventually(lambda: all(host.usable for host in router.topology.hosts))
        for role in ("writer", "reader", "reader"):
            background.start(ask, router, role)
        # The primary too, where a session of 0.2 s had to fall back to it.
        eventually(
            lambda: {key(node) for node in mended.nodes[1:]} <= {*router.stats().reader.hosts}
        )
        dropped_at = time.monotonic()
        call(mended.primary.execute, "DROP DATABASE busy WITH (FORCE)")
        try:
            eventually(
                lambda: {state(router, node) for node in mended.nodes} == {HostState.REJECTED}
            )
            eventually(lambda: time.monotonic() > dropped_at + 1.5)
        finally:
            stop.set()
        refused = [
            len(re.findall(said, node.log())) - n for node, n in zip(mended.nodes, before, strict=True)
        ]
    assert time.monotonic() - dropped_at < within(5.0)
    assert {*refused} <= ({1, 2} if doubt else {1, 2, 3})
