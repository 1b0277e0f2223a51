"""Hosts that answer nonsense, too much, or ask for more than they should: a failed probe, and nothing worse."""

from __future__ import annotations

import concurrent.futures
import contextlib
import itertools
import random
import struct
import time
from collections.abc import Callable

import pytest

from pgroute import HostState, NoHostAvailable, ProbeOptions, Router
from tests.hostile_server import (
    SETTINGS,
    START,
    SYSTEM_ID,
    Answer,
    HostileServer,
    Told,
    Visitor,
    columns,
    complete,
    dsn_of,
    error,
    message,
    result,
    row,
)
from tests.support import eventually, within

QUICK = ProbeOptions(interval=0.05, timeout=0.5)
PATIENT = ProbeOptions(interval=0.05, timeout=10.0)
"""With which no probe logs in again because the first login took its time."""


def answers(data: bytes) -> Callable[[Visitor, bytes], None]:
    """Answer each probe with this."""
    return lambda visitor, _: visitor.send(data)


def told(**values: bytes | None) -> bytes:
    return SETTINGS + result(Told(**values).values())


VALUES: dict[str, dict[str, bytes | None]] = {
    "recovery state": {"recovering": None},
    "recovery state, otherwise": {"recovering": b"maybe"},
    "default": {"read_only": b"\xff\xfe"},
    "default, none": {"read_only": None},
    "WAL file": {"wal_file": b"0000000G0000000000000001"},
    "WAL file, of timeline 0": {"wal_file": b"000000000000000000000001"},
    "WAL file, another script": {"wal_file": ("\N{ARABIC-INDIC DIGIT ONE}" * 24).encode()},
    "WAL file, long": {"wal_file": b"1" * 50_000},
    "position": {"lsn": b"0/zz"},
    "position, signed": {"lsn": b"-1/0"},
    "position, long": {"lsn": b"F" * 9 + b"/0"},
    "identifier": {"system_id": b"12_3"},
    "identifier, signed": {"system_id": b"+5"},
    "start": {"started_at": b"NaN"},
    "start, endless": {"started_at": b"Infinity"},
    "start, negative": {"started_at": b"-1"},
    "start, absurd": {"started_at": b"%d" % (2**63 - 1)},
    "start, huge": {"started_at": b"9" * 5000},
}
STANDBYS: dict[str, dict[str, bytes | None]] = {
    "timeline": {"standby_timeline": b"one"},
    "timeline 0": {"standby_timeline": b"0"},
    "timeline, negative": {"standby_timeline": b"-1"},
    "timeline, beyond an int": {"standby_timeline": b"2147483648"},
}
MALFORMED = {
    **{name: told(**values) for name, values in VALUES.items()},
    **{name: told(recovering=b"t", wal_file=None, **values) for name, values in STANDBYS.items()},
    "no columns": SETTINGS + result([]),
    "ten columns": SETTINGS + result(Told().values()[:10]),
    "twelve columns": SETTINGS + result([*Told().values(), b"1"]),
    "no row": SETTINGS + columns(11) + complete(b"SELECT 0"),
    "two rows": SETTINGS + columns(11) + row(Told().values()) * 2 + complete(b"SELECT 2"),
    "a second result": SETTINGS + result(Told().values()) + result(Told().values()),
    "a result ahead": result(Told().values()) + SETTINGS,
    "settings alone": SETTINGS,
    "an empty query": message(b"I"),
    "COPY OUT": SETTINGS + message(b"H", struct.pack("!bh", 0, 0)),
    "COPY IN": SETTINGS + message(b"G", struct.pack("!bh", 0, 0)),
    "COPY BOTH": SETTINGS + message(b"W", struct.pack("!bh", 0, 0)),
    "a row of other columns than told": SETTINGS + columns(11) + row([b"f"]) + complete(),
    "a row without columns": SETTINGS + row(Told().values()) + complete(),
    "a cell longer than its row": SETTINGS
    + columns(11)
    + message(b"D", struct.pack("!hi", 9, 1000))
    + complete(),
    "an error of another encoding": error(b"\xff\xff\xff\xff\xff", b"\xff\xfe"),
    "an unknown message": message(b"!", b"?"),
    "a length of nothing": message(b"T", b"", length=0),
    "a length without end": message(b"T", b"", length=2**32 - 1),
    "a length beyond a short message": message(b"C", b"", length=2**30),
}


