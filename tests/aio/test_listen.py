"""Listening to notifications: names, payloads, many listeners, slow ones, lost connections, failovers."""

from __future__ import annotations

import asyncio  # async-only
import contextlib  # async-only
import threading
import time
from functools import partial
from typing import Any

import psycopg
import pytest

from pgroute import (
    AsyncListener,
    AsyncRouter,
    ConfigError,
    Gap,
    NoHostAvailable,
    Notification,
    PoolOptions,
    ProbeOptions,
    RouterClosed,
)
from pgroute._async.router import manager_of
from pgroute.testing import LocalCluster, Node
from tests.aio.conftest import Proxied
from tests.aio.test_pooler import CONFIG, PROGRAM, pooler
from tests.aio.workload import QUICK
from tests.support import AsyncBackground, async_call, async_eventually, dsn_with, within

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


async def received(events: AsyncListener, count: int) -> list[Notification | Gap]:
    found: list[Notification | Gap] = []
    while len(found) < count:
        item = await events.next(10.0)
        assert item is not None, found
        found.append(item)
    return found


async def payloads(events: AsyncListener, count: int) -> list[str]:
    return [
        item.payload if isinstance(item, Notification) else "gap" for item in await received(events, count)
    ]


async def next_gap(events: AsyncListener) -> Gap:
    item = await events.next(20.0)
    assert isinstance(item, Gap), item
    return item


async def test_what_is_sent_is_received_in_order(shared: LocalCluster) -> None:
    node = shared.nodes[0]
    async with AsyncRouter(shared.dsn) as router, router.listen("jobs", "Other") as events:
        await async_call(
            node.execute, "NOTIFY jobs, '1'; NOTIFY \"Other\", '2'; NOTIFY other, '3'; NOTIFY jobs"
        )
        first, second, third = await received(events, 3)
        assert isinstance(first, Notification)
        assert first == Notification("jobs", "1", first.pid)
        assert second == Notification("Other", "2", first.pid)
        assert third == Notification("jobs", "", first.pid)
        assert await events.next(0) is None
        await async_call(notify, node, "jobs", "last")
        async for event in events:
            assert isinstance(event, Notification)
            assert event.payload == "last"
            break
        assert router.stats().writer.totals["pool_size"] == 0, "it is not one of the pool's"


async def test_it_is_received_however_seldom_the_connection_is_proven(shared: LocalCluster) -> None:
    probe = ProbeOptions(interval=1e9)
    async with AsyncRouter(shared.dsn, probe=probe) as router, router.listen("jobs") as events:
        assert await events.next(0.2) is None  # it has begun to wait
        await async_call(notify, shared.nodes[0], "jobs", "1")
        assert isinstance(await events.next(10), Notification)


NAMES = ("with space", 'with "quotes"', "UPPER", "ünï; LISTEN x", "x" * 63, "ä" * 31, "%s", "$1", "--", "\\")


async def test_names_of_channels(shared: LocalCluster) -> None:
    async with AsyncRouter(shared.dsn) as router, router.listen(*NAMES) as events:
        for name in NAMES:
            await async_call(notify, shared.nodes[0], name, name)
        assert [
            (e.channel, e.payload) for e in await received(events, len(NAMES)) if isinstance(e, Notification)
        ] == [(name, name) for name in NAMES]


@pytest.mark.parametrize("channels", [(), ("",), ("x" * 64,), ("a\0b",), (1,)])
async def test_names_that_are_refused(channels: Any) -> None:
    with pytest.raises(ConfigError):
        AsyncRouter("host=localhost").listen(*channels)


@pytest.mark.parametrize(
    ("options", "parameter"),
    [
        ({"timeout": -1}, "timeout"),
        ({"max_waiting": 0}, "max_waiting"),
        ({"max_waiting": 1.5}, "max_waiting"),
    ],
)
async def test_options_that_are_refused(options: Any, parameter: str) -> None:
    with pytest.raises(ConfigError) as caught:
        AsyncRouter("host=localhost").listen("a", **options)
    assert caught.value.parameter == parameter


