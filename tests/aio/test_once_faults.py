"""A transaction with a key, and all that can end its session or its network: applied once, or found out later."""

from __future__ import annotations

import threading
import time
from typing import Any, Literal

import pytest
import tenacity

from pgroute import AsyncRouter, CommitUnknown, RetryPolicy, SessionLost
from pgroute.testing import Node
from tests.aio.conftest import Proxied
from tests.aio.counting import KEY, Increment, call_once, counted, terminate, waiting
from tests.support import AsyncBackground, async_call, async_eventually, within

pytestmark = pytest.mark.cluster  # async-only
# sync-only: pytestmark = [pytest.mark.cluster, pytest.mark.long]

AT_COMMIT: dict[str, dict[str, Any]] = {
    "before the server has it": {"pattern": b"COMMIT", "after_forwarding": False},
    "when the server has it": {"pattern": b"COMMIT"},
    "at its answer": {"pattern": b"COMMIT\0", "direction": "to_client", "after_forwarding": False},
}
"""Where the connection is cut, in terms of FaultProxy.when()."""

NEVER_AGAIN = RetryPolicy(stop=tenacity.stop_after_attempt(1))


# The backend ends.


async def test_terminated_before_commit_it_is_run_again(pair: Proxied) -> None:
    node, increment = pair.cluster.nodes[0], Increment()

    async def body(conn: Any) -> int:
        value = await increment(conn)
        if increment.runs == 1:
            await async_call(terminate, node, increment.pids[0])
        return value

    async with AsyncRouter(pair.dsn) as router:
        assert await call_once(router, body) == 1
    assert increment.runs == 2
    assert await counted(node) == (1, 1)


@pytest.mark.parametrize("end", ["terminate", "cancel"])
async def test_interrupted_in_the_wait_for_the_standby_it_waits_for_it_again(pair: Proxied, end: str) -> None:
    (node, standby), increment = pair.cluster.nodes, Increment()
    await async_call(standby.stop)
    async with AsyncRouter(pair.dsn) as router, AsyncBackground() as background:
        worker = background.start(call_once, router, increment)
        [first] = await async_eventually(lambda: waiting(node, "SyncRep"))
        await async_call(node.execute, f"SELECT pg_{end}_backend({first[0]})")
        # It found the row, and has it confirmed all the same.
        [again] = await async_eventually(lambda: waiting(node, "SyncRep") - {first})
        assert await counted(node) == (1, 1)
        await async_call(node.execute, f"SELECT pg_{end}_backend({again[0]})")
        await async_eventually(lambda: waiting(node, "SyncRep") - {first, again})
        assert not worker.done()
        await async_call(standby.start)
        assert await worker.result() == 1
    assert increment.runs == 1
    assert await counted(node) == (1, 1)


async def test_interrupted_in_the_wait_for_the_standby_without_another_try_it_is_found_later(
    pair: Proxied,
) -> None:
    (node, standby), increment = pair.cluster.nodes, Increment()
    await async_call(standby.freeze)
    async with AsyncRouter(pair.dsn) as router, AsyncBackground() as background:
        worker = background.start(call_once, router, increment, None, NEVER_AGAIN)
        [first] = await async_eventually(lambda: waiting(node, "SyncRep"))
        await async_call(node.execute, f"SELECT pg_terminate_backend({first[0]})")
        with pytest.raises(CommitUnknown) as caught:
            await worker.result()
        assert caught.value.may_have_committed
        later = background.start(call_once, router, increment)
        await async_eventually(lambda: waiting(node, "SyncRep") - {first})
        assert not later.done()
        await async_call(standby.thaw)
        assert await later.result() == 1
    assert increment.runs == 1
    assert await counted(node) == (1, 1)


async def test_terminated_after_commit_it_is_not_run_again(pair: Proxied) -> None:
    node, increment = pair.cluster.nodes[0], Increment()
    trigger = pair.proxies[0].when(b"COMMIT\0", "to_client", "blackhole", after_forwarding=False)
    async with AsyncRouter(pair.dsn) as router, AsyncBackground() as background:
        worker = background.start(call_once, router, increment)
        await async_call(trigger.wait)
        await async_call(terminate, node, increment.pids[0])
        pair.proxies[0].reset()
        assert await worker.result() == 1
    assert increment.runs == 1
    assert await counted(node) == (1, 1)


# The network.


