"""A primary and two replicas in containers, broken as machines, disks and networks break."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.check import History
from tests.chaos.journal import Outcome
from tests.docker.conftest import Clusters
from tests.docker.containers import until
from tests.docker.load import UNDER_WAY, Figures, Load, judge
from tests.docker.primary_replica import NETWORKS, NODES, Cluster, repair, running

PROMPT = 8.0
"""Seconds within which every writer has written again once commits are taken: TCP itself may take three of them to
notice that a network is back.
"""

OUTAGE = 4.0
# An application whose own address changes hears nothing more on what it had open; only TCP itself can tell it.
TCP = "tcp_user_timeout=4000&keepalives_idle=2&keepalives_interval=1&keepalives_count=2"


@pytest.fixture(scope="module")
def clusters(compose_command: str, images: None) -> Iterator[Clusters[Cluster]]:
    with contextlib.closing(Clusters(lambda: running(compose_command), repair)) as clusters:
        yield clusters


@pytest.fixture
def cluster(clusters: Clusters[Cluster]) -> Cluster:
    cluster = clusters.whole()
    # A server is not told of clients that were cut off, and keeps what they had begun.
    end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'app'"
    cluster.sql(cluster.primary(), f"{end}; TRUNCATE chaos, probe, pgroute.once")
    return cluster


def settle(load: Load, fault: str, record: list[Figures], **where: object) -> None:
    """End a load whose cluster is whole again, and check and note what came of it."""
    load.recovered()
    load.end()
    history = load.history(load.containers.whole())  # type: ignore[attr-defined]
    judge(history)
    found = load.figures(fault, history, **where)  # type: ignore[arg-type]
    record += found
    assert all(figures.last is not None and figures.last < PROMPT for figures in found)


def test_crash(cluster: Cluster, tmp_path: Path, record: list[Figures]) -> None:
    old = cluster.primary()
    with Load(cluster, NODES, tmp_path) as load:
        at = time.monotonic()
        cluster.kill(old)
        new = cluster.promote()
        seen = load.primary_since(at)
        assert seen.host == new
        load.recovered()
        cluster.start(old)
        cluster.rejoin(old)
        settle(load, "crash", record, at=at, host=new, since=seen.at)


@pytest.mark.long
def test_pause(cluster: Cluster, tmp_path: Path, record: list[Figures]) -> None:
    old = cluster.primary()
    with Load(cluster, NODES, tmp_path) as load:
        at = time.monotonic()
        cluster.pause(old)
        new = cluster.promote()
        seen = load.primary_since(at)
        load.recovered()
        cluster.rejoin(old)
        settle(load, "pause", record, at=at, host=new, since=seen.at)


@pytest.mark.long
def test_partition(cluster: Cluster, tmp_path: Path, record: list[Figures]) -> None:
    """The old primary runs on behind the partition, and comes back in sight before anybody has told it."""
    old = cluster.primary()
    with Load(cluster, NODES, tmp_path) as load:
        at = time.monotonic()
        cluster.cut(old, *NETWORKS)
        new = cluster.promote()
        seen = load.primary_since(at)
        load.recovered()
        cluster.join(old, "clients", old)
        # It has no standby that could acknowledge, but nothing else would keep a writer from it.
        until(lambda: load.sees(old, "primary", seen.at), "the old primary in sight")
        before = load.acknowledged()
        until(lambda: load.acknowledged() > before + 100, "writes beside the old primary")
        cluster.rejoin(old)
        settle(load, "partition", record, at=at, host=new, since=seen.at)


@pytest.mark.long
def test_partition_from_clients_only(cluster: Cluster, tmp_path: Path, record: list[Figures]) -> None:
    """Nobody is promoted: the primary does not know that its clients are gone."""
    primary = cluster.primary()
    with Load(cluster, NODES, tmp_path) as load:
        at = time.monotonic()
        cluster.cut(primary, "clients")
        cut = time.monotonic()
        time.sleep(OUTAGE)
        assert not load.acknowledged(cut + UNDER_WAY)
        reads = load.reads(cut + 1)
        assert reads, "readers go on at the standbys"
        cluster.join(primary, "clients", primary)
        since = time.monotonic()
        load.recovered()
        settle(load, "partition, clients only", record, at=at, since=since)


@pytest.mark.long
@pytest.mark.parametrize("lost", ["to the primary", "from the primary"])
def test_asymmetric_partition(cluster: Cluster, tmp_path: Path, record: list[Figures], lost: str) -> None:
    """Packets are lost in one direction only, until the operator isolates the primary and promotes another."""
    old = cluster.primary()
    rule = "input tcp dport 5432 drop" if lost == "to the primary" else "output tcp sport 5432 drop"
    with Load(cluster, NODES, tmp_path) as load:
        at = time.monotonic()
        with cluster.dropping(old, *rule.split(maxsplit=1)):
            # Else a standby may receive, unacknowledged, what the one that is promoted has not.
            cluster.cut(old, "replication")
            new = cluster.promote()
            seen = load.primary_since(at)
            load.recovered()
        cluster.rejoin(old)
        settle(load, f"lost {lost}", record, at=at, host=new, since=seen.at)


@pytest.mark.long
def test_slow_network(cluster: Cluster, tmp_path: Path, record: list[Figures]) -> None:
    """Everything takes longer than usual; nobody must be taken for dead because of it."""
    primary = cluster.primary()
    with Load(cluster, NODES, tmp_path) as load:
        how = cluster.slow_down(primary)
        since = time.monotonic()
        load.recovered()
        until(lambda: load.acknowledged(since) > 100, f"writes through {how}")
        cluster.speed_up(primary)
        load.recovered()
        load.end()
        history = load.history(cluster.whole())
        judge(history)
        record += load.figures(f"slow network ({how.partition(' ')[0]})", history)
    assert cluster.primary() == primary
    assert not load.errors()


@pytest.mark.long
def test_rolling_restart(cluster: Cluster, tmp_path: Path, record: list[Figures]) -> None:
    """Every node in turn, the primary last, after its work was given to a standby."""
    old = cluster.primary()
    with Load(cluster, NODES, tmp_path) as load:
        for node in NODES:
            if node != old:
                cluster.stop(node)
                cluster.start(node)
                cluster.whole()
        at = time.monotonic()
        cluster.stop(old)
        new = cluster.promote()
        seen = load.primary_since(at)
        load.recovered()
        outage = time.monotonic() - at
        cluster.rejoin(old)
        settle(load, "rolling restart", record, at=at, host=new, since=seen.at)
        assert not load.told_keyed(patience=outage)


def test_full_disk(cluster: Cluster, tmp_path: Path, record: list[Figures]) -> None:
    """First nothing can be added, then no WAL can be written and the server ends itself, then a standby takes over."""
    old = cluster.primary()
    with Load(cluster, NODES, tmp_path) as load:
        at = time.monotonic()
        cluster.fill_disk(old)
        until(lambda: load.told("DiskFull") > 0, "a writer is told of the full disk")
        # It reads on, and is still the primary.
        assert cluster.primary() == old
        until(
            lambda: not (cluster.switch_wal(old) or cluster.state(old) == "running"),
            "the server has no room for its WAL, and ends",
        )
        new = cluster.promote()
        seen = load.primary_since(at)
        load.recovered()
        cluster.empty_disk(old)
        cluster.rejoin(old)
        settle(load, "full disk", record, at=at, host=new, since=seen.at)


@pytest.mark.long
def test_rejoin_while_the_promotion_is_fresh(cluster: Cluster) -> None:
    """Until its first checkpoint a promoted server's control file has the old timeline, which pg_rewind believes."""
    old = cluster.primary()
    wide = "SELECT repeat(md5(number::text), 60) AS text FROM generate_series(1, 20000) AS number"
    cluster.sql(old, f"DROP TABLE IF EXISTS wide; CREATE TABLE wide AS {wide}")
    cluster.kill(old)
    new = cluster.promote()
    in_control_file = cluster.sql(new, "SELECT timeline_id FROM pg_control_checkpoint()")
    [[wal]] = cluster.sql(new, "SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)")
    if int(in_control_file[0][0]) == int(wal, 16):
        pytest.skip("this machine was slower than the new primary's first checkpoint")
    at = time.monotonic()
    cluster.rejoin(old)
    assert cluster.primary() == new
    assert cluster.logged(old, "pg_rewind: Done!", at) is not None