async def test_payloads(shared: LocalCluster) -> None:
    sent = ["", "x" * 7999, "ä" * 3999, "日本 🐘 '\"\\", "a\nb"]
    async with AsyncRouter(shared.dsn) as router, router.listen("a") as events:
        for payload in sent:
            await async_call(notify, shared.nodes[0], "a", payload)
        assert await payloads(events, len(sent)) == sent


@pytest.fixture(params=["SQL_ASCII", "LATIN1"])
def encoded(request: pytest.FixtureRequest, any_cluster: LocalCluster) -> tuple[LocalCluster, str]:
    any_cluster.primary.execute(
        f"CREATE DATABASE encoded TEMPLATE template0 ENCODING '{request.param}' LOCALE 'C'"
    )
    any_cluster.catch_up()
    return any_cluster, request.param


async def test_other_encodings(encoded: tuple[LocalCluster, str]) -> None:
    cluster, encoding = encoded
    dsn = dsn_with(cluster.dsn, dbname="encoded", client_encoding="SQL_ASCII")
    sent = ["plain", "\xe4"]
    if encoding == "SQL_ASCII":
        sent.append("\udcff")
    async with AsyncRouter(dsn) as router, router.listen("\xe4") as events:
        conninfo = dsn_with(cluster.dsn, dbname="encoded")
        async with await psycopg.AsyncConnection.connect(conninfo, autocommit=True) as conn:
            for payload in sent:
                bytes_ = payload.encode("utf-8", "surrogateescape")
                statement = b"SELECT pg_notify('\xc3\xa4', '" + bytes_ + b"')"
                if encoding == "LATIN1":
                    await conn.execute("SET client_encoding TO UTF8")
                await conn.execute(statement)
        assert await payloads(events, len(sent)) == sent


async def test_listeners_come_and_go_on_one_connection(shared: LocalCluster) -> None:
    node = shared.nodes[0]
    async with AsyncRouter(shared.dsn) as router:
        async with router.listen("a", "b") as first:
            assert len(await async_call(listening, node)) == 1
            async with router.listen("b", "c") as second, router.listen("a") as third:
                assert len(await async_call(listening, node)) == 1
                for channel in "abc":
                    await async_call(notify, node, channel, channel)
                assert await payloads(first, 2) == ["a", "b"]
                assert await payloads(second, 2) == ["b", "c"]
                assert await payloads(third, 1) == ["a"]
            for channel in "cab":
                await async_call(notify, node, channel, channel)
            assert await payloads(first, 2) == ["a", "b"]
            async with router.listen("c") as again:
                await async_call(notify, node, "c", "again")
                assert await payloads(again, 1) == ["again"]
            assert await first.next(0) is None
        await async_eventually(lambda: not listening(node))
        async with router.listen("a") as anew:
            await async_call(notify, node, "a", "anew")
            assert await payloads(anew, 1) == ["anew"]


async def test_hundreds_of_listeners(shared: LocalCluster) -> None:
    count = 200
    got: list[int] = []

    async def work(router: AsyncRouter[Any], number: int, ready: list[int], done: threading.Event) -> None:
        async with router.listen(f"c{number}", "all") as events:
            ready.append(number)
            for item in await received(events, 2):
                assert isinstance(item, Notification)
                got.append(number)
            await async_eventually(done.is_set, 30.0)

    async with AsyncRouter(shared.dsn) as router, AsyncBackground() as background:
        ready: list[int] = []
        done = threading.Event()
        workers = [background.start(work, router, number, ready, done) for number in range(count)]
        await async_eventually(lambda: len(ready) == count, 30.0)
        assert len(await async_call(listening, shared.nodes[0])) == 1
        await async_call(
            shared.nodes[0].execute,
            f"NOTIFY \"all\"; SELECT pg_notify('c' || n, '') FROM generate_series(0, {count}) n",
        )
        await async_eventually(lambda: len(got) == 2 * count, 30.0)
        done.set()
        for worker in workers:
            await worker.result()


