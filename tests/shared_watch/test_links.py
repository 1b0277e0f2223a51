"""A process at the other end that hangs, lies or does not read: the router goes on, if need be by itself."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import pytest

from pgroute import Event, HostState, ProbeOptions, Router
from pgroute.core.faults.classify import Fault, FaultKind
from pgroute.core.model.roles import HostRole
from pgroute.core.topology.observations import Answer, Failure
from pgroute.core.topology.wire import Ask, Beat, Enter, Message, Need, Note, Welcome, decode, encode
from pgroute.monitor.shared import link, watcher
from pgroute.monitor.shared.folder import Folder
from pgroute.monitor.shared.identity import Identity
from pgroute.monitor.shared.turns import Follow, Lead, take_place
from pgroute.testing import LocalCluster
from tests.shared_watch.entered import entered
from tests.support import dsn_at, eventually

pytestmark = pytest.mark.cluster

WATCH = "watch"
ENTER = Enter(WATCH, Need(1.0, 1.0))
SHARED = ProbeOptions(share=True)


@pytest.fixture(autouse=True)
def known_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Identity, "digest", lambda *_: WATCH)
    monkeypatch.setattr(watcher, "RETRY", 0.2)


@pytest.fixture
def dsn(shared: LocalCluster) -> str:
    """The primary alone, so that there is one watch."""
    return dsn_at(f"{shared.primary.host}:{shared.primary.port}", shared)


@pytest.fixture
def folder() -> Iterator[Folder]:
    with contextlib.closing(entered()) as folder:
        yield folder


def up(router: Router) -> bool:
    return router.topology.primary is not None


def mode(router: Router) -> str:
    return "".join(sharing.mode for sharing in router.stats().watches.values())


def others(router: Router) -> int:
    return sum(sharing.others for sharing in router.stats().watches.values())


class FakeLeader:
    """Leads, and sends to each process what the test says."""

    def __init__(self, folder: Folder, *sent: bytes | Message, after: int = -1) -> None:
        self.entered = 0
        self._sent = [data if isinstance(data, bytes) else encode(data) for data in sent]
        lead = take_place(folder, WATCH, after=after)
        assert isinstance(lead, Lead)
        self._lead = lead
        self._lead.sock.setblocking(True)
        self._guests: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._lead.sock.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._lead.close()
        for guest in self._guests:
            guest.close()

    def _serve(self) -> None:
        while True:
            try:
                guest, _ = self._lead.sock.accept()
            except OSError:
                return
            self._guests.append(guest)
            with contextlib.suppress(OSError):
                for data in self._sent:
                    guest.send(data)
            self.entered += 1


def future_answer() -> Answer:
    return Answer(("", 0), HostRole.STANDBY, time.monotonic() + 100.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "sent",
    [
        (b"nonsense",),
        (b'["beat",{"linked":true}]' + b" " * 20_000,),
        (Welcome("other"),),
        (Beat(linked=True),),
        (Answer(("", 0), HostRole.STANDBY, 1.0),),  # type: ignore[arg-type]
        (Welcome(WATCH), Ask(1.0)),
        (Welcome(WATCH), b'["answer",{"role":"standby","sent_at":1e8}]'),
        (Welcome(WATCH), Note("remark"), b"[]"),
    ],
    ids=lambda sent: repr(sent)[:40],
)
def test_a_process_that_is_told_nonsense_probes_by_itself(
    sent: tuple[Any, ...], dsn: str, folder: Folder
) -> None:
    with FakeLeader(folder, *sent) as leader, Router(dsn, probe=SHARED) as router:
        eventually(lambda: up(router))
        assert mode(router) == "alone"
        eventually(lambda: leader.entered > 1)  # it tries again
        assert up(router)
    assert folder.names() == ["key"]


def test_a_process_that_knows_an_address_is_not_led_by_one_that_has_never_found_any(
    shared: LocalCluster, folder: Folder
) -> None:
    host = f"localhost:{shared.primary.port}"
    fault = Fault(FaultKind.UNRESOLVED, host_suspect=True, reason="could not resolve 'localhost'")
    unresolved = Failure(("", 0), fault, time.monotonic())  # type: ignore[arg-type]
    with (
        Router(dsn_at(host, shared, dbname="template1"), probe=ProbeOptions(share=False)) as other,
        FakeLeader(folder, Welcome(WATCH), unresolved) as leader,
    ):
        eventually(lambda: up(other))  # the lookup is everybody's in this process
        with Router(dsn_at(host, shared), probe=SHARED) as router:
            eventually(lambda: up(router))
            assert mode(router) == "alone"
            eventually(lambda: leader.entered > 1)  # it tries again
            assert up(router)


def test_a_process_that_is_told_nothing_takes_the_next_turn(dsn: str, folder: Folder) -> None:
    with FakeLeader(folder), Router(dsn, probe=SHARED) as router:
        eventually(lambda: up(router) and mode(router) == "shared")


def test_a_process_whose_leader_falls_silent_takes_the_next_turn(dsn: str, folder: Folder) -> None:
    role = Answer(("", 0), HostRole.STANDBY, 1.0)  # type: ignore[arg-type]
    with FakeLeader(folder, Welcome(WATCH), role), Router(dsn, probe=SHARED) as router:
        eventually(lambda: mode(router) == "told" and router.topology.hosts[0].role is HostRole.STANDBY)
        eventually(lambda: up(router) and mode(router) == "shared")


@pytest.mark.parametrize("known", ["an answer", "a failure"])
def test_what_the_next_leader_has_seen_before_is_no_news(known: str, dsn: str, folder: Folder) -> None:
    now = time.monotonic()
    answer = Answer(("", 0), HostRole.PRIMARY, now)  # type: ignore[arg-type]
    earlier = replace(answer, role=HostRole.STANDBY, sent_at=now - 0.1)
    refused = Failure(answer.host, Fault(FaultKind.REFUSED, host_suspect=True, reason="refused"), now)
    events: list[Event] = []
    router = Router(dsn, probe=SHARED)
    router.subscribe(events.append)
    with FakeLeader(folder, Welcome(WATCH), answer if known == "an answer" else refused) as first:
        router.open()
        eventually(lambda: router.topology.hosts[0].state is not HostState.UNKNOWN)
        second = FakeLeader(folder, Welcome(WATCH), earlier, after=0)
    with second:
        eventually(lambda: second.entered)
        # In its turn, as the second one says nothing more.
        eventually(lambda: up(router) and mode(router) == "shared")
        router.close()
    assert first.entered == 1
    assert events
    assert [event.text for event in events if event.after and event.after.role is HostRole.STANDBY] == []


def test_nobody_trusts_a_process_of_another_user(
    dsn: str, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "peer_of", lambda _: 4321)
    with FakeLeader(folder, Welcome(WATCH)), Router(dsn, probe=SHARED) as router:
        eventually(lambda: up(router))
        [sharing] = router.stats().watches.values()
        assert (sharing.mode, sharing.reason) == ("alone", "the process at the other end is of user id 4321")


class Guest:
    """A process that is told, as far as a test needs it."""

    def __init__(self, folder: Folder) -> None:
        place = take_place(folder, WATCH)
        assert isinstance(place, Follow)
        self.sock = place.sock
        self.sock.settimeout(10.0)

    def send(self, message: Message | bytes) -> None:
        self.sock.send(message if isinstance(message, bytes) else encode(message))

    def receive(self) -> Message | None:
        data = self.sock.recv(20_000)
        return decode(data, ("", 0)) if data else None  # type: ignore[arg-type]

    def wait_for(self, kind: type[Message]) -> Message:
        while not isinstance(message := self.receive(), kind):
            assert message is not None
        return message

    @property
    def dropped(self) -> bool:
        with contextlib.suppress(ConnectionError):
            while self.receive() is not None:
                pass
        return True


@pytest.fixture
def router(dsn: str, folder: Folder) -> Iterator[Router]:
    with Router(dsn, probe=ProbeOptions(interval=0.1, share=True)) as router:
        eventually(lambda: up(router) and mode(router) == "shared")
        yield router


@pytest.fixture
def guest(router: Router, folder: Folder) -> Iterator[Guest]:
    guest = Guest(folder)
    with guest.sock:
        yield guest


def test_a_process_is_welcomed_with_what_was_seen_last(router: Router, guest: Guest) -> None:
    guest.send(ENTER)
    assert guest.receive() == Welcome(WATCH)
    assert guest.receive() == Beat(linked=True)
    assert guest.receive() == Note("")
    assert isinstance(guest.receive(), Answer)
    eventually(lambda: others(router) == 1)
    guest.sock.close()
    eventually(lambda: others(router) == 0)


@pytest.mark.parametrize(
    "sent",
    [
        (b"nonsense",),
        (b"x" * 20_000,),
        (Enter("other", Need(1.0, 1.0)),),
        (Ask(1.0),),
        (ENTER, ENTER),
        (ENTER, Welcome(WATCH)),
    ],
    ids=lambda sent: repr(sent)[:40],
)
def test_a_process_that_sends_nonsense_is_dropped(
    sent: tuple[Any, ...], router: Router, guest: Guest, folder: Folder
) -> None:
    other = Guest(folder)
    with other.sock:
        other.send(ENTER)
        with contextlib.suppress(BrokenPipeError):
            for message in sent:
                guest.send(message)
        assert guest.dropped
        other.wait_for(Answer)
        eventually(lambda: others(router) == 1)


def test_a_process_that_does_not_read_is_dropped_and_keeps_nobody_waiting(
    router: Router, guest: Guest, folder: Folder
) -> None:
    other = Guest(folder)
    with other.sock:
        guest.send(Enter(WATCH, Need(0.001, 1.0)))
        other.send(ENTER)
        eventually(lambda: others(router) == 2)
        while others(router) == 2:
            other.wait_for(Answer)
        assert guest.dropped


def test_a_process_that_says_nothing_is_dropped(router: Router, guest: Guest) -> None:
    assert guest.dropped
    assert others(router) == 0


def test_the_most_eager_process_sets_the_pace(router: Router, guest: Guest) -> None:
    guest.send(Enter(WATCH, Need(0.01, 1.0)))
    times: list[float] = []
    while len(times) < 20:
        answer = guest.wait_for(Answer)
        assert isinstance(answer, Answer)
        times.append(answer.sent_at)
    gaps = sorted(later - earlier for earlier, later in itertools.pairwise(times))
    assert gaps[len(gaps) // 2] < 0.09, "alone it probes every 0.1 s"
    assert up(router)


def test_who_asks_gets_a_probe_that_was_sent_later(dsn: str, folder: Folder) -> None:
    with Router(dsn, probe=ProbeOptions(interval=30.0, share=True)) as router:
        eventually(lambda: up(router) and mode(router) == "shared")
        guest = Guest(folder)
        with guest.sock:
            guest.send(Enter(WATCH, Need(30.0, 1.0)))
            last = guest.wait_for(Answer)
            assert isinstance(last, Answer)
            for fresh in (False, True):
                since = time.monotonic()
                guest.send(Ask(since, fresh))
                while not ((answer := guest.wait_for(Answer)).sent_at >= since and answer.fresh is fresh):  # type: ignore[union-attr]
                    pass
            guest.send(Ask(last.sent_at))  # that has been answered
            assert isinstance(guest.receive(), Beat)
            guest.sock.settimeout(0.3)
            with pytest.raises(TimeoutError):
                guest.receive()


def test_a_folder_that_is_removed_under_way_is_made_again(
    router: Router, place: Path, folder: Folder
) -> None:
    [path] = place.glob("pgroute-*")
    for file in path.iterdir():
        file.unlink()
    path.rmdir()
    eventually(lambda: any(place.glob("pgroute-*/watch.0.s")), timeout=15.0)
    eventually(lambda: mode(router) == "shared")
    folder.renew()
