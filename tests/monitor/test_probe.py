"""The probe connection: its loss, its renewal, smaller probes, and who shares it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import psycopg
import pytest

from pgroute import Event, EventKind, HostRole, HostState, PoolOptions, ProbeOptions, Router
from pgroute.monitor import host_watcher
from pgroute.testing import LocalCluster, Node
from pgroute.testing.plugin import ClusterFactory
from tests.support import dsn_at, dsn_with, eventually, within

pytestmark = pytest.mark.cluster

PROBES = "FROM pg_stat_activity WHERE application_name LIKE '%pgroute-monitor' AND pid <> pg_backend_pid()"


def probes(node: Node) -> set[int]:
    """Return the backends of the probe connections at a node."""
    return {pid for (pid,) in node.execute(f"SELECT pid {PROBES}")}


def all_up(router: Router) -> bool:
    return all(host.state is HostState.UP for host in router.topology.hosts)


def backend(router: Router, role: str = "writer") -> int:
    with router.writer() if role == "writer" else router.reader() as conn:
        return conn.info.backend_pid


def test_a_lost_probe_connection_is_noticed_at_once_and_renewed(shared: LocalCluster) -> None:
    events: list[Event] = []
    node = shared.primary
    # Only the end of the connection can tell: no probe is due for a minute.
    with Router(shared.dsn, probe=ProbeOptions(interval=60.0)) as router:
        eventually(lambda: all_up(router))
        unsubscribe = router.subscribe(events.append)
        pid = backend(router)
        [before] = probes(node)
        node.execute(f"SELECT pg_terminate_backend(pid) {PROBES}")
        ended_at = time.monotonic()
        eventually(lambda: probes(node) - {before})
        assert time.monotonic() - ended_at < within(0.5)
        assert all_up(router)
        assert backend(router) == pid, "the pools keep their connections"
        unsubscribe()
    assert events == []


def test_terminated_idle_sessions_do_not_mark_the_host_down(shared: LocalCluster) -> None:
    node = shared.primary
    with Router(shared.dsn, writer=PoolOptions(min_size=3, max_size=3), name="terminated") as router:
        conns = [router.getconn("writer") for _ in range(3)]
        before = {conn.info.backend_pid for conn in conns}
        for conn in conns:
            router.putconn(conn)
        node.execute("SELECT pg_terminate_backend(pid, 5000) FROM unnest(%s::int[]) pid", [list(before)])
        for _ in range(10):
            with router.writer() as conn:
                conn.execute("SELECT 1")
                assert conn.info.backend_pid not in before
        assert all_up(router)
        assert router.topology.hosts[0].generation == 0


def test_the_probe_connection_is_renewed_in_time(
    shared: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_watcher, "RENEW_AFTER", 0.3)
    node = shared.primary
    with Router(shared.dsn, probe=ProbeOptions(interval=0.05)) as router:
        eventually(lambda: all_up(router))
        first = probes(node)
        eventually(lambda: (now := probes(node)) and now.isdisjoint(first))
        eventually(lambda: len(probes(node)) == 1)
        assert all_up(router)


def test_routers_with_the_same_conninfo_share_the_probe_connections(shared: LocalCluster) -> None:
    with Router(shared.dsn) as one, Router(shared.dsn, reader_attrs="standby") as other:
        eventually(lambda: all_up(one) and all_up(other))
        assert [len(probes(node)) for node in shared.nodes] == [1, 1, 1]
        one.close()
        assert [len(probes(node)) for node in shared.nodes] == [1, 1, 1]
        assert backend(other)
    eventually(lambda: not any(probes(node) for node in shared.nodes))


def test_other_parameters_get_probe_connections_of_their_own(shared: LocalCluster) -> None:
    with Router(shared.dsn) as one, Router(shared.dsn, kwargs={"options": "-c geqo=off"}) as other:
        eventually(lambda: all_up(one) and all_up(other))
        assert [len(probes(node)) for node in shared.nodes] == [2, 2, 2]


@pytest.mark.parametrize(("share", "each"), [(True, 1), (False, 2)])
def test_another_application_name_shares_them_as_another_process_does(
    shared: LocalCluster, share: bool, each: int
) -> None:
    probe = ProbeOptions(share=share)
    with (
        Router(shared.dsn, probe=probe) as one,
        Router(shared.dsn, probe=probe, kwargs={"application_name": "other"}) as other,
    ):
        eventually(lambda: all_up(one) and all_up(other))
        assert [len(probes(node)) for node in shared.nodes] == [each] * 3


def test_the_watch_logs_in_as_a_user_of_its_own_and_is_shared_by_those_who_say_so(
    shared: LocalCluster,
) -> None:
    def users() -> list[str]:
        return sorted(user for (user,) in shared.primary.execute(f"SELECT usename {PROBES}"))

    shared.primary.execute(f"CREATE ROLE watch LOGIN PASSWORD '{shared.password}'")
    shared.catch_up()
    try:
        probe = ProbeOptions(kwargs={"user": "watch"})
        with Router(shared.dsn, probe=probe) as one, Router(shared.dsn, probe=probe) as other:
            eventually(lambda: all_up(one) and all_up(other))
            assert users() == ["watch"]
            with Router(shared.dsn) as third:
                eventually(lambda: all_up(third))
                assert users() == ["postgres", "watch"]
            for role in ("writer", "reader"):
                conn = one.getconn(role)
                assert conn.info.user == "postgres"
                one.putconn(conn)
            assert one.topology.hosts[0].timeline is not None, "a plain role may ask all of it"
    finally:
        shared.primary.execute("DROP ROLE watch")


def test_the_password_of_the_watch_is_shown_nowhere(
    shared: LocalCluster, caplog: pytest.LogCaptureFixture
) -> None:
    probe = ProbeOptions(kwargs={"user": "nobody", "password": "hunter2"})
    with Router(shared.dsn, probe=probe) as router:
        eventually(lambda: all(h.state is HostState.REJECTED for h in router.topology.hosts))
        with pytest.raises(psycopg.OperationalError) as caught, router.writer(timeout=0.1):
            pass
        shown = [repr(router), repr(probe), repr(router.topology), str(router.topology), str(caught.value)]
    assert "nobody" in shown[-1]
    assert "hunter2" not in "".join(shown) + repr(getattr(caught.value, "__notes__", ())) + caplog.text


def test_a_process_that_only_writes_holds_one_connection_to_each_standby(shared: LocalCluster) -> None:
    with Router(shared.dsn, kwargs={"application_name": "frugal"}) as router:
        eventually(lambda: all_up(router))
        backend(router)
        counts = []
        for node in shared.nodes:
            [(count,)] = node.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'frugal%'"
            )
            counts.append(count)
    assert counts == [2, 1, 1]


def test_a_second_router_knows_the_hosts_at_once(shared: LocalCluster) -> None:
    with Router(shared.dsn) as one:
        eventually(lambda: all_up(one))
        with Router(shared.dsn) as other:
            begun_at = time.monotonic()
            eventually(lambda: all_up(other))
            assert time.monotonic() - begun_at < within(0.2)


def test_the_smallest_interval_of_the_routers_wins(shared: LocalCluster) -> None:
    slow, fast = ProbeOptions(interval=60.0), ProbeOptions(interval=0.05)
    with Router(shared.dsn, probe=slow) as one, Router(shared.dsn, probe=fast) as other:
        eventually(lambda: all_up(one) and all_up(other))
        begun_at = time.monotonic()
        eventually(lambda: (one.topology.hosts[0].last_seen or 0.0) > begun_at + 0.1)  # not after 60 s


FUNCTIONS = ("pg_control_system()", "pg_control_checkpoint()", "pg_control_recovery()")


@pytest.fixture
def unprivileged(pgroute_cluster_factory: ClusterFactory) -> LocalCluster:
    """Give a cluster where a plain role may not call what the full probe calls."""
    cluster = pgroute_cluster_factory(standbys=1)
    primary = cluster.primary
    primary.execute(f"CREATE ROLE plain LOGIN PASSWORD '{cluster.password}'")
    primary.execute("CREATE TABLE written (number int)")
    primary.execute("GRANT ALL ON written TO plain")
    for function in FUNCTIONS:
        primary.execute(f"REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC")
    cluster.catch_up()
    return cluster


@pytest.mark.parametrize(
    "further",
    [
        (),
        ("pg_walfile_name(pg_lsn)", "pg_current_wal_lsn()", "pg_last_wal_replay_lsn()"),
        ("pg_walfile_name(pg_lsn)", "pg_postmaster_start_time()", "pg_is_in_recovery()"),
    ],
    ids=["control", "wal", "recovery"],
)
def test_a_probe_without_rights_asks_for_less_and_routing_is_still_right(
    unprivileged: LocalCluster, further: tuple[str, ...]
) -> None:
    first, second = unprivileged.nodes
    for function in further:
        first.execute(f"REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC")
    unprivileged.catch_up()

    def insert(router: Router) -> int:
        with router.writer() as conn:
            conn.execute("INSERT INTO written VALUES (1)")
            return conn.info.port

    def read(router: Router) -> int:
        with router.reader() as conn:
            conn.execute("SELECT 1")
            return conn.info.port

    with Router(dsn_with(unprivileged.dsn, user="plain")) as router:
        assert insert(router) == first.port
        assert read(router) == second.port
        assert [host.role for host in router.topology.hosts] == [HostRole.PRIMARY, HostRole.STANDBY]
        assert router.topology.hosts[0].system_id is None
        first.kill()
        unprivileged.promote()
        assert insert(router) == second.port


def test_a_degraded_probe_still_shows_a_read_only_default(unprivileged: LocalCluster) -> None:
    node = unprivileged.nodes[0]
    with Router(dsn_with(unprivileged.dsn, user="plain"), probe=ProbeOptions(interval=0.1)) as router:
        eventually(lambda: all_up(router))
        node.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        node.execute("SELECT pg_reload_conf()")
        eventually(lambda: router.topology.hosts[0].read_only)


def test_a_degraded_probe_shows_a_read_only_default_of_new_sessions(unprivileged: LocalCluster) -> None:
    node = unprivileged.nodes[0]
    with Router(dsn_with(unprivileged.dsn, user="plain"), probe=ProbeOptions(interval=0.1)) as router:
        eventually(lambda: all_up(router))
        node.execute("ALTER DATABASE postgres SET default_transaction_read_only = on")
        eventually(lambda: router.topology.hosts[0].read_only, 2.0)
        node.execute("BEGIN READ WRITE; ALTER DATABASE postgres RESET default_transaction_read_only; COMMIT")
        eventually(lambda: not router.topology.hosts[0].read_only, 2.0)


OTHERS = """
SET allow_system_table_mods = on;
INSERT INTO pg_db_role_setting
SELECT base, (4000000000 + n)::oid, ARRAY['default_transaction_read_only=on'] FROM generate_series(1, 3000) n,
       (SELECT oid FROM pg_database WHERE datname = current_database() UNION ALL SELECT 0) AS of (base)
 UNION ALL