async def test_a_slow_listener_is_told_how_much_it_has_missed(shared: LocalCluster) -> None:
    node = shared.nodes[0]
    async with (
        AsyncRouter(shared.dsn) as router,
        router.listen("a", max_waiting=10) as slow,
        router.listen("a") as quick,
    ):
        await async_call(node.execute, "SELECT pg_notify('a', n::text) FROM generate_series(1, 500) n")
        sent_at = time.monotonic()
        assert await payloads(quick, 500) == [str(n) for n in range(1, 501)]
        assert await payloads(slow, 10) == [str(n) for n in range(1, 11)]
        gap = await next_gap(slow)
        assert gap.dropped == 490
        assert "slow" in gap.reason
        assert gap.since < sent_at
        await async_call(notify, node, "a", "after")
        assert await payloads(slow, 1) == ["after"]
        assert await payloads(quick, 1) == ["after"]


async def test_a_flood_is_received_though_the_server_answers_nothing_meanwhile(shared: LocalCluster) -> None:
    count = 20_000
    async with (
        AsyncRouter(shared.dsn, probe=ProbeOptions(interval=0.1)) as router,
        router.listen("a", max_waiting=count) as events,
        AsyncBackground() as background,
    ):
        sql = f"SELECT pg_notify('a', n || repeat('x', 1000)) FROM generate_series(1, {count}) n"
        sender = background.start(partial(async_call, shared.nodes[0].execute), sql)
        assert all(isinstance(event, Notification) for event in await received(events, count))
        await sender.result()


async def test_a_connection_that_is_killed_is_a_gap(shared: LocalCluster) -> None:
    node = shared.nodes[0]
    async with AsyncRouter(shared.dsn) as router, router.listen("a", "b") as events:
        await async_call(notify, node, "a", "before")
        assert await payloads(events, 1) == ["before"]
        before = time.monotonic()
        await async_call(node.execute, f"SELECT pg_terminate_backend(pid) {LISTENING}")
        gap = await next_gap(events)
        assert gap.since < before
        assert "was lost" in gap.reason
        assert str(node.port) in gap.reason
        for channel in "ab":
            await async_call(notify, node, channel, channel)
        assert await payloads(events, 2) == ["a", "b"]
        assert len(await async_call(listening, node)) == 1


async def test_a_connection_that_falls_silent_is_a_gap(proxied: Proxied) -> None:
    node, proxy = proxied.cluster.nodes[0], proxied.proxies[0]
    async with AsyncRouter(proxied.dsn, probe=QUICK) as router, router.listen("a") as events:
        proxy.blackhole("both", "existing")
        sent_at = time.monotonic()
        await async_call(notify, node, "a", "lost")
        gap = await next_gap(events)
        assert gap.since <= sent_at
        await async_call(notify, node, "a", "after")
        assert await payloads(events, 1) == ["after"]


async def test_only_the_connection_of_the_listeners_is_dead(proxied: Proxied) -> None:
    # As a firewall drops what was idle for long; the probes go on.
    node, proxy = proxied.cluster.nodes[0], proxied.proxies[0]
    async with AsyncRouter(proxied.dsn, probe=QUICK) as router, router.listen("a") as events:
        trigger = proxy.when(ASKED, action="discard")
        await async_eventually(lambda: trigger.hits)
        await async_call(notify, node, "a", "lost")
        gap = await next_gap(events)
        assert "was lost" in gap.reason
        await async_call(notify, node, "a", "after")
        assert await payloads(events, 1) == ["after"]


async def test_one_that_comes_before_the_primary_waits_for_it(any_cluster: LocalCluster) -> None:
    node = any_cluster.primary
    await async_call(node.kill)
    entered = threading.Event()

    async def wait(router: AsyncRouter[Any]) -> list[str]:
        async with router.listen("a") as events:
            entered.set()
            return await payloads(events, 1)

    async with AsyncRouter(any_cluster.dsn) as router, AsyncBackground() as background:
        begun = time.monotonic()
        with pytest.raises(NoHostAvailable, match=r"no listener session \(primary\) within 0\.3 s"):
            async with router.listen("a", timeout=0.3):
                pass
        assert time.monotonic() - begun >= 0.3
        waiter = background.start(wait, router)
        new = await async_call(any_cluster.promote, repoint=False)
        await async_eventually(entered.is_set)
        await async_call(notify, new, "a", "hello")
        assert await waiter.result() == ["hello"]