@pytest.mark.parametrize("action", ["reset", "disconnect"])
@pytest.mark.parametrize("moment", AT_COMMIT)
async def test_cut_off_at_commit_again_and_again_it_is_applied_once(
    pair: Proxied, moment: str, action: Literal["reset", "disconnect"]
) -> None:
    node, increment = pair.cluster.nodes[0], Increment()
    trigger = pair.proxies[0].when(**AT_COMMIT[moment], action=action, times=3)
    async with AsyncRouter(pair.dsn) as router:
        assert await call_once(router, increment) == 1
        assert trigger.hits == 3
        assert await call_once(router, increment) == 1
    assert increment.runs == (4 if moment == "before the server has it" else 1)
    assert await counted(node) == (1, 1)


@pytest.mark.parametrize("moment", AT_COMMIT)
async def test_cut_off_at_commit_without_another_try_a_later_call_finds_out(
    pair: Proxied, moment: str
) -> None:
    node, increment = pair.cluster.nodes[0], Increment()
    pair.proxies[0].when(**AT_COMMIT[moment], action="reset")
    async with AsyncRouter(pair.dsn) as router:
        with pytest.raises(CommitUnknown) as caught:
            await call_once(router, increment, None, NEVER_AGAIN)
    assert caught.value.may_have_committed
    assert not caught.value.rerun_safe
    assert any(f"once={KEY!r}" in note for note in caught.value.__notes__)
    async with AsyncRouter(pair.dsn) as router:
        assert await call_once(router, increment) == 1
    assert increment.runs == (2 if moment == "before the server has it" else 1)
    assert await counted(node) == (1, 1)


async def test_with_the_host_away_afterwards_it_is_unknown_until_the_host_is_back(pair: Proxied) -> None:
    node, increment = pair.cluster.nodes[0], Increment()
    proxy = pair.proxies[0]
    trigger = proxy.when(b"COMMIT\0", "to_client", "blackhole", after_forwarding=False)
    async with AsyncRouter(pair.dsn) as router, AsyncBackground() as background:
        worker = background.start(call_once, router, increment, 1.0)
        await async_call(trigger.wait)
        proxy.refuse(existing="reset")
        with pytest.raises(CommitUnknown, match="lost during COMMIT") as caught:
            await worker.result()
        assert any("the last error: NoHostAvailable" in note for note in caught.value.__notes__)
        proxy.clear_faults()
        assert await call_once(router, increment) == 1
    assert increment.runs == 1
    assert await counted(node) == (1, 1)


async def test_a_connection_reset_after_the_body_leaves_the_outcome_to_the_next_attempt(
    pair: Proxied,
) -> None:
    node, increment = pair.cluster.nodes[0], Increment()
    async with AsyncRouter(pair.dsn) as router:
        # The result is stored together with COMMIT: what a lost connection has reached is not known.
        pair.proxies[0].when(b"DO UPDATE SET result", action="reset", after_forwarding=False)
        with pytest.raises(CommitUnknown, match="lost during COMMIT"):
            await call_once(router, increment, retry=NEVER_AGAIN)
        assert await counted(node) == (0, 0)
        pair.proxies[0].when(b"DO UPDATE SET result", action="reset", after_forwarding=False)
        assert await call_once(router, increment) == 1
    assert await counted(node) == (1, 1)


async def test_a_connection_reset_before_the_body_is_a_lost_session(pair: Proxied) -> None:
    node, increment = pair.cluster.nodes[0], Increment()
    async with AsyncRouter(pair.dsn) as router:
        pair.proxies[0].when(b"INSERT INTO pgroute.once", action="reset", after_forwarding=False)
        with pytest.raises(SessionLost, match="nothing was committed") as caught:
            await call_once(router, increment, retry=NEVER_AGAIN)
    assert caught.value.rerun_safe
    assert await counted(node) == (0, 0)


@pytest.mark.parametrize("end", ["committed", "rolled back"])
async def test_a_predecessor_left_hanging_by_a_deaf_network_is_waited_for_until_the_deadline(
    pair: Proxied, end: str
) -> None:
    node, increment = pair.cluster.nodes[0], Increment()
    proxy = pair.proxies[0]
    trigger = proxy.when(b"COMMIT", action="blackhole", after_forwarding=False)
    patience = within(1.0)  # it is to meet its predecessor before that is over
    async with AsyncRouter(pair.dsn) as router, AsyncBackground() as background:
        begun = time.monotonic()
        worker = background.start(call_once, router, increment, patience)
        await async_call(trigger.wait)
        increment.cut()  # the server does not notice, and keeps the row
        await async_eventually(lambda: waiting(node, "transactionid"))
        with pytest.raises(CommitUnknown):
            await worker.result()
        assert 0.9 * patience < time.monotonic() - begun < patience + within(1.5)
        assert await counted(node) == (0, 0)

        later = background.start(call_once, router, increment)
        await async_eventually(lambda: waiting(node, "transactionid"))
        if end == "committed":
            proxy.clear_faults()
        else:
            await async_call(terminate, node, increment.pids[0])
        assert await later.result() == 1
    assert increment.runs == (1 if end == "committed" else 2)
    assert await counted(node) == (1, 1)


