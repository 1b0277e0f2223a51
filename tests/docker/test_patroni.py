"""A cluster under Patroni, which decides by itself who is the primary, broken while both faces write and read."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.account import Style
from tests.chaos.check import History
from tests.chaos.journal import Outcome, writer_of
from tests.docker.advised import Advised, zone_and_no_reads
from tests.docker.conftest import Clusters
from tests.docker.containers import until
from tests.docker.load import UNDER_WAY, Figures, Load, judge
from tests.docker.patroni import ETCD, NODES, SETTINGS, Patroni, running

OUTAGE = 3.0
"""Seconds that etcd stays away after the leader has given up."""

TRIALS = 10
"""Kills of the leader in the long test."""

IN_VAIN = {"NoHostAvailable", "CommitUnknown", "SessionLost", "OperationalError"}
"""What a writer is told whose time is up: no host; or one died, with the last word on an earlier attempt, before the
body, or within it (psycopg's own)."""

SLACK = 0.1
"""Seconds by which clocks of different threads and processes are allowed to differ."""

PROMPT = 10.0
"""Seconds within which every writer has written again once the cluster takes commits, on a machine that is busy."""

AVERAGES: dict[str, Callable[[list[float]], float]] = {"median": statistics.median, "worst": max}

TIMES = ("log", "cluster", "still", "first", "last")
COUNTS = ("acknowledged", "unknown", "failed", "lost", "doubled")

READERS = 4
"""Of both faces together."""

SHUT_DOWN = {"psycopg.errors.AdminShutdown", "psycopg.OperationalError", "pgroute.SessionLost"}
"""What is told in a session whose server is shut down, or at its end."""

DEMOTED = "Demoting self (immediate-nolock)"
"""What Patroni logs when it finds that it is the leader no more."""


def repair(cluster: Patroni) -> None:
    """Have it whole again, and in synchronous mode."""
    cluster.repair()
    assert cluster.configure(**SETTINGS)
    cluster.settle()


@pytest.fixture(scope="module")
def clusters(compose_command: str, images: None) -> Iterator[Clusters[Patroni]]:
    with contextlib.closing(Clusters(lambda: running(compose_command), repair)) as clusters:
        yield clusters


@pytest.fixture
def cluster(clusters: Clusters[Patroni]) -> Patroni:
    cluster = clusters.whole()
    cluster.sql(cluster.whole(), "TRUNCATE chaos, probe, pgroute.once")
    return cluster


@dataclass(frozen=True, slots=True)
class Change:
    """A change of the primary: when its cause struck, and which host was one from when on."""

    at: float
    host: str
    since: float


def settle(
    load: Load, fault: str, record: list[Figures], change: float | Change, *, zero_loss: bool = True
) -> History:
    """Wait until all is well, end the load, and check and note what came of a fault.

    Args:
        load: its containers are a cluster that nothing ails any more.
        fault: its name.
        record: where the figures go.
        change: what it brought about, or just when it struck.
        zero_loss: that the servers have promised to keep what they acknowledged.
    """
    leader = load.containers.settle()  # type: ignore[attr-defined]
    load.recovered()
    load.end()
    history = load.history(leader, zero_loss=zero_loss)
    judge(history)
    found = figures(load, fault, history, change)
    record += found
    assert not odd(history, change if isinstance(change, float) else change.at, found[0].cluster)
    promoted = not isinstance(change, float)
    assert all((row.last is None and not promoted) or (row.last or 0.0) < PROMPT for row in found)
    assert not promoted or all(row.last is not None for row in found)
    return history


def figures(load: Load, fault: str, history: History, change: float | Change) -> list[Figures]:
    """Return what a fault came to, with what the log of the new leader says, and how long writes stood still."""
    if isinstance(change, float):
        found, at = load.figures(fault, history), change
    else:
        at = change.at
        found = load.figures(fault, history, at=at, host=change.host, since=change.since)
    return [
        dataclasses.replace(row, still=stillness(history, load.crew.numbers(row.face), at)) for row in found
    ]


def stillness(history: History, processes: set[int], since: float) -> float:
    """Return the longest time after a moment in which no write of some processes was acknowledged."""
    times = sorted(
        end.at
        for id_, end in history.ended.items()
        if end.outcome is Outcome.ACKNOWLEDGED and end.at >= since and writer_of(id_)[0] in processes
    )
    return max(later - earlier for earlier, later in itertools.pairwise([since, *times]))


def odd(history: History, at: float, outage: float | None) -> list[str]:
    """Return the errors of writers that nothing justifies.

    A writer without a key may have been in COMMIT when its session ended. Apart from that, `run` tries until the
    writer's time is up, and that must have passed while nothing could be written.
    """
    found = []
    for id_, end in history.ended.items():
        name, writer = end.error.rpartition(".")[2], writer_of(id_)[1]
        begun, back = history.begun[id_], at + (outage or 0.0)
        in_vain = (
            end.at - begun > Style.of(writer).timeout - SLACK and begun > at - 1 and end.at < back + PROMPT
        )
        keyless = writer % 2 == 0
        if end.error and not ((name == "CommitUnknown" and keyless) or (name in IN_VAIN and in_vain)):
            found.append(
                f"after {end.at - begun:.2f} s, {end.at - back:+.2f} s from the end of the outage: {end}"
            )
    return found


def between(history: History, begin: float, end: float) -> History:
    """Return what was begun between two moments, beside all rows."""
    return dataclasses.replace(
        history,
        ended={id_: told for id_, told in history.ended.items() if begin <= history.begun[id_] < end},
        reads=[read for read in history.reads if begin <= read.begun < end],
    )


def summary(found: list[Figures], face: str, average: str, of: Callable[[list[float]], float]) -> Figures:
    """Return one figure for many of the same fault, with the sums of what was counted."""
    rows = [row for row in found if row.face == face]
    changes: dict[str, Any] = {name: of([getattr(row, name) for row in rows]) for name in TIMES}
    changes |= {name: sum(getattr(row, name) for row in rows) for name in COUNTS}
    errors = sum((Counter(row.errors) for row in rows), Counter[str]())
    return dataclasses.replace(rows[0], fault=f"{len(rows)} kills, {average}", errors=dict(errors), **changes)


def failed_reads(history: History, *, since: float = math.inf) -> list[str]:
    """Return the reads that nothing justifies having failed.

    Args:
        history: of the load.
        since: when the old leader was let in again: it starts as a standby, and Patroni may shut it down once more, to
            rewind it. That ends the sessions that readers have there.
    """
    ended = [read for read in history.reads if read.begun > since and read.error in SHUT_DOWN]
    justified = ended[:READERS]
    return [str(read) for read in history.reads if read.error and read not in justified]


@pytest.mark.parametrize(
    ("fault", "hand_over"),
    [
        pytest.param("switchover", Patroni.switch_over, id="switchover", marks=pytest.mark.long),
        pytest.param("failover by hand", Patroni.fail_over, id="failover", marks=pytest.mark.long),
    ],
)
def test_leader_changed_by_the_api(
    cluster: Patroni,
    tmp_path: Path,
    record: list[Figures],
    fault: str,
    hand_over: Callable[[Patroni, str], object],
) -> None:
    with Load(cluster, NODES, tmp_path) as load:
        _, new = cluster.pair()
        at = time.monotonic()
        hand_over(cluster, new)
        seen = load.primary_since(at)
        assert seen.host == new
        history = settle(load, fault, record, Change(at, seen.host, seen.at))
    assert not failed_reads(history)


def test_killed_leader(cluster: Patroni, tmp_path: Path, record: list[Figures]) -> None:
    with Load(cluster, NODES, tmp_path) as load:
        old, new = cluster.pair()
        at = time.monotonic()
        cluster.kill(old)
        seen = load.primary_since(at)
        assert seen.host == new
        load.recovered()
        back = time.monotonic()
        cluster.start(old)
        history = settle(load, "leader killed", record, Change(at, seen.host, seen.at))
    assert not failed_reads(history, since=back)


def test_members_tags_and_a_dead_api(cluster: Patroni) -> None:
    """The third node is known from Patroni alone: it joins, leaves and comes back."""
    leader, sync = cluster.pair()
    [third] = {*NODES} - {leader, sync}
    advised = Advised(cluster)
    with advised.router(leader, sync) as router:
        advised.until_members(router, leader, sync, third)
        # Whoever joined last warms up, and gets few sessions at first.
        seen: list[str] = []

        def both() -> bool:
            seen.append(advised.where(router, "reader"))
            return {*seen} == {sync, third}

        until(both, "readers at both", every=0.01)
        with zone_and_no_reads(cluster, third):
            until(lambda: advised.said(router, third) == "no reads, zone east", "its tags are known")
            assert {advised.where(router, "reader") for _ in range(30)} == {sync}
        with advised.router(leader, sync, asked=[third]) as bereft:
            advised.until_members(bereft, leader, sync, third)
            cluster.pause(third)
            cluster.execute(ETCD[0], "etcdctl", "del", f"/service/pgroute/members/{third}")
            advised.until_members(router, leader, sync)
            until(lambda: bool(bereft.stats().adviser.error), "the API of the paused node is missed")  # type: ignore[union-attr]
            assert bereft.stats().adviser.members == 3, "its last word stands"  # type: ignore[union-attr]
            assert advised.where(bereft, "writer") == leader
            assert advised.where(bereft, "reader") == sync
        cluster.unpause(third)
        advised.until_members(router, leader, sync, third)
        assert advised.where(router, "writer") == leader


@pytest.mark.parametrize(
    "scheduled", [True, pytest.param(False, marks=pytest.mark.long)], ids=["scheduled", "at once"]
)
def test_switchover_with_discovery(cluster: Patroni, scheduled: bool) -> None:
    """Before a scheduled one the primary is drained, so that no session is ended; otherwise nothing differs."""
    old, new = cluster.pair()
    advised = Advised(cluster)
    with advised.router(*NODES) as router, advised.writers(router) as outcome:
        until(lambda: outcome.written > 10, "writes")
        drained = advised.drained(router)
        if scheduled:
            advised.schedule(old, new, seconds=3.2)
        else:
            cluster.switch_over(new)
        until(lambda: advised.where(router, "writer") == new, "the new primary")
        written = outcome.written
        until(lambda: outcome.written > written + 10, "writes at the new primary")
    if scheduled:
        assert drained() == [old]
        assert outcome.errors == []
    else:
        assert drained() == []


@pytest.mark.long
def test_killed_leader_without_synchronous_mode(
    cluster: Patroni, tmp_path: Path, record: list[Figures]
) -> None:
    """The servers may lose what the dead leader alone had acknowledged; nobody is misled about anything else."""
    cluster.synchronous("off")
    old = cluster.whole(synchronous=False)
    with Load(cluster, NODES, tmp_path) as load:
        at = time.monotonic()
        cluster.kill(old)
        seen = load.primary_since(at)
        assert seen.host != old
        load.recovered()
        back = time.monotonic()
        cluster.start(old)
        cluster.whole(synchronous=False)
        cluster.synchronous("on")
        change = Change(at, seen.host, seen.at)
        history = settle(load, "leader killed, asynchronous", record, change, zero_loss=False)
    assert not failed_reads(history, since=back)


@pytest.mark.long
def test_paused_leader_comes_back_beside_another(
    cluster: Patroni, tmp_path: Path, record: list[Figures]
) -> None:
    with Load(cluster, NODES, tmp_path) as load:
        old = cluster.whole()
        timeline = cluster.timeline(old)
        at = time.monotonic()
        cluster.pause(old)
        seen = load.primary_since(at)
        assert seen.host != old
        load.recovered()
        back = time.monotonic()
        cluster.unpause(old)
        until(lambda: cluster.logged(old, DEMOTED, back) is not None, "the old leader finds that it is none")
        history = settle(load, "leader paused", record, Change(at, seen.host, seen.at))
    assert not [
        end for id_, end in history.ended.items() if end.timeline == timeline and history.begun[id_] > back
    ]
    assert not failed_reads(history, since=back)


@pytest.mark.long
def test_killed_leader_of_etcd(cluster: Patroni, tmp_path: Path, record: list[Figures]) -> None:
    leader, etcd = cluster.whole(), cluster.etcd_leader()
    with Load(cluster, NODES, tmp_path) as load:
        at = time.monotonic()
        cluster.kill(etcd)
        others = [name for name in ETCD if name != etcd]
        until(lambda: cluster.etcd_leader(others) in others, "another leader of etcd")
        load.recovered()
        cluster.start(etcd)
        history = settle(load, "leader of etcd killed", record, at)
    assert cluster.whole() == leader
    assert not [end for end in history.ended.values() if end.error]
    assert not failed_reads(history)


@pytest.mark.long
def test_all_of_etcd_gone(cluster: Patroni, tmp_path: Path, record: list[Figures]) -> None:
    old = cluster.whole()
    with Load(cluster, NODES, tmp_path) as load:
        at = time.monotonic()
        cluster.kill(*ETCD)
        until(lambda: cluster.say(old)["role"] == "replica", "the leader gives up")
        gone = time.monotonic()
        time.sleep(OUTAGE)
        assert not load.acknowledged(gone + UNDER_WAY)
        assert load.reads(gone) > READERS
        cluster.start(*ETCD)
        seen = load.primary_since(gone)
        history = settle(load, "etcd gone", record, Change(at, seen.host, seen.at))
    assert not failed_reads(history)


@pytest.mark.long
def test_leader_cut_off_from_all_but_its_clients(
    cluster: Patroni, tmp_path: Path, record: list[Figures]
) -> None:
    with Load(cluster, NODES, tmp_path) as load:
        old, new = cluster.pair()
        timeline = cluster.timeline(old)
        at = time.monotonic()
        cluster.cut(old, "dcs", "replication")
        cut = time.monotonic()
        until(lambda: cluster.commits_waiting(old) > 0, "writes wait at the old leader", every=0.02)
        seen = load.primary_since(at)
        assert seen.host == new
        load.recovered()
        back = time.monotonic()
        cluster.rejoin(old)
        history = settle(load, "leader cut off", record, Change(at, seen.host, seen.at))
    there = [
        (id_, end)
        for id_, end in history.ended.items()
        if end.outcome is Outcome.ACKNOWLEDGED and end.timeline == timeline
    ]
    assert not [end for id_, end in there if history.begun[id_] > cut]
    # What was begun before may have reached a standby in time: then its key tells so, later, and nothing else does.
    assert not [end for id_, end in there if writer_of(id_)[1] % 2 == 0 and end.at > cut + UNDER_WAY]
    assert not failed_reads(history, since=back)


@pytest.mark.long
def test_synchronous_mode_off_and_on(cluster: Patroni, tmp_path: Path, record: list[Figures]) -> None:
    leader = cluster.whole()
    with Load(cluster, NODES, tmp_path) as load:
        at = time.monotonic()
        cluster.synchronous("off")
        assert cluster.whole(synchronous=False) == leader
        load.recovered()
        cluster.synchronous("on")
        history = settle(load, "synchronous mode off and on", record, at)
    assert cluster.whole() == leader
    assert not [end for end in history.ended.values() if end.error]
    assert not failed_reads(history)


@pytest.mark.long
@pytest.mark.timeout(1200, method="signal", func_only=True)
def test_leader_killed_again_and_again(cluster: Patroni, tmp_path: Path, record: list[Figures]) -> None:
    trials = []
    with Load(cluster, NODES, tmp_path) as load:
        for _ in range(TRIALS):
            old = cluster.whole()
            at = time.monotonic()
            cluster.kill(old)
            seen = load.primary_since(at)
            load.recovered()
            cluster.start(old)
            leader = cluster.settle()
            load.recovered()
            trials.append((Change(at, seen.host, seen.at), time.monotonic()))
        load.end()
        history = load.history(leader)
        judge(history)
        found = []
        for number, (change, end) in enumerate(trials, 1):
            part = between(history, change.at, end)
            rows = figures(load, f"kill {number}", part, change)
            record += rows
            found += rows
            assert not odd(part, change.at, rows[0].cluster)
            assert not failed_reads(part, since=change.since)
    record += [summary(found, face, name, of) for name, of in AVERAGES.items() for face in ("sync", "async")]
    assert all(row.last is not None and row.last < PROMPT for row in found)