SELECT (4000000000 + n)::oid, 0, ARRAY['default_transaction_read_only=on'] FROM generate_series(1, 3000) n
"""
NO_OTHERS = """
SET allow_system_table_mods = on;
DELETE FROM pg_db_role_setting WHERE setrole >= 4000000000 OR setdatabase >= 4000000000
"""


def test_defaults_of_other_databases_and_roles_are_no_concern_of_a_probe(shared: LocalCluster) -> None:
    events: list[Event] = []
    node = shared.primary
    with Router(shared.dsn, probe=ProbeOptions(interval=0.05, timeout=10.0)) as router:
        eventually(lambda: all_up(router))
        before = probes(node)
        unsubscribe = router.subscribe(events.append)
        try:
            node.execute(OTHERS)
            since = time.monotonic()
            eventually(lambda: (router.topology.hosts[0].last_seen or 0.0) > since + 0.2)
            assert probes(node) == before
            unsubscribe()
            assert events == []
        finally:
            node.execute(NO_OTHERS)


def test_default_of_a_role_whose_name_takes_quotes_is_noticed(shared: LocalCluster) -> None:
    node = shared.primary
    role = '"It\'s a ""Role"""'
    node.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{shared.password}'")
    shared.catch_up()
    try:
        dsn = dsn_with(shared.dsn, user='It\'s a "Role"')
        with Router(dsn, probe=ProbeOptions(interval=0.05)) as router:
            eventually(lambda: all_up(router))
            node.execute(f"ALTER ROLE {role} IN DATABASE postgres SET default_transaction_read_only = on")
            eventually(lambda: router.topology.hosts[0].read_only, 2.0)
    finally:
        node.execute(f"DROP ROLE {role}")


