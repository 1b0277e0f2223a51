"""A router closed in the middle of whatever goes wrong: in time, and nothing is left."""

from __future__ import annotations

import asyncio  # async-only
import threading
import time
from collections.abc import Callable

import pytest

from pgroute import AsyncRouter, PoolOptions
from tests.aio.conftest import Proxied
from tests.aio.workload import QUICK, Account, keep_reading, keep_writing, make_table
from tests.support import AsyncBackground, async_call, async_eventually, within

pytestmark = pytest.mark.cluster  # async-only
# sync-only: pytestmark = [pytest.mark.cluster, pytest.mark.long]

FELT = 0.3
"""Seconds for which the fault lasts before the router is closed: more than a probe's timeout."""


def all_proxies(method: str, **arguments: str) -> Callable[[Proxied], None]:
    def apply(proxied: Proxied) -> None:
        for proxy in proxied.proxies:
            getattr(proxy, method)(**arguments)

    return apply


def slow(proxied: Proxied) -> None:
    for proxy in proxied.proxies:
        proxy.delay(0.5)


def lose_acknowledgements(proxied: Proxied) -> None:
    proxied.proxies[0].when(b"COMMIT", action="blackhole", times=None)


FAULTS: dict[str, Callable[[Proxied], None]] = {
    "crash of the primary": lambda proxied: proxied.cluster.nodes[0].kill(),
    "crash of a standby": lambda proxied: proxied.cluster.nodes[1].kill(),
    "frozen primary": lambda proxied: proxied.cluster.nodes[0].freeze(),
    "frozen postmaster": lambda proxied: proxied.cluster.nodes[0].freeze(postmaster_only=True),
    "all deaf": all_proxies("blackhole"),
    "all deaf to new connections": all_proxies("hang"),
    "all refusing": all_proxies("refuse", existing="reset"),
    "all slow": slow,
    "unanswered commits": lose_acknowledgements,
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_closing_is_in_time_and_ends_all(proxied: Proxied, fault: str) -> None:
    make_table(proxied.cluster)
    stop = threading.Event()
    accounts = [Account() for _ in range(6)]
    router = AsyncRouter(proxied.dsn, probe=QUICK, writer=PoolOptions(max_size=2))
    await router.open(wait=True)
    async with AsyncBackground() as background:
        for index, account in enumerate(accounts):
            if index < 4:
                background.start(keep_writing, router, stop, account, index * 1_000_000)
            else:
                background.start(keep_reading, router, stop, account)
        await async_eventually(lambda: all(account.sessions for account in accounts))
        await async_call(FAULTS[fault], proxied)
        await asyncio.sleep(FELT)  # the router is not told of each of them: there is nothing to wait for
        stop.set()
        begun = time.monotonic()
        await router.close(timeout=0.5)
        closed_at = time.monotonic()
    ended_at = time.monotonic()
    assert closed_at - begun < within(2.0)
    assert ended_at - closed_at < within(2.0), "who was in a session, or waited for one, is told"
