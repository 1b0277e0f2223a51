# Generated from tests/aio/test_closing_again.py by .ci/unasync.py: edit that file, not this one.
"""Closing a router that is being closed, that was interrupted in it, or that nobody closes at all."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from typing import Any

import pytest

from pgroute import Router, Event, EventKind, Role, RouterClosed
from pgroute._sync.pool.lease import lease_of
from pgroute.testing import LocalCluster
from tests.support import Background, eventually

pytestmark = pytest.mark.cluster


def ours() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("pgroute-")]


def test_who_closes_a_router_that_is_being_closed_waits_for_that(shared: LocalCluster) -> None:
    router = Router(shared.dsn)
    router.open()
    conn = router.getconn("writer")
    with Background() as background:
        first = background.start(router.close)
        eventually(lambda: "closing" in repr(router))
        second = background.start(router.close)
        until = time.monotonic() + 0.1
        eventually(lambda: second.done() or time.monotonic() > until)
        router.putconn(conn)
        second.result()
        assert "closed" in repr(router), "the second returned before the first"
        first.result()


def test_who_has_less_patience_ends_the_wait_of_the_first(shared: LocalCluster) -> None:
    router = Router(shared.dsn)
    router.open()
    conn = router.getconn("writer")
    with Background() as background:
        begun = time.monotonic()
        first = background.start(router.close, 60.0)
        eventually(lambda: "closing" in repr(router))
        router.close(timeout=0.0)
        first.result()
        assert time.monotonic() - begun < 10.0
    router.putconn(conn)


def test_a_router_closed_while_it_is_opened_is_closed_in_the_end(shared: LocalCluster) -> None:
    def open_it(router: Router[Any]) -> None:
        with contextlib.suppress(RouterClosed):
            router.open()

    for _ in range(20):
        router = Router(shared.dsn)
        with Background() as background:
            opening = background.start(open_it, router)
            router.close()
            opening.result()
        router.close()
        assert "closed" in repr(router)
        eventually(lambda: ours() == [])


def test_a_router_that_was_never_opened_ends_its_subscribers(shared: LocalCluster) -> None:
    router = Router(shared.dsn)
    router.subscribe(print)
    router.close()
    eventually(lambda: ours() == [])


def test_sessions_that_are_aborted_during_the_close_are_told_in_the_log(
    mended: LocalCluster, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pgroute")
    told: list[Any] = []
    router = Router(mended.dsn)
    router.subscribe(told.append)
    router.open(wait=True)
    conn: Any = router.getconn("writer")
    key = router.topology.primary.key  # type: ignore[union-attr]
    reconciler = router._manager.lifecycle.reconciler
    assert reconciler is not None
    stop = router._manager.watch.stop

    def abort_and_stop() -> None:
        # As the watch does at the last moment.
        reconciler.abort(key, lease_of(conn).pool.address, "too late")
        stop()

    router._manager.watch.stop = abort_and_stop  # type: ignore[method-assign]
    router._manager.pools[Role.WRITER].abort_all = lambda: 0  # type: ignore[method-assign]
    router.close(timeout=0.0)
    assert [event for event in told if event.kind is EventKind.SESSIONS_ABORTED]
    assert "aborted 1 sessions: too late" in caplog.text
    router.putconn(conn)


def test_a_function_that_subscribed_twice_is_told_until_both_have_ended(shared: LocalCluster) -> None:
    told: list[Any] = []
    router = Router(shared.dsn)
    first = router.subscribe(told.append)
    router.subscribe(told.append)
    first()
    first()
    with router:
        eventually(lambda: told)
    assert len({id(event) for event in told}) == len(told)


def test_a_stuck_subscriber_is_not_waited_for_for_ever(shared: LocalCluster) -> None:
    release = threading.Event()

    def stick(_: object) -> None:
        release.wait(30)

    router = Router(shared.dsn)
    router.subscribe(stick)
    router.open(wait=True)
    event = Event(EventKind.NO_PRIMARY, 0.0, None, "made up")
    router._manager.dispatcher.put((event,) * 2000)
    assert router.stats().events_dropped > 0
    begun = time.monotonic()
    router.close()
    assert time.monotonic() - begun < 6.0
    release.set()
    eventually(lambda: ours() == [])