def test_malformed_answers_are_failed_probes(caplog: pytest.LogCaptureFixture) -> None:
    lying: list[bool] = []
    with contextlib.ExitStack() as stack:
        servers: dict[str, HostileServer] = {}
        for number, (name, data) in enumerate(MALFORMED.items(), START):
            truth = Told.standby(started_at=b"%d" % number).answer
            servers[name] = stack.enter_context(HostileServer(truth_until(answers(data), lying, truth)))
        router = stack.enter_context(Router(dsn_of(*servers.values()), probe=QUICK))

        def not_in(state: HostState) -> dict[str, str]:
            hosts = zip(servers, router.topology.hosts, strict=True)
            return {name: f"{h.state.value}: {h.reason}" for name, h in hosts if h.state is not state}

        assert settled(lambda: not_in(HostState.UP)) == {}
        lying.append(True)
        assert settled(lambda: not_in(HostState.DOWN)) == {}
        assert not router.topology.readable
        assert all(h.reason for h in router.topology.hosts)
        lying.clear()
        assert settled(lambda: not_in(HostState.UP)) == {}
    assert "watching" not in caplog.text, "no fault of ours"


def truth_until(lie: Answer, lying: list[bool], truth: Answer) -> Answer:
    def answer(visitor: Visitor, sql: bytes) -> None:
        (lie if lying else truth)(visitor, sql)

    return answer


def settled(wrong: Callable[[], dict[str, str]]) -> dict[str, str]:
    """Return what is wrong in the end, in the time that a few probes may take."""
    until = time.monotonic() + within(5.0)
    while (left := wrong()) and time.monotonic() < until:
        time.sleep(0.01)
    return left


def test_probe_that_is_answered_otherwise_each_time_ends() -> None:
    starts = itertools.count(START)
    asked: list[bytes] = []

    def answer(visitor: Visitor, sql: bytes) -> None:
        """Refuse the whole probe, and tell of another start with each smaller one."""
        asked.append(sql)
        if b"system_identifier" in sql:
            visitor.send(error(b"42501", b"permission denied"))
        else:
            visitor.send(told(started_at=b"%d" % next(starts), system_id=None))

    with HostileServer(answer) as server, Router(dsn_of(server), probe=QUICK) as router:
        words = "malformed answer: another one to each question"
        eventually(lambda: router.topology.hosts[0].reason == words, within(5.0))
        assert len(asked) < 100


def test_start_that_is_no_number_is_one_missed_probe_and_no_restart() -> None:
    lies: list[bytes] = []

    def answer(visitor: Visitor, sql: bytes) -> None:
        visitor.send(lies.pop()) if lies else Told().answer(visitor, sql)

    with HostileServer(answer) as server, Router(dsn_of(server), probe=QUICK) as router:
        eventually(lambda: router.topology.writable)
        reasons: list[str] = []
        router.subscribe(lambda event: reasons.append(event.text))
        lies.append(told(started_at=b"NaN"))
        eventually(lambda: any("its start is no whole number" in reason for reason in reasons))
        eventually(lambda: router.topology.hosts[0].state is HostState.UP)
        assert router.topology.hosts[0].generation == 0


def test_standby_that_lies_about_its_timeline_stops_no_writer() -> None:
    liar = Told.standby(2**31 - 1, started_at=b"%d" % (START + 1)).answer
    with (
        HostileServer() as primary,
        HostileServer(liar) as standby,
        Router(dsn_of(primary, standby), probe=QUICK) as router,
    ):
        eventually(lambda: router.topology.initial_scan_done)
        for _ in range(5):
            with router.writer(2.0) as conn:
                assert conn.info.port == primary.port
        assert "not believed: it alone tells of timeline 2147483647" in str(router.topology)


@pytest.mark.parametrize("recovering", [b"f", b"t"])
def test_host_without_identifier_gets_no_session_where_one_is_pinned(recovering: bytes) -> None:
    mute = Told(recovering=recovering, system_id=None, started_at=b"%d" % (START + 1))
    probe = ProbeOptions(interval=0.05, timeout=0.5, system_id=SYSTEM_ID)
    with HostileServer(mute.answer) as server, Router(dsn_of(server), probe=probe) as router:
        eventually(lambda: router.topology.hosts[0].state is HostState.FOREIGN)
        for attrs in ("any", "prefer-standby", "read-write"):
            with (
                pytest.raises(NoHostAvailable, match="tells no system identifier"),
                router.connection(attrs, 0.0),
            ):
                pass
    assert all(visitor.is_probe for visitor in server.visitors)


CHECKS = {
    "malformed answer: 1 columns instead of 4": complete() + result([b"f"]),
    "malformed answer: 0 columns instead of 4": complete(),
    "malformed answer: its recovery state": complete() + result([None, None, None, b"100"]),
    "malformed answer: its system identifier": complete() + result([b"f", b"NaN", None, b"100"]),
    "malformed answer: the name of its WAL file": complete()
    + result([b"f", b"%d" % SYSTEM_ID, b"\xff", b"100"]),
    "tells no system identifier": complete() + result([b"f", None, b"000000010000000000000001", b"100"]),
    "belongs to another cluster": complete() + result([b"f", b"5", b"000000010000000000000001", b"100"]),
    "malformed answer: its max_connections": complete() + result([b"f", b"%d" % SYSTEM_ID, None, b"-1"]),
    "is a standby now": complete() + result([b"t", b"%d" % SYSTEM_ID, None, b"100"]),
    "malformed answer: COPY_OUT": message(b"H", struct.pack("!bh", 0, 0)),
}