CHATTY = {
    "client_min_messages": "log",
    "log_statement": "all",
    "log_duration": "on",
    "debug_print_parse": "on",
    "debug_print_rewritten": "on",
    "debug_print_plan": "on",
}


def test_server_that_explains_each_statement_to_the_client_is_up(shared: LocalCluster) -> None:
    events: list[Event] = []
    node = shared.primary
    node.execute(f"CREATE ROLE chatty LOGIN PASSWORD '{shared.password}'")
    for name, value in CHATTY.items():
        node.execute(f"ALTER ROLE chatty SET {name} = '{value}'")
    shared.catch_up()
    try:
        probe = ProbeOptions(interval=0.02, timeout=10.0)
        with Router(dsn_with(shared.dsn, user="chatty"), probe=probe) as router:
            with router.writer() as conn:
                conn.execute("SELECT 1")
            unsubscribe = router.subscribe(events.append)
            since = time.monotonic()
            eventually(lambda: (router.topology.hosts[0].last_seen or 0.0) > since + 0.5)
            unsubscribe()
            assert [event.text for event in events] == []
            assert all_up(router)
    finally:
        node.execute("DROP ROLE chatty")


def test_events_come_in_order_to_every_subscriber(any_cluster: LocalCluster) -> None:
    texts: list[str] = []
    others: list[Event] = []

    def failing(_: object) -> None:
        raise RuntimeError("the subscriber's own")

    logging.getLogger("pgroute").setLevel(logging.CRITICAL + 1)
    try:
        with Router(any_cluster.dsn) as router:
            eventually(lambda: all_up(router))
            for subscriber in (failing, lambda e: texts.append(e.text), others.append):
                router.subscribe(subscriber)
            old = any_cluster.primary
            old.kill()
            new = any_cluster.promote()
            eventually(lambda: any(e.kind is EventKind.PRIMARY_CHANGED for e in others))
            old.rejoin(new)
            eventually(lambda: all_up(router))
    finally:
        logging.getLogger("pgroute").setLevel(logging.NOTSET)
    assert texts == [event.text for event in others]
    assert [event.at for event in others] == sorted(event.at for event in others)
    kinds = [event.kind for event in others]
    assert kinds.index(EventKind.PRIMARY_LOST) < kinds.index(EventKind.PRIMARY_CHANGED)
    [changed] = [event for event in others if event.kind is EventKind.PRIMARY_CHANGED]
    assert changed.host is not None
    assert changed.host.port == new.port
    rejoined = [e for e in others if e.host and e.host.port == old.port and e.after and e.after.role]
    assert rejoined[-1].after is not None
    assert rejoined[-1].after.role is HostRole.STANDBY


