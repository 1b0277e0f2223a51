"""Real processes share the watch of real servers: one probes, the others see as much, whatever becomes of the one."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pgroute.testing import LocalCluster
from tests.names.relay import relay
from tests.shared_watch.processes import Master, Process
from tests.support import dsn_at, eventually

pytestmark = pytest.mark.cluster

PROBES = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE '%pgroute-monitor%'"
ALL = ["primary", "standby", "standby"]


def probes(cluster: LocalCluster) -> list[int]:
    """Return the number of probe connections at each server."""
    return [node.execute(PROBES)[0][0] for node in cluster.nodes if node.running]


Start = Callable[..., Process]


@pytest.fixture(scope="module")
def master() -> Iterator[Master]:
    master = Master()
    yield master
    master.close()


@pytest.fixture
def start(master: Master) -> Iterator[Start]:
    """Starts a process with a router, which ends with the test; to be asked for last, so that it ends first."""
    with contextlib.ExitStack() as stack:
        yield lambda dsn, **probe: stack.enter_context(master.start(dsn, **probe))


@pytest.fixture
def dsn(shared: LocalCluster) -> str:
    """The primary alone: it has one watch, and one process that leads."""
    return dsn_at(f"{shared.primary.host}:{shared.primary.port}", shared)


@pytest.fixture
def three(dsn: str, start: Start) -> list[Process]:
    """Three processes that share a watch; the first one leads."""
    first = start(dsn)
    eventually(lambda: first.modes == ["shared"])
    others = [start(dsn), start(dsn)]
    eventually(lambda: all(process.modes == ["told"] for process in others))
    eventually(lambda: all(process.roles == ["primary"] for process in others))
    for process in [first, *others]:
        wait_for_the_first_events(process)
    return [first, *others]


def events_until(process: Process, last: str) -> list[str]:
    """Return what is told up to an event: subscribers are told in a thread, after the hosts are known."""
    kinds: list[str] = []

    def told() -> bool:
        kinds.extend(process.ask("events"))
        return last in kinds

    eventually(told)
    return kinds


def wait_for_the_first_events(process: Process) -> None:
    """Take what is told of the beginning."""
    events_until(process, "primary-changed")


def one_watches(processes: list[Process]) -> bool:
    """Whether one of the processes leads, and all others are told."""
    modes = sorted(mode for process in processes for mode in process.modes)
    return modes == ["shared"] + ["told"] * (len(processes) - 1)


def test_processes_hold_one_probe_connection_together_and_leave_no_file(
    shared: LocalCluster, place: Path, start: Start
) -> None:
    processes = [start(shared.dsn) for _ in range(3)]
    eventually(lambda: all(process.roles == ALL for process in processes))
    eventually(lambda: probes(shared) == [1, 1, 1])
    modes = [mode for process in processes for mode in process.modes]
    assert sorted(modes) == ["shared"] * 3 + ["told"] * 6
    for process in processes:
        process.close()
    assert list(place.glob("pgroute-*")) == []


def test_without_the_option_each_process_probes_for_itself(
    shared: LocalCluster, dsn: str, place: Path, start: Start
) -> None:
    processes = [start(dsn, share=False) for _ in range(2)]
    eventually(lambda: all(process.roles == ["primary"] for process in processes))
    assert probes(shared)[0] == 2
    assert [process.ask("sharing").popitem()[1] for process in processes] == [["alone", 0, "share=False"]] * 2
    assert list(place.glob("pgroute-*")) == []


@pytest.mark.parametrize("how", ["closed", "killed"])
def test_another_process_goes_on_when_the_one_that_watches_ends(three: list[Process], how: str) -> None:
    first, *others = three
    if how == "closed":
        first.close()
    else:
        first.signal(signal.SIGKILL)
    eventually(lambda: one_watches(others))
    assert all(process.ask("kick") for process in others)
    assert all(process.roles == ["primary"] for process in others)
    assert [process.ask("events") for process in others] == [[], []], "nothing has happened to the hosts"


def test_another_process_goes_on_when_the_one_that_watches_hangs_which_then_is_told(
    three: list[Process],
) -> None:
    first, *others = three
    first.signal(signal.SIGSTOP)
    eventually(lambda: one_watches(others))
    assert all(process.ask("kick") for process in others)
    first.signal(signal.SIGCONT)
    eventually(lambda: one_watches(three) and first.modes == ["told"])
    assert all(process.ask("kick") for process in three)
    assert [process.ask("events") for process in three] == [[], [], []]


def test_who_needs_a_probe_notices_at_once_that_the_one_that_watches_hangs(three: list[Process]) -> None:
    first, second, _ = three
    first.signal(signal.SIGSTOP)
    assert second.ask("kick")
    eventually(lambda: "told" not in second.modes or one_watches(three[1:]))


def test_a_child_of_the_one_that_watches_keeps_nothing_alive(three: list[Process]) -> None:
    first, *others = three
    child = first.ask("fork")
    try:
        first.signal(signal.SIGKILL)
        eventually(lambda: one_watches(others))
        assert all(process.ask("kick") for process in others)
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_stopped_process_that_is_told_holds_up_nobody_and_catches_up(three: list[Process]) -> None:
    first, second, third = three
    third.signal(signal.SIGSTOP)
    begun = time.monotonic()
    assert second.ask("kick")
    first.close()
    eventually(lambda: second.modes == ["shared"])
    third.signal(signal.SIGCONT)
    eventually(lambda: third.modes == ["told"])
    eventually(lambda: third.last_seen > begun)


def test_a_newcomer_knows_the_hosts_though_the_one_that_watches_hangs(
    three: list[Process], start: Start, dsn: str
) -> None:
    first, *others = three
    first.signal(signal.SIGSTOP)
    newcomer = start(dsn)
    eventually(lambda: newcomer.roles == ["primary"])
    eventually(lambda: one_watches([*others, newcomer]))


def test_the_most_eager_process_is_served(dsn: str, start: Start) -> None:
    first = start(dsn, interval=30.0)
    eventually(lambda: first.roles == ["primary"])
    eager = start(dsn, interval=0.05)
    eventually(lambda: eager.modes == ["told"] and eager.roles == ["primary"])
    begun = time.monotonic()
    seen = {eager.last_seen}
    while len(seen) < 5:
        assert time.monotonic() < begun + 10.0, "alone it takes 0.2 s"
        seen.add(eager.last_seen)


@pytest.mark.parametrize(
    "ending",
    [
        pytest.param(None, id="watched", marks=pytest.mark.long),
        pytest.param(signal.SIGKILL, id="killed"),
        pytest.param(signal.SIGSTOP, id="stopped"),
    ],
)
def test_all_processes_follow_a_failover_also_without_the_one_that_watched(
    any_cluster: LocalCluster, start: Start, ending: signal.Signals | None
) -> None:
    first = start(any_cluster.dsn)
    eventually(lambda: first.modes == ["shared"] * 3)
    others = [start(any_cluster.dsn), start(any_cluster.dsn)]
    eventually(lambda: all(process.roles == ALL for process in others))
    for process in others:
        wait_for_the_first_events(process)
    new = any_cluster.nodes[1]
    any_cluster.primary.kill()
    if ending is not None:
        first.signal(ending)
    new.promote()
    assert [process.ask("write", 10.0) for process in others] == [new.port] * 2
    for process in others:
        assert process.ask("primary") == f"{new.host}:{new.port}"
        kinds = events_until(process, "primary-changed")
        # The new primary may be seen before the end of the old one.
        assert [kind for kind in kinds if "primary" in kind] in (
            ["primary-lost", "primary-changed"],
            ["stale-primary", "primary-changed"],
        ), kinds


@pytest.fixture
def lead_to(place: Path) -> Callable[..., None]:
    """Has the name db.test lead to addresses, or have none, for the processes that run and those that start."""

    def lead_to(*addresses: str) -> None:
        (place / "zone.new").write_text(json.dumps({"db.test": addresses} if addresses else {}))
        (place / "zone.new").replace(place / "zone")

    return lead_to


MOVED = {"min_ttl": 0.2, "max_ttl": 0.2, "lookup_timeout": 0.5, "interval": 0.3}
NOWHERE = "127.0.0.9"


def up_without_events(process: Process, *how: str) -> bool:
    """Whether a new probe finds the primary, to which nothing has happened."""
    return process.ask("kick", *how) and process.roles == ["primary"] and not process.ask("events")


@pytest.fixture
def two(shared: LocalCluster, lead_to: Callable[..., None], start: Start) -> list[Process]:
    """Two processes that share the watch of db.test; the first one leads."""
    dsn = dsn_at(f"db.test:{shared.primary.port}", shared)
    lead_to(shared.primary.host)
    first = start(dsn, **MOVED)
    eventually(lambda: first.modes == ["shared"])
    second = start(dsn, **MOVED)
    eventually(lambda: second.modes == ["told"] and second.roles == ["primary"])
    wait_for_the_first_events(second)
    return [first, second]


def test_the_address_that_a_name_has_left_serves_on_when_the_one_that_watches_ends(
    two: list[Process], lead_to: Callable[..., None]
) -> None:
    first, second = two
    lead_to(NOWHERE)
    eventually(lambda: NOWHERE in second.ask("reason") and second.ask("addresses") == [[NOWHERE]])
    first.signal(signal.SIGKILL)
    eventually(lambda: second.modes == ["shared"])
    assert up_without_events(second)


def test_of_several_addresses_the_one_that_serves_is_kept_when_the_one_that_watches_ends(
    shared: LocalCluster, two: list[Process], lead_to: Callable[..., None]
) -> None:
    first, second = two
    with relay((NOWHERE, shared.primary.port), (shared.nodes[1].host, shared.nodes[1].port)):
        lead_to(NOWHERE, shared.primary.host)
        eventually(lambda: second.ask("addresses") == [[NOWHERE, shared.primary.host]])
        first.signal(signal.SIGKILL)
        eventually(lambda: second.modes == ["shared"])
        assert up_without_events(second)
        second.close()


def test_a_process_that_has_never_found_the_address_of_a_name_goes_on_where_the_host_was(
    shared: LocalCluster, lead_to: Callable[..., None], start: Start
) -> None:
    lead_to(shared.primary.host)
    first = start(dsn_at(f"db.test:{shared.primary.port}", shared), **MOVED)
    eventually(lambda: first.modes == ["shared"])
    lead_to()
    second = start(dsn_at(f"db.test:{shared.primary.port}", shared), **MOVED)
    eventually(lambda: second.modes == ["told"] and second.roles == ["primary"])
    wait_for_the_first_events(second)
    first.signal(signal.SIGKILL)
    eventually(lambda: second.modes == ["shared"])
    assert up_without_events(second)
    assert up_without_events(second, "fresh"), "it takes a new connection, as it does every minute"