async def test_a_refused_connection_is_told_as_the_reason(shared: LocalCluster) -> None:
    async def refuse(conn: Any) -> None:
        raise ValueError("not today")

    async with AsyncRouter(shared.dsn, configure=refuse) as router:
        with pytest.raises(NoHostAvailable) as caught:
            async with router.listen("a", timeout=0.5):
                pass
        assert "not today" in "".join(caught.value.__notes__)


async def test_a_channel_that_the_server_refuses(any_cluster: LocalCluster) -> None:
    any_cluster.primary.execute("CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
    any_cluster.catch_up()
    async with (
        AsyncRouter(dsn_with(any_cluster.dsn, dbname="latin")) as router,
        router.listen("a") as events,
    ):
        with pytest.raises(psycopg.errors.UntranslatableCharacter):
            async with router.listen("b", "\u65e5"):
                pass
        async with await psycopg.AsyncConnection.connect(
            dsn_with(any_cluster.dsn, dbname="latin"), autocommit=True
        ) as conn:
            await conn.execute("NOTIFY a, 'still here'")
        assert await payloads(events, 1) == ["still here"]


async def test_iteration_ends_when_the_router_closes(shared: LocalCluster) -> None:
    got: list[str] = []
    entered = threading.Event()

    async def work(router: AsyncRouter[Any]) -> None:
        async with router.listen("a") as events:
            entered.set()
            async for event in events:
                got.append(str(event))  # noqa: PERF401  (what is tested is the loop)
            assert events.closed
            assert await events.next() is None

    async with AsyncBackground() as background:
        router = AsyncRouter(shared.dsn)
        await router.open()
        worker = background.start(work, router)
        await async_eventually(entered.is_set)
        async with router.listen("a") as events:
            await async_call(notify, shared.nodes[0], "a")
            await async_eventually(lambda: got)
            await router.close()
            await worker.result()
            assert len(got) == 1
            assert len(await received(events, 1)) == 1, "what has come before is handed out"
            assert await events.next() is None
        with pytest.raises(RouterClosed):
            async with router.listen("a"):
                pass
    with pytest.raises(RouterClosed):
        async with AsyncRouter(shared.dsn).listen("a"):
            pass


async def test_a_listener_is_entered_once(shared: LocalCluster) -> None:
    async with AsyncRouter(shared.dsn) as router:
        events = router.listen("a")
        with pytest.raises(RuntimeError, match="enter the listener first"):
            await events.next(0)
        async with events:
            with pytest.raises(RuntimeError, match="in use already"):
                async with events:
                    pass
            with pytest.raises(ConfigError):
                await events.next(-1.0)
        assert events.closed
        assert await events.next() is None


async def test_an_error_in_the_body_ends_the_listener(shared: LocalCluster) -> None:
    async with AsyncRouter(shared.dsn) as router:
        with pytest.raises(ZeroDivisionError):
            async with router.listen("a"):
                raise ZeroDivisionError
        await async_eventually(lambda: not listening(shared.nodes[0]))


# async-only: begin
async def test_a_cancelled_task_leaves_nothing_and_loses_nothing(shared: LocalCluster) -> None:
    async with AsyncRouter(shared.dsn) as router, router.listen("a") as events:
        got: list[Any] = []
        for number in range(50):
            await async_call(notify, shared.nodes[0], "a", str(number))
            with contextlib.suppress(TimeoutError):
                while True:
                    async with asyncio.timeout(0.001):
                        got.append(await events.next())
        async with asyncio.timeout(10):
            while len(got) < 50:  # the last one may take longer than that
                got.append(await events.next())
        assert [item.payload for item in got] == [str(n) for n in range(50)]
    async with AsyncRouter(shared.dsn) as router:
        for pause in (0.0, 0.0005, 0.002, 0.01):

            async def enter() -> None:
                async with router.listen("b"):
                    await asyncio.sleep(60)

            task = asyncio.create_task(enter())
            await asyncio.sleep(pause)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await async_eventually(lambda: not listening(shared.nodes[0]))


# async-only: end
async def test_a_frozen_primary_is_left_on_the_verdict_of_the_monitor(any_cluster: LocalCluster) -> None:
    old = any_cluster.primary
    async with AsyncRouter(any_cluster.dsn, probe=QUICK) as router, router.listen("a") as events:
        await async_call(old.freeze)
        new = await async_call(any_cluster.promote, repoint=False)
        promoted_at = time.monotonic()
        gap = await next_gap(events)
        assert time.monotonic() - promoted_at < within(2.0)
        assert gap.since < promoted_at
        await async_call(notify, new, "a", "after")
        assert await payloads(events, 1) == ["after"]


async def test_a_primary_that_a_promotion_has_overtaken_is_left_though_it_answers(
    any_cluster: LocalCluster,
) -> None:
    old = any_cluster.primary
    async with AsyncRouter(any_cluster.dsn) as router, router.listen("a") as events:
        await async_eventually(lambda: len(router.topology.standbys) == 2)
        new = any_cluster.standbys[0]
        await async_call(new.promote)
        sent_at = time.monotonic()
        await async_call(notify, new, "a", "lost")
        gap = await next_gap(events)
        assert gap.since < sent_at
        assert str(old.port) in gap.reason
        assert "stale" in gap.reason
        await async_call(notify, old, "a", "of the old one")
        await async_call(notify, new, "a", "after")
        found = await payloads(events, 1)
        if found == ["lost"]:  # the router has heard of the promotion before it was sent
            found = await payloads(events, 1)
        assert found == ["after"]


async def test_the_gap_reaches_back_to_the_promotion_that_nobody_could_see(breakable: Proxied) -> None:
    old, new, other = breakable.cluster.nodes
    async with AsyncRouter(breakable.dsn, probe=QUICK) as router, router.listen("a") as events:
        await async_eventually(lambda: len(router.topology.standbys) == 2)
        for node in (new, other):
            breakable.proxy(node).blackhole("to_client")
        await async_eventually(lambda: not router.topology.standbys)
        await async_call(new.promote)
        await async_call(notify, new, "a", "lost")
        sent_at = time.monotonic()
        link = manager_of(router).listening.hub._keeper._link
        assert link is not None
        # The old primary goes on, and its connection is known to be alive.
        await async_eventually(lambda: link.proven_at > sent_at)
        assert await events.next(0) is None
        breakable.proxy(new).clear_faults()
        gap = await next_gap(events)
        assert gap.since < sent_at
        assert str(breakable.proxy(old).port) in gap.reason
        await async_call(notify, new, "a", "after")
        assert await payloads(events, 1) == ["after"]


@pytest.mark.skipif(PROGRAM is None, reason="the pgbouncer program is not installed")
async def test_a_transaction_pooler_is_refused(mended: LocalCluster) -> None:
    node = mended.nodes[0]
    with pooler(node, CONFIG) as port:
        dsn = f"host={node.host} port={port} user=postgres dbname={node.dbname}"
        async with AsyncRouter(dsn, kwargs={"prepare_threshold": None}) as router:
            with pytest.raises(psycopg.NotSupportedError, match="pool_mode = session"):
                async with router.listen("a"):
                    pass


@pytest.mark.skipif(PROGRAM is None, reason="the pgbouncer program is not installed")
async def test_a_session_pooler_serves(mended: LocalCluster) -> None:
    node = mended.nodes[0]
    with pooler(node, CONFIG.replace("pool_mode = transaction", "pool_mode = session")) as port:
        dsn = f"host={node.host} port={port} user=postgres dbname={node.dbname}"
        async with AsyncRouter(dsn) as router, router.listen("a") as events:
            await async_call(notify, node, "a", "hello")
            assert await payloads(events, 1) == ["hello"]


@pytest.mark.skipif(PROGRAM is None, reason="the pgbouncer program is not installed")
async def test_what_comes_while_a_pooler_is_found_out_was_sent_before_that(mended: LocalCluster) -> None:
    node = mended.nodes[0]
    sent: list[float] = []
    begun = threading.Event()

    async def configure(_conn: psycopg.AsyncConnection[Any]) -> None:
        if begun.is_set():  # this is the new connection, or the one by which the pooler is found out
            for _ in range(3):
                await async_call(notify, node, "a", str(len(sent)))
                sent.append(time.monotonic())

    with pooler(node, CONFIG.replace("pool_mode = transaction", "pool_mode = session")) as port:
        dsn = f"host={node.host} port={port} user=postgres dbname={node.dbname}"
        writer = PoolOptions(min_size=0, configure=configure)
        async with (
            AsyncRouter(dsn, writer=writer) as router,
            router.listen("a", max_waiting=1) as events,
        ):
            begun.set()
            [member] = manager_of(router).listening.hub._listeners._subscriptions._members
            await async_call(node.execute, f"SELECT pg_terminate_backend(pid) {LISTENING}")
            await async_eventually(lambda: member.mailbox._dropped)
            await next_gap(events)
            [kept] = await payloads(events, 1)
            gap = await next_gap(events)
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

    async def work(self, router: AsyncRouter[Any], entered: threading.Event, limit: int) -> None:
        async with router.listen("numbers", max_waiting=limit) as events:
            entered.set()
            async for event in events:
                if isinstance(event, Gap):
                    self.gaps.append((event.since, time.monotonic()))
                else:
                    self.numbers.append(int(event.payload))
                    if limit == 1:
                        await asyncio.sleep(0.01)

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


async def go_through(cluster: LocalCluster, rounds: int, act: Any) -> None:
    """Break a cluster again and again amid notifications; each that is missing must lie in a gap."""
    sender, receipts = Sender(cluster), [Receipt(), Receipt()]
    events = [threading.Event(), threading.Event()]
    async with AsyncBackground() as background:
        async with AsyncRouter(cluster.dsn) as router:
            workers = [
                background.start(receipt.work, router, event, limit)
                for receipt, event, limit in zip(receipts, events, (100_000, 1), strict=True)
            ]
            await async_eventually(lambda: all(event.is_set() for event in events))
            sending = threading.Thread(target=sender.run)
            sending.start()
            await async_eventually(lambda: sender.sent)
            try:
                for _ in range(rounds):
                    await async_eventually(
                        partial(receipts[0].has_more_than, len(receipts[0].numbers) + FLOW)
                    )
                    await async_call(act, cluster, sender)
                    last = max(sender.sent)
                    await async_eventually(partial(receipts[0].is_beyond, last), 20.0)
                    await async_eventually(
                        partial(receipts[0].has_more_than, len(receipts[0].numbers) + FLOW)
                    )
            finally:
                sender.stop.set()
                await async_call(sending.join)
            notify(cluster.primary, "numbers", "0")
            await async_eventually(lambda: 0 in receipts[0].numbers)
        for worker in workers:
            await worker.result()
    quick, slow = receipts
    for receipt in receipts:
        told = f"sent {len(sender.sent)}, received {len(receipt.numbers)}, gaps {len(receipt.gaps)}"
        print(told)
        assert receipt.silently_lost(sender.sent) == [], told
        assert len(receipt.numbers) == len(set(receipt.numbers))
    assert quick.numbers[:-1] == sorted(quick.numbers[:-1])
    assert rounds <= len(quick.gaps) <= 3 * rounds
    assert slow.gaps


# sync-only: @pytest.mark.long
@pytest.mark.parametrize("act", [crash, switch_over])
async def test_nothing_is_lost_silently_in_failovers(any_cluster: LocalCluster, act: Any) -> None:
    await go_through(any_cluster, 3 if act is crash else 1, act)


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_nothing_is_lost_silently_in_twenty_failovers(any_cluster: LocalCluster) -> None:
    await go_through(any_cluster, 20, crash)