def test_the_password_is_in_no_reason_of_a_refused_probe(shared: LocalCluster) -> None:
    dsn = dsn_with(shared.dsn, user="nobody", password="wrongpass")
    with Router(dsn) as router:
        eventually(lambda: all(h.state is HostState.REJECTED for h in router.topology.hosts))
        with pytest.raises(psycopg.OperationalError) as caught, router.writer(timeout=0.1):
            pass
    assert "nobody" in str(caught.value)
    notes = repr(getattr(caught.value, "__notes__", ()))
    assert "wrongpass" not in str(caught.value) + notes + repr(router.topology)


AURORA = """
CREATE SCHEMA aurora;
CREATE SEQUENCE aurora.asked;
CREATE ROLE tenant LOGIN SUPERUSER PASSWORD '{password}';
ALTER FUNCTION pg_catalog.pg_last_wal_replay_lsn() RENAME TO replayed;
ALTER FUNCTION pg_catalog.pg_current_wal_lsn() RENAME TO written;
CREATE FUNCTION pg_catalog.pg_last_wal_replay_lsn() RETURNS pg_lsn LANGUAGE plpgsql AS $$
  BEGIN
    IF session_user = 'tenant' THEN RAISE 'not supported for Aurora' USING ERRCODE = '0A000'; END IF;
    RETURN pg_catalog.replayed();
  END $$;
CREATE FUNCTION pg_catalog.pg_current_wal_lsn() RETURNS pg_lsn LANGUAGE plpgsql AS $$
  BEGIN
    IF session_user = 'tenant' AND nextval('aurora.asked') {when} THEN
      RAISE '{text}' USING ERRCODE = '55000';
    END IF;
    RETURN pg_catalog.written();
  END $$
"""
"""What a managed service does for one role: functions about WAL are refused, on a reader as a feature, on the writer as
a state."""