def refused(router: Router, words: str) -> str:
    """Ask for a writer until the error says these words, or for 10 s: connecting takes its time. Return its text."""
    until = time.monotonic() + 10.0
    while True:
        with pytest.raises(NoHostAvailable) as caught, router.writer(0.5):
            pass
        text = str(caught.value)
        if words in text or time.monotonic() > until:
            return text


def refusal(words: str, data: bytes) -> str:
    """Return why a host gets no session that answers its check with this; *words* are expected."""

    def answer(visitor: Visitor, sql: bytes) -> None:
        if visitor.is_probe:
            Told().answer(visitor, sql)
        else:
            visitor.send(data)

    with (
        HostileServer(answer) as server,
        Router(dsn_of(server), probe=QUICK) as router,
    ):
        eventually(lambda: router.topology.primary is not None)
        return refused(router, words)


def test_session_is_not_handed_out_when_its_check_is_answered_with_nonsense() -> None:
    with concurrent.futures.ThreadPoolExecutor(len(CHECKS)) as threads:
        texts = dict(zip(CHECKS, threads.map(refusal, CHECKS, CHECKS.values()), strict=True))
    assert {words: text for words, text in texts.items() if words not in text} == {}
    with HostileServer() as server, Router(dsn_of(server), probe=QUICK) as router, router.writer(2.0) as conn:
        conn.execute("SELECT 1")


# Passwords.


def asks(ask: Callable[[Visitor], None], *, probes: bool) -> Callable[[Visitor], None]:
    """Return a login that asks for a password, of probes or of sessions."""

    def login(visitor: Visitor) -> None:
        if visitor.is_probe is probes:
            ask(visitor)
        visitor.let_in()

    return login


@pytest.mark.parametrize("probes", [True, False], ids=["probe", "session"])
def test_password_in_clear_text_goes_to_a_host_that_asks_unless_require_auth_forbids(probes: bool) -> None:
    for parameters, handed_over in (
        ({}, True),
        ({"require_auth": "scram-sha-256"}, False),
        ({"require_auth": "!password"}, False),
        ({"channel_binding": "require"}, False),
    ):
        dsn_parameters = {"password": "hunter2", **parameters}
        with HostileServer(login=asks(Visitor.ask_for_password, probes=probes)) as server:
            with Router(dsn_of(server, **dsn_parameters), probe=PATIENT) as router:
                if handed_over:
                    router.wait(timeout=10.0)
                elif probes or "channel_binding" in parameters:
                    eventually(lambda: router.topology.hosts[0].state is HostState.REJECTED)
                else:
                    assert "authentication" in refused(router, "authentication")
            assert (b"hunter2" in server.passwords) is handed_over, parameters
            assert server.passwords == [b"hunter2"] * handed_over, parameters


def test_scram_shows_no_password_to_a_host_that_does_not_know_it() -> None:
    with HostileServer(login=asks(Visitor.ask_for_scram, probes=True)) as server:
        dsn = dsn_of(server, password="hunter2", require_auth="scram-sha-256")
        with Router(dsn, probe=QUICK) as router:
            eventually(lambda: server.passwords)
            eventually(lambda: router.topology.hosts[0].state in (HostState.REJECTED, HostState.DOWN))
        assert b"hunter2" not in b"".join(server.passwords)
        assert server.passwords[0].startswith(b"SCRAM-SHA-256\0")


def test_answers_with_bytes_changed_at_random_stop_no_watch(caplog: pytest.LogCaptureFixture) -> None:
    rng = random.Random(16)
    lies = [0]
    lying = [True]

    def answers_of(number: int) -> Answer:
        truth = Told.standby(started_at=b"%d" % (START + number), lsn=b"0/%X" % (number + 1))

        def answer(visitor: Visitor, sql: bytes) -> None:
            if not lying:
                truth.answer(visitor, sql)
                return
            data = bytearray(SETTINGS + result(truth.values()))
            for _ in range(rng.choice((1, 1, 2, 20))):
                data[rng.randrange(len(data))] = rng.randrange(256)
            lies[0] += 1
            visitor.send(bytes(data))

        return answer

    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(HostileServer(answers_of(number))) for number in range(30)]
        router = stack.enter_context(Router(dsn_of(*servers), probe=ProbeOptions(interval=0.02, timeout=0.1)))
        eventually(lambda: lies[0] >= 300)
        lying.clear()
        eventually(lambda: {host.state for host in router.topology.hosts} == {HostState.UP}, within(10.0))
    assert "watching" not in caplog.text, "no fault of ours"
