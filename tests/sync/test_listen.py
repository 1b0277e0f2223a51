# Generated from tests/aio/test_listen.py by .ci/unasync.py: edit that file, not this one.
"""Listening to notifications: names, payloads, many listeners, slow ones, lost connections, failovers."""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import Any

import psycopg
import pytest

from pgroute import (
    Listener,
    Router,
    ConfigError,
    Gap,
    NoHostAvailable,
    Notification,
    PoolOptions,
    ProbeOptions,
    RouterClosed,
)
from pgroute._sync.router import manager_of
from pgroute.testing import LocalCluster, Node
from tests.sync.conftest import Proxied
from tests.sync.test_pooler import CONFIG, PROGRAM, pooler
from tests.sync.workload import QUICK
from tests.support import Background, call, eventually, dsn_with, within

pytestmark = pytest.mark.cluster

LISTENING = (
    "FROM pg_stat_activity WHERE query LIKE '%pg_catalog.pg_backend_pid()' AND backend_type = 'client backend'"
    " AND pid <> pg_backend_pid()"
)


ASKED = b"statement_timeout = 0;SELECT pg_catalog.pg_backend_pid()"
"""With which the listeners' connection proves that it lives."""


def notify(node: Node, channel: str, payload: str = "") -> None:
    quoted = [text.replace("'", "''") for text in (channel, payload)]
    node.execute(f"SELECT pg_notify('{quoted[0]}', '{quoted[1]}')")


def listening(node: Node) -> list[int]:
    return [pid for (pid,) in node.execute(f"SELECT pid {LISTENING}")]


def received(events: Listener, count: int) -> list[Notification | Gap]:
    found: list[Notification | Gap] = []
    while len(found) < count:
        item = events.next(10.0)
        assert item is not None, found
        found.append(item)
    return found


def payloads(events: Listener, count: int) -> list[str]:
    return [
        item.payload if isinstance(item, Notification) else "gap" for item in received(events, count)
    ]


def next_gap(events: Listener) -> Gap:
    item = events.next(20.0)
    assert isinstance(item, Gap), item
    return item


def test_what_is_sent_is_received_in_order(shared: LocalCluster) -> None:
    node = shared.nodes[0]
    with Router(shared.dsn) as router, router.listen("jobs", "Other") as events:
        call(
            node.execute, "NOTIFY jobs, '1'; NOTIFY \"Other\", '2'; NOTIFY other, '3'; NOTIFY jobs"
        )
        first, second, third = received(events, 3)
        assert isinstance(first, Notification)
        assert first == Notification("jobs", "1", first.pid)
        assert second == Notification("Other", "2", first.pid)
        assert third == Notification("jobs", "", first.pid)
        assert events.next(0) is None
        call(notify, node, "jobs", "last")
        for event in events:
            assert isinstance(event, Notification)
            assert event.payload == "last"
            break
        assert router.stats().writer.totals["pool_size"] == 0, "it is not one of the pool's"


def test_it_is_received_however_seldom_the_connection_is_proven(shared: LocalCluster) -> None:
    probe = ProbeOptions(interval=1e9)
    with Router(shared.dsn, probe=probe) as router, router.listen("jobs") as events:
        assert events.next(0.2) is None  # it has begun to wait
        call(notify, shared.nodes[0], "jobs", "1")
        assert isinstance(events.next(10), Notification)


NAMES = ("with space", 'with "quotes"', "UPPER", "ünï; LISTEN x", "x" * 63, "ä" * 31, "%s", "$1", "--", "\\")


def test_names_of_channels(shared: LocalCluster) -> None:
    with Router(shared.dsn) as router, router.listen(*NAMES) as events:
        for name in NAMES:
            call(notify, shared.nodes[0], name, name)
        assert [
            (e.channel, e.payload) for e in received(events, len(NAMES)) if isinstance(e, Notification)
        ] == [(name, name) for name in NAMES]


@pytest.mark.parametrize("channels", [(), ("",), ("x" * 64,), ("a\0b",), (1,)])
def test_names_that_are_refused(channels: Any) -> None:
    with pytest.raises(ConfigError):
        Router("host=localhost").listen(*channels)


