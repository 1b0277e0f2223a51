# Generated from tests/aio/test_timeline_rights.py by .ci/unasync.py: edit that file, not this one.
"""Who may see on which timeline a standby is: the monitor's user is enough."""

from __future__ import annotations

from pgroute import Router, ProbeOptions
from pgroute.testing import LocalCluster
from tests.support import call, eventually, dsn_with


def test_sessions_without_the_right_read_from_a_standby_that_follows_a_new_primary(
    any_cluster: LocalCluster,
) -> None:
    password = any_cluster.password
    for statement in (
        f"CREATE ROLE app LOGIN PASSWORD '{password}'",
        f"CREATE ROLE watcher LOGIN PASSWORD '{password}' IN ROLE pg_read_all_stats",
        "CREATE TABLE numbers (number int)",
        "GRANT ALL ON numbers TO app",
    ):
        any_cluster.primary.execute(statement)
    any_cluster.catch_up()
    probe = ProbeOptions(kwargs={"user": "watcher", "password": password})
    with Router(dsn_with(any_cluster.dsn, user="app"), probe=probe) as router:
        router.wait()
        any_cluster.primary.kill()
        call(any_cluster.promote)
        causal = router.causal()
        with causal.writer() as conn:
            conn.execute("INSERT INTO numbers VALUES (0)")
        eventually(lambda: [host.timeline for host in router.topology.standbys] == [2])

        for number in range(1, 6):
            with causal.writer() as conn:
                conn.execute("INSERT INTO numbers VALUES (%s)", (number,))
            for _ in range(2):
                with causal.reader(wait=10) as conn:
                    cursor = conn.execute("SELECT pg_is_in_recovery(), max(number) FROM numbers")
                    assert cursor.fetchone() == (True, number)