@pytest.mark.long
@pytest.mark.parametrize(
    "synchronous",
    [pytest.param(True, id="synchronous"), pytest.param(False, id="asynchronous", marks=pytest.mark.long)],
)
def test_both_sides_of_a_partition_write(
    cluster: Cluster, tmp_path: Path, record: list[Figures], synchronous: bool
) -> None:
    """The old primary and some clients are on an island, and it believes that it is the primary still.

    With synchronous replication it can acknowledge nothing there. Without, it acknowledges what will be lost: no client
    can know. Either way, once the island's clients have seen the new primary they write nowhere else.
    """
    cluster.synchronous(on=synchronous)
    old = cluster.primary()
    with (
        Load(cluster, NODES, tmp_path / "mainland") as load,
        Load(cluster, NODES, tmp_path / "island", service="app2", parameters=TCP) as island,
    ):
        at = time.monotonic()
        cluster.cut(old, *NETWORKS)
        cluster.cut("app2", "clients")
        cluster.join(old, "island", old)
        alone = time.monotonic()
        new = cluster.promote()
        seen = load.primary_since(at)
        load.recovered()
        if synchronous:
            until(lambda: cluster.waiting_for_standby(old) > 0, "commits of the island wait")
            assert not island.acknowledged(alone + UNDER_WAY)
        else:
            island.recovered()
        # The island is joined to the mainland; the old primary is still one.
        cluster.cut(old, "island")
        cluster.join("app2", "clients")
        cluster.join(old, "clients", old)
        island.recovered()
        joined = time.monotonic()
        until(lambda: load.sees(old, "primary", seen.at), "the old primary in sight")
        until(lambda: island.acknowledged(joined) > 100, "writes of the island at the new primary")
        island.end()
        behind = cluster.rows_only_in(old, new)
        cluster.rejoin(old)
        load.recovered()
        load.end()
        history = load.history(cluster.whole(), zero_loss=synchronous, left_behind=behind, others=[island])
        verdict = judge(history)
        name = f"two sides, {'synchronous' if synchronous else 'asynchronous'}"
        record += load.figures(name, history, at=at, host=new, since=seen.at)
        record += island.figures(f"{name}, island", history)
        if synchronous:
            assert verdict.lost_by_servers == 0
        else:
            # Acknowledged by the old primary alone, while nobody of the island could see the other.
            assert verdict.lost_by_servers > 0
            assert {row.id for row in behind} >= _lost(history)


def _lost(history: History) -> set[int]:
    """Return the acknowledged writes that the primary has not."""
    here = {row.id for row in history.rows}
    return {
        id_ for id_, end in history.ended.items() if end.outcome is Outcome.ACKNOWLEDGED and id_ not in here
    }