async def test_a_predecessor_that_still_waits_for_the_standby_is_waited_for(pair: Proxied) -> None:
    (node, standby), increment = pair.cluster.nodes, Increment()
    await async_call(standby.stop)
    pair.proxies[0].when(b"COMMIT", action="reset")
    async with AsyncRouter(pair.dsn) as router, AsyncBackground() as background:
        worker = background.start(call_once, router, increment)
        await async_eventually(lambda: waiting(node, "SyncRep") and waiting(node, "transactionid"))
        assert not worker.done()
        await async_call(standby.start)
        assert await worker.result() == 1
    assert increment.runs == 1
    assert await counted(node) == (1, 1)


async def test_a_later_call_alone_is_unknown_too_while_its_predecessor_is_undecided(pair: Proxied) -> None:
    node, first, second = pair.cluster.nodes[0], Increment(), Increment()
    over = threading.Event()

    async def lingering(conn: Any) -> int:
        value = await first(conn)
        await async_eventually(over.is_set)
        return value

    async with AsyncRouter(pair.dsn) as router, AsyncBackground() as background:
        worker = background.start(call_once, router, lingering)
        await async_eventually(lambda: first.runs)
        with pytest.raises(CommitUnknown, match=f"once={KEY!r} had not ended after"):
            await call_once(router, second, 0.3)
        over.set()
        assert await worker.result() == 1
        assert await call_once(router, second) == 1
    assert (first.runs, second.runs) == (1, 0)
    assert await counted(node) == (1, 1)


async def test_a_predecessor_is_waited_for_longer_than_a_session(pair: Proxied) -> None:
    node, first, second = pair.cluster.nodes[0], Increment(), Increment()
    over = threading.Event()

    async def lingering(conn: Any) -> int:
        value = await first(conn)
        await async_eventually(over.is_set)
        return value

    async with AsyncRouter(pair.dsn, acquire_timeout=0.5) as router, AsyncBackground() as background:
        await router.wait()
        before = background.start(call_once, router, lingering)
        await async_eventually(lambda: first.runs)
        begun = time.monotonic()
        after = background.start(call_once, router, second)
        await async_eventually(lambda: waiting(node, "transactionid"))
        await async_eventually(lambda: time.monotonic() - begun > 0.8)
        over.set()
        assert await before.result() == 1
        assert await after.result() == 1
    assert (first.runs, second.runs) == (1, 0)


# The primary itself goes and comes back.


@pytest.mark.parametrize("moment", ["before COMMIT", "in the wait", "after COMMIT"])
async def test_a_crash_and_restart_of_the_primary_applies_it_once(pair: Proxied, moment: str) -> None:
    (node, standby), increment = pair.cluster.nodes, Increment()
    crashed = threading.Event()

    async def body(conn: Any) -> int:
        value = await increment(conn)
        if moment == "before COMMIT":
            await async_eventually(crashed.is_set)
        return value

    if moment == "in the wait":
        await async_call(standby.freeze)
    async with AsyncRouter(pair.dsn) as router, AsyncBackground() as background:
        trigger = pair.proxies[0].when(b"COMMIT\0", "to_client", "blackhole", after_forwarding=False)
        worker = background.start(call_once, router, body)
        await async_eventually(reached(moment, node, increment, trigger))
        await async_call(node.kill)
        crashed.set()
        pair.proxies[0].reset()
        if moment == "in the wait":
            await async_call(standby.thaw)
        pair.proxies[0].clear_faults()
        await async_call(node.start)
        assert await worker.result() == 1
    assert increment.runs == (2 if moment == "before COMMIT" else 1)
    assert await counted(node) == (1, 1)


def reached(moment: str, node: Node, increment: Increment, trigger: Any) -> Any:
    """Return the condition that says that a call has come so far."""
    return {
        "before COMMIT": lambda: increment.runs,
        "in the wait": lambda: waiting(node, "SyncRep"),
        "after COMMIT": lambda: trigger.hits,
    }[moment]