@pytest.mark.parametrize(
    ("options", "parameter"),
    [
        ({"timeout": -1}, "timeout"),
        ({"max_waiting": 0}, "max_waiting"),
        ({"max_waiting": 1.5}, "max_waiting"),
    ],
)
def test_options_that_are_refused(options: Any, parameter: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Router("host=localhost").listen("a", **options)
    assert caught.value.parameter == parameter


def test_payloads(shared: LocalCluster) -> None:
    sent = ["", "x" * 7999, "ä" * 3999, "日本 🐘 '\"\\", "a\nb"]
    with Router(shared.dsn) as router, router.listen("a") as events:
        for payload in sent:
            call(notify, shared.nodes[0], "a", payload)
        assert payloads(events, len(sent)) == sent


@pytest.fixture(params=["SQL_ASCII", "LATIN1"])
def encoded(request: pytest.FixtureRequest, any_cluster: LocalCluster) -> tuple[LocalCluster, str]:
    any_cluster.primary.execute(
        f"CREATE DATABASE encoded TEMPLATE template0 ENCODING '{request.param}' LOCALE 'C'"
    )
    any_cluster.catch_up()
    return any_cluster, request.param


def test_other_encodings(encoded: tuple[LocalCluster, str]) -> None:
    cluster, encoding = encoded
    dsn = dsn_with(cluster.dsn, dbname="encoded", client_encoding="SQL_ASCII")
    sent = ["plain", "\xe4"]
    if encoding == "SQL_ASCII":
        sent.append("\udcff")
    with Router(dsn) as router, router.listen("\xe4") as events:
        conninfo = dsn_with(cluster.dsn, dbname="encoded")
        with psycopg.Connection.connect(conninfo, autocommit=True) as conn:
            for payload in sent:
                bytes_ = payload.encode("utf-8", "surrogateescape")
                statement = b"SELECT pg_notify('\xc3\xa4', '" + bytes_ + b"')"
                if encoding == "LATIN1":
                    conn.execute("SET client_encoding TO UTF8")
                conn.execute(statement)
        assert payloads(events, len(sent)) == sent


def test_listeners_come_and_go_on_one_connection(shared: LocalCluster) -> None:
    node = shared.nodes[0]
    with Router(shared.dsn) as router:
        with router.listen("a", "b") as first:
            assert len(call(listening, node)) == 1
            with router.listen("b", "c") as second, router.listen("a") as third:
                assert len(call(listening, node)) == 1
                for channel in "abc":
                    call(notify, node, channel, channel)
                assert payloads(first, 2) == ["a", "b"]
                assert payloads(second, 2) == ["b", "c"]
                assert payloads(third, 1) == ["a"]
            for channel in "cab":
                call(notify, node, channel, channel)
            assert payloads(first, 2) == ["a", "b"]
            with router.listen("c") as again:
                call(notify, node, "c", "again")
                assert payloads(again, 1) == ["again"]
            assert first.next(0) is None
        eventually(lambda: not listening(node))
        with router.listen("a") as anew:
            call(notify, node, "a", "anew")
            assert payloads(anew, 1) == ["anew"]


def test_hundreds_of_listeners(shared: LocalCluster) -> None:
    count = 200
    got: list[int] = []

    def work(router: Router[Any], number: int, ready: list[int], done: threading.Event) -> None:
        with router.listen(f"c{number}", "all") as events:
            ready.append(number)
            for item in received(events, 2):
                assert isinstance(item, Notification)
                got.append(number)
            eventually(done.is_set, 30.0)

    with Router(shared.dsn) as router, Background() as background:
        ready: list[int] = []
        done = threading.Event()
        workers = [background.start(work, router, number, ready, done) for number in range(count)]
        eventually(lambda: len(ready) == count, 30.0)
        assert len(call(listening, shared.nodes[0])) == 1
        call(
            shared.nodes[0].execute,
            f"NOTIFY \"all\"; SELECT pg_notify('c' || n, '') FROM generate_series(0, {count}) n",
        )
        eventually(lambda: len(got) == 2 * count, 30.0)
        done.set()
        for worker in workers:
            worker.result()


def test_a_slow_listener_is_told_how_much_it_has_missed(shared: LocalCluster) -> None:
    node = shared.nodes[0]
    with (
        Router(shared.dsn) as router,
        router.listen("a", max_waiting=10) as slow,
        router.listen("a") as quick,
    ):
        call(node.execute, "SELECT pg_notify('a', n::text) FROM generate_series(1, 500) n")
        sent_at = time.monotonic()
        assert payloads(quick, 500) == [str(n) for n in range(1, 501)]
        assert payloads(slow, 10) == [str(n) for n in range(1, 11)]
        gap = next_gap(slow)
        assert gap.dropped == 490
        assert "slow" in gap.reason
        assert gap.since < sent_at
        call(notify, node, "a", "after")
        assert payloads(slow, 1) == ["after"]
        assert payloads(quick, 1) == ["after"]


def test_a_flood_is_received_though_the_server_answers_nothing_meanwhile(shared: LocalCluster) -> None:
    count = 20_000
    with (
        Router(shared.dsn, probe=ProbeOptions(interval=0.1)) as router,
        router.listen("a", max_waiting=count) as events,
        Background() as background,
    ):
        sql = f"SELECT pg_notify('a', n || repeat('x', 1000)) FROM generate_series(1, {count}) n"
        sender = background.start(partial(call, shared.nodes[0].execute), sql)
        assert all(isinstance(event, Notification) for event in received(events, count))
        sender.result()


def test_a_connection_that_is_killed_is_a_gap(shared: LocalCluster) -> None:
    node = shared.nodes[0]
    with Router(shared.dsn) as router, router.listen("a", "b") as events:
        call(notify, node, "a", "before")
        assert payloads(events, 1) == ["before"]
        before = time.monotonic()
        call(node.execute, f"SELECT pg_terminate_backend(pid) {LISTENING}")
        gap = next_gap(events)
        assert gap.since < before
        assert "was lost" in gap.reason
        assert str(node.port) in gap.reason
        for channel in "ab":
            call(notify, node, channel, channel)
        assert payloads(events, 2) == ["a", "b"]
        assert len(call(listening, node)) == 1


def test_a_connection_that_falls_silent_is_a_gap(proxied: Proxied) -> None:
    node, proxy = proxied.cluster.nodes[0], proxied.proxies[0]
    with Router(proxied.dsn, probe=QUICK) as router, router.listen("a") as events:
        proxy.blackhole("both", "existing")
        sent_at = time.monotonic()
        call(notify, node, "a", "lost")
        gap = next_gap(events)
        assert gap.since <= sent_at
        call(notify, node, "a", "after")
        assert payloads(events, 1) == ["after"]


def test_only_the_connection_of_the_listeners_is_dead(proxied: Proxied) -> None:
    # As a firewall drops what was idle for long; the probes go on.
    node, proxy = proxied.cluster.nodes[0], proxied.proxies[0]
    with Router(proxied.dsn, probe=QUICK) as router, router.listen("a") as events:
        trigger = proxy.when(ASKED, action="discard")
        eventually(lambda: trigger.hits)
        call(notify, node, "a", "lost")
        gap = next_gap(events)
        assert "was lost" in gap.reason
        call(notify, node, "a", "after")
        assert payloads(events, 1) == ["after"]


def test_one_that_comes_before_the_primary_waits_for_it(any_cluster: LocalCluster) -> None:
    node = any_cluster.primary
    call(node.kill)
    entered = threading.Event()

    def wait(router: Router[Any]) -> list[str]:
        with router.listen("a") as events:
            entered.set()
            return payloads(events, 1)

    with Router(any_cluster.dsn) as router, Background() as background:
        begun = time.monotonic()
        with pytest.raises(NoHostAvailable, match=r"no listener session \(primary\) within 0\.3 s"):
            with router.listen("a", timeout=0.3):
                pass
        assert time.monotonic() - begun >= 0.3
        waiter = background.start(wait, router)
        new = call(any_cluster.promote, repoint=False)
        eventually(entered.is_set)
        call(notify, new, "a", "hello")
        assert waiter.result() == ["hello"]


def test_a_refused_connection_is_told_as_the_reason(shared: LocalCluster) -> None:
    def refuse(conn: Any) -> None:
        raise ValueError("not today")

    with Router(shared.dsn, configure=refuse) as router:
        with pytest.raises(NoHostAvailable) as caught:
            with router.listen("a", timeout=0.5):
                pass
        assert "not today" in "".join(caught.value.__notes__)


def test_a_channel_that_the_server_refuses(any_cluster: LocalCluster) -> None:
    any_cluster.primary.execute("CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
    any_cluster.catch_up()
    with (
        Router(dsn_with(any_cluster.dsn, dbname="latin")) as router,
        router.listen("a") as events,
    ):
        with pytest.raises(psycopg.errors.UntranslatableCharacter):
            with router.listen("b", "\u65e5"):
                pass
        with psycopg.Connection.connect(
            dsn_with(any_cluster.dsn, dbname="latin"), autocommit=True
        ) as conn:
            conn.execute("NOTIFY a, 'still here'")
        assert payloads(events, 1) == ["still here"]


def test_iteration_ends_when_the_router_closes(shared: LocalCluster) -> None:
    got: list[str] = []
    entered = threading.Event()

    def work(router: Router[Any]) -> None:
        with router.listen("a") as events:
            entered.set()
            for event in events:
                got.append(str(event))  # noqa: PERF401  (what is tested is the loop)
            assert events.closed
            assert events.next() is None

    with Background() as background:
        router = Router(shared.dsn)
        router.open()
        worker = background.start(work, router)
        eventually(entered.is_set)
        with router.listen("a") as events:
            call(notify, shared.nodes[0], "a")
            eventually(lambda: got)
            router.close()
            worker.result()
            assert len(got) == 1
            assert len(received(events, 1)) == 1, "what has come before is handed out"
            assert events.next() is None
        with pytest.raises(RouterClosed):
            with router.listen("a"):
                pass
    with pytest.raises(RouterClosed):
        with Router(shared.dsn).listen("a"):
            pass


def test_a_listener_is_entered_once(shared: LocalCluster) -> None:
    with Router(shared.dsn) as router:
        events = router.listen("a")
        with pytest.raises(RuntimeError, match="enter the listener first"):
            events.next(0)
        with events:
            with pytest.raises(RuntimeError, match="in use already"):
                with events:
                    pass
            with pytest.raises(ConfigError):
                events.next(-1.0)
        assert events.closed
        assert events.next() is None


def test_an_error_in_the_body_ends_the_listener(shared: LocalCluster) -> None:
    with Router(shared.dsn) as router:
        with pytest.raises(ZeroDivisionError):
            with router.listen("a"):
                raise ZeroDivisionError
        eventually(lambda: not listening(shared.nodes[0]))


def test_a_frozen_primary_is_left_on_the_verdict_of_the_monitor(any_cluster: LocalCluster) -> None:
    old = any_cluster.primary
    with Router(any_cluster.dsn, probe=QUICK) as router, router.listen("a") as events:
        call(old.freeze)
        new = call(any_cluster.promote, repoint=False)
        promoted_at = time.monotonic()
        gap = next_gap(events)
        assert time.monotonic() - promoted_at < within(2.0)
        assert gap.since < promoted_at
        call(notify, new, "a", "after")
        assert payloads(events, 1) == ["after"]


def test_a_primary_that_a_promotion_has_overtaken_is_left_though_it_answers(
    any_cluster: LocalCluster,
) -> None:
    old = any_cluster.primary
    with Router(any_cluster.dsn) as router, router.listen("a") as events:
        eventually(lambda: len(router.topology.standbys) == 2)
        new = any_cluster.standbys[0]
        call(new.promote)
        sent_at = time.monotonic()
        call(notify, new, "a", "lost")
        gap = next_gap(events)
        assert gap.since < sent_at
        assert str(old.port) in gap.reason
        assert "stale" in gap.reason
        call(notify, old, "a", "of the old one")
        call(notify, new, "a", "after")
        found = payloads(events, 1)
        if found == ["lost"]:  # the router has heard of the promotion before it was sent
            found = payloads(events, 1)
        assert found == ["after"]


def test_the_gap_reaches_back_to_the_promotion_that_nobody_could_see(breakable: Proxied) -> None:
    old, new, other = breakable.cluster.nodes
    with Router(breakable.dsn, probe=QUICK) as router, router.listen("a") as events:
        eventually(lambda: len(router.topology.standbys) == 2)
        for node in (new, other):
            breakable.proxy(node).blackhole("to_client")
        eventually(lambda: not router.topology.standbys)
        call(new.promote)
        call(notify, new, "a", "lost")
        sent_at = time.monotonic()
        link = manager_of(router).listening.hub._keeper._link
        assert link is not None
        # The old primary goes on, and its connection is known to be alive.
        eventually(lambda: link.proven_at > sent_at)
        assert events.next(0) is None
        breakable.proxy(new).clear_faults()
        gap = next_gap(events)
        assert gap.since < sent_at
        assert str(breakable.proxy(old).port) in gap.reason
        call(notify, new, "a", "after")
        assert payloads(events, 1) == ["after"]


@pytest.mark.skipif(PROGRAM is None, reason="the pgbouncer program is not installed")
def test_a_transaction_pooler_is_refused(mended: LocalCluster) -> None:
    node = mended.nodes[0]
    with pooler(node, CONFIG) as port:
        dsn = f"host={node.host} port={port} user=postgres dbname={node.dbname}"
        with Router(dsn, kwargs={"prepare_threshold": None}) as router:
            with pytest.raises(psycopg.NotSupportedError, match="pool_mode = session"):
                with router.listen("a"):
                    pass


@pytest.mark.skipif(PROGRAM is None, reason="the pgbouncer program is not installed")
def test_a_session_pooler_serves(mended: LocalCluster) -> None:
    node = mended.nodes[0]
    with pooler(node, CONFIG.replace("pool_mode = transaction", "pool_mode = session")) as port:
        dsn = f"host={node.host} port={port} user=postgres dbname={node.dbname}"
        with Router(dsn) as router, router.listen("a") as events:
            call(notify, node, "a", "hello")
            assert payloads(events, 1) == ["hello"]


@pytest.mark.skipif(PROGRAM is None, reason="the pgbouncer program is not installed")
def test_what_comes_while_a_pooler_is_found_out_was_sent_before_that(mended: LocalCluster) -> None:
    node = mended.nodes[0]
    sent: list[float] = []
    begun = threading.Event()

    def configure(_conn: psycopg.Connection[Any]) -> None:
        if begun.is_set():  # this is the new connection, or the one by which the pooler is found out
            for _ in range(3):
                call(notify, node, "a", str(len(sent)))
                sent.append(time.monotonic())

    with pooler(node, CONFIG.replace("pool_mode = transaction", "pool_mode = session")) as port:
        dsn = f"host={node.host} port={port} user=postgres dbname={node.dbname}"
        writer = PoolOptions(min_size=0, configure=configure)
        with (
            Router(dsn, writer=writer) as router,
            router.listen("a", max_waiting=1) as events,
        ):
            begun.set()
            [member] = manager_of(router).listening.hub._listeners._subscriptions._members
            call(node.execute, f"SELECT pg_terminate_backend(pid) {LISTENING}")
            eventually(lambda: member.mailbox._dropped)
            next_gap(events)
            [kept] = payloads(events, 1)
            gap = next_gap(events)
    assert gap.since < sent[int(kept) + 1]


FLOW = 50
"""Numbers that must come through before and after each break, so that there is something to lose."""


class Sender:
    """Sends numbers to whichever node is the primary, and keeps account."""

    def __init__(self, cluster: LocalCluster) -> None:
        self.cluster = cluster
        self.sent: dict[int, tuple[float, float]] = {}
        self.stop = threading.Event()
        self.node: Node | None = cluster.primary
        self._next = 0

    def run(self) -> None:
        while not self.stop.is_set():
            node = self.node
            if node is None:
                time.sleep(0.001)
                continue
            try:
                with psycopg.connect(node.conninfo, autocommit=True) as conn:
                    while self.node is node and not self.stop.is_set():
                        self._next += 1
                        before = time.monotonic()
                        conn.execute("SELECT pg_notify('numbers', %s)", [str(self._next)])
                        self.sent[self._next] = before, time.monotonic()
                        time.sleep(0.001)
            except psycopg.OperationalError:
                time.sleep(0.01)


class Receipt:
    """What a listener got."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.gaps: list[tuple[float, float]] = []

    def work(self, router: Router[Any], entered: threading.Event, limit: int) -> None:
        with router.listen("numbers", max_waiting=limit) as events:
            entered.set()
            for event in events:
                if isinstance(event, Gap):
                    self.gaps.append((event.since, time.monotonic()))
                else:
                    self.numbers.append(int(event.payload))
                    if limit == 1:
                        time.sleep(0.01)

    def has_more_than(self, count: int) -> bool:
        return len(self.numbers) > count

    def is_beyond(self, number: int) -> bool:
        return bool(self.numbers) and self.numbers[-1] > number

    def silently_lost(self, sent: dict[int, tuple[float, float]]) -> list[int]:
        got = set(self.numbers)
        return [
            number
            for number, (before, after) in sent.items()
            if number not in got and not any(since <= after and before <= told for since, told in self.gaps)
        ]


def crash(cluster: LocalCluster, sender: Sender) -> None:
    old = cluster.primary
    old.kill()
    sender.node = None
    sender.node = new = cluster.promote(repoint=False)
    for node in cluster.nodes:
        if node is not new and node is not old:
            node.follow(new)
    old.rejoin(new)


def switch_over(cluster: LocalCluster, sender: Sender) -> None:
    old = cluster.primary
    old.stop("fast")
    sender.node = None
    sender.node = new = cluster.promote()
    old.rejoin(new)


def go_through(cluster: LocalCluster, rounds: int, act: Any) -> None:
    """Break a cluster again and again amid notifications; each that is missing must lie in a gap."""
    sender, receipts = Sender(cluster), [Receipt(), Receipt()]
    events = [threading.Event(), threading.Event()]
    with Background() as background:
        with Router(cluster.dsn) as router:
            workers = [
                background.start(receipt.work, router, event, limit)
                for receipt, event, limit in zip(receipts, events, (100_000, 1), strict=True)
            ]
            eventually(lambda: all(event.is_set() for event in events))
            sending = threading.Thread(target=sender.run)
            sending.start()
            eventually(lambda: sender.sent)
            try:
                for _ in range(rounds):
                    eventually(
                        partial(receipts[0].has_more_than, len(receipts[0].numbers) + FLOW)
                    )
                    call(act, cluster, sender)
                    last = max(sender.sent)
                    eventually(partial(receipts[0].is_beyond, last), 20.0)
                    eventually(
                        partial(receipts[0].has_more_than, len(receipts[0].numbers) + FLOW)
                    )
            finally:
                sender.stop.set()
                call(sending.join)
            notify(cluster.primary, "numbers", "0")
            eventually(lambda: 0 in receipts[0].numbers)
        for worker in workers:
            worker.result()
    quick, slow = receipts
    for receipt in receipts:
        told = f"sent {len(sender.sent)}, received {len(receipt.numbers)}, gaps {len(receipt.gaps)}"
        print(told)
        assert receipt.silently_lost(sender.sent) == [], told
        assert len(receipt.numbers) == len(set(receipt.numbers))
    assert quick.numbers[:-1] == sorted(quick.numbers[:-1])
    assert rounds <= len(quick.gaps) <= 3 * rounds
    assert slow.gaps


@pytest.mark.long
@pytest.mark.parametrize("act", [crash, switch_over])
def test_nothing_is_lost_silently_in_failovers(any_cluster: LocalCluster, act: Any) -> None:
    go_through(any_cluster, 3 if act is crash else 1, act)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_nothing_is_lost_silently_in_twenty_failovers(any_cluster: LocalCluster) -> None:
    go_through(any_cluster, 20, crash)