@pytest.fixture
def aurora(pgroute_cluster_factory: ClusterFactory) -> Callable[..., LocalCluster]:
    """Give a function that makes a cluster which refuses its role `tenant` as Aurora does."""

    def make(standbys: int, text: str, when: str = "> 0", password: str | None = None) -> LocalCluster:
        cluster = pgroute_cluster_factory(standbys=standbys, password=password)
        cluster.primary.execute(AURORA.format(text=text, when=when, password=cluster.password))
        cluster.catch_up()
        return cluster

    return make


def test_a_writer_whose_state_refuses_wal_functions_serves_and_tells_its_cluster(
    aurora: Callable[..., LocalCluster],
) -> None:
    cluster = aurora(1, "wal_level must be set to logical")
    other = aurora(0, "wal_level must be set to logical", password=cluster.password)
    first, second = cluster.nodes
    hosts = ",".join(f"{node.host}:{node.port}" for node in (*cluster.nodes, *other.nodes))
    with Router(dsn_at(hosts, cluster, user="tenant")) as router:
        with router.writer(5.0) as conn:
            assert conn.info.port == first.port
        with router.reader(5.0) as conn:
            assert conn.info.port == second.port
        eventually(lambda: router.topology.hosts[2].state is HostState.FOREIGN)
        writer, reader, foreign = router.topology.hosts
        assert (writer.role, reader.role) == (HostRole.PRIMARY, HostRole.STANDBY)
        assert writer.system_id == reader.system_id != foreign.system_id
        assert (writer.timeline, writer.lag_bytes) == (None, None)
        assert writer.started_at is not None
        cluster.primary.kill()
        cluster.promote()
        with router.writer(5.0) as conn:
            assert conn.info.port == second.port


def test_a_state_that_is_wrong_once_costs_no_part_of_the_probe(aurora: Callable[..., LocalCluster]) -> None:
    # A role that changes between the question for it and the function that goes with it.
    cluster = aurora(0, "recovery is in progress", when="= 1")
    with Router(dsn_with(cluster.dsn, user="tenant")) as router:
        eventually(lambda: all_up(router))
        assert router.topology.hosts[0].timeline == 1
        assert router.topology.hosts[0].system_id is not None


def test_a_smaller_probe_is_taken_back_when_the_role_changes(aurora: Callable[..., LocalCluster]) -> None:
    # As a standby it does not tell its position, nor what is asked along with that; as a primary it tells all.
    cluster = aurora(1, "never", when="< 0")
    old, new = cluster.nodes
    with Router(dsn_with(cluster.dsn, user="tenant"), probe=ProbeOptions(interval=0.1)) as router:
        eventually(lambda: all_up(router))
        assert [host.timeline for host in router.topology.hosts] == [1, None]
        [before] = probes(new)
        old.kill()
        cluster.promote()
        with router.writer(5.0) as conn:
            assert conn.info.port == new.port
        eventually(lambda: router.topology.hosts[1].timeline == 2, 2.0)
        assert probes(new) == {before}, "on the connection that there was"
        old.start()
        eventually(lambda: router.topology.hosts[0].state is HostState.STALE)
        with router.writer(5.0) as conn:
            assert conn.info.port == new.port


def test_what_a_host_tells_no_more_is_an_event_and_a_reason(unprivileged: LocalCluster) -> None:
    events: list[Event] = []
    first, _ = unprivileged.nodes
    for function in FUNCTIONS:
        first.execute(f"GRANT EXECUTE ON FUNCTION {function} TO PUBLIC")
    unprivileged.catch_up()
    with Router(dsn_with(unprivileged.dsn, user="plain"), probe=ProbeOptions(interval=0.1)) as router:
        eventually(lambda: all(host.timeline for host in router.topology.hosts))
        unsubscribe = router.subscribe(events.append)
        first.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
        words = "no longer tells its system identifier: permission denied for function pg_control_system"
        eventually(lambda: router.topology.hosts[0].reason == words)
        assert router.topology.hosts[0].degraded == words
        assert words in str(router.topology)
        eventually(lambda: any(e.host and e.host.port == first.port and words in e.text for e in events))
        with router.writer() as conn:
            assert conn.info.port == first.port
        unsubscribe()
    assert [e.kind for e in events if e.host and e.host.port == first.port] == [EventKind.HOST_CHANGED]
