# Generated from tests/aio/test_once_faults.py by .ci/unasync.py: edit that file, not this one.
"""A transaction with a key, and all that can end its session or its network: applied once, or found out later."""

from __future__ import annotations

import threading
import time
from typing import Any, Literal

import pytest
import tenacity

from pgroute import Router, CommitUnknown, RetryPolicy, SessionLost
from pgroute.testing import Node
from tests.sync.conftest import Proxied
from tests.sync.counting import KEY, Increment, call_once, counted, terminate, waiting
from tests.support import Background, call, eventually, within

pytestmark = [pytest.mark.cluster, pytest.mark.long]

AT_COMMIT: dict[str, dict[str, Any]] = {
    "before the server has it": {"pattern": b"COMMIT", "after_forwarding": False},
    "when the server has it": {"pattern": b"COMMIT"},
    "at its answer": {"pattern": b"COMMIT\0", "direction": "to_client", "after_forwarding": False},
}
"""Where the connection is cut, in terms of FaultProxy.when()."""

NEVER_AGAIN = RetryPolicy(stop=tenacity.stop_after_attempt(1))


# The backend ends.


def test_terminated_before_commit_it_is_run_again(pair: Proxied) -> None:
    node, increment = pair.cluster.nodes[0], Increment()

    def body(conn: Any) -> int:
        value = increment(conn)
        if increment.runs == 1:
            call(terminate, node, increment.pids[0])
        return value

    with Router(pair.dsn) as router:
        assert call_once(router, body) == 1
    assert increment.runs == 2
    assert counted(node) == (1, 1)


@pytest.mark.parametrize("end", ["terminate", "cancel"])
def test_interrupted_in_the_wait_for_the_standby_it_waits_for_it_again(pair: Proxied, end: str) -> None:
    (node, standby), increment = pair.cluster.nodes, Increment()
    call(standby.stop)
    with Router(pair.dsn) as router, Background() as background:
        worker = background.start(call_once, router, increment)
        [first] = eventually(lambda: waiting(node, "SyncRep"))
        call(node.execute, f"SELECT pg_{end}_backend({first[0]})")
        # It found the row, and has it confirmed all the same.
        [again] = eventually(lambda: waiting(node, "SyncRep") - {first})
        assert counted(node) == (1, 1)
        call(node.execute, f"SELECT pg_{end}_backend({again[0]})")
        eventually(lambda: waiting(node, "SyncRep") - {first, again})
        assert not worker.done()
        call(standby.start)
        assert worker.result() == 1
    assert increment.runs == 1
    assert counted(node) == (1, 1)


def test_interrupted_in_the_wait_for_the_standby_without_another_try_it_is_found_later(
    pair: Proxied,
) -> None:
    (node, standby), increment = pair.cluster.nodes, Increment()
    call(standby.freeze)
    with Router(pair.dsn) as router, Background() as background:
        worker = background.start(call_once, router, increment, None, NEVER_AGAIN)
        [first] = eventually(lambda: waiting(node, "SyncRep"))
        call(node.execute, f"SELECT pg_terminate_backend({first[0]})")
        with pytest.raises(CommitUnknown) as caught:
            worker.result()
        assert caught.value.may_have_committed
        later = background.start(call_once, router, increment)
        eventually(lambda: waiting(node, "SyncRep") - {first})
        assert not later.done()
        call(standby.thaw)
        assert later.result() == 1
    assert increment.runs == 1
    assert counted(node) == (1, 1)


def test_terminated_after_commit_it_is_not_run_again(pair: Proxied) -> None:
    node, increment = pair.cluster.nodes[0], Increment()
    trigger = pair.proxies[0].when(b"COMMIT\0", "to_client", "blackhole", after_forwarding=False)
    with Router(pair.dsn) as router, Background() as background:
        worker = background.start(call_once, router, increment)
        call(trigger.wait)
        call(terminate, node, increment.pids[0])
        pair.proxies[0].reset()
        assert worker.result() == 1
    assert increment.runs == 1
    assert counted(node) == (1, 1)


# The network.


@pytest.mark.parametrize("action", ["reset", "disconnect"])
@pytest.mark.parametrize("moment", AT_COMMIT)
def test_cut_off_at_commit_again_and_again_it_is_applied_once(
    pair: Proxied, moment: str, action: Literal["reset", "disconnect"]
) -> None:
    node, increment = pair.cluster.nodes[0], Increment()
    trigger = pair.proxies[0].when(**AT_COMMIT[moment], action=action, times=3)
    with Router(pair.dsn) as router:
        assert call_once(router, increment) == 1
        assert trigger.hits == 3
        assert call_once(router, increment) == 1
    assert increment.runs == (4 if moment == "before the server has it" else 1)
    assert counted(node) == (1, 1)


@pytest.mark.parametrize("moment", AT_COMMIT)
def test_cut_off_at_commit_without_another_try_a_later_call_finds_out(
    pair: Proxied, moment: str
) -> None:
    node, increment = pair.cluster.nodes[0], Increment()
    pair.proxies[0].when(**AT_COMMIT[moment], action="reset")
    with Router(pair.dsn) as router:
        with pytest.raises(CommitUnknown) as caught:
            call_once(router, increment, None, NEVER_AGAIN)
    assert caught.value.may_have_committed
    assert not caught.value.rerun_safe
    assert any(f"once={KEY!r}" in note for note in caught.value.__notes__)
    with Router(pair.dsn) as router:
        assert call_once(router, increment) == 1
    assert increment.runs == (2 if moment == "before the server has it" else 1)
    assert counted(node) == (1, 1)


def test_with_the_host_away_afterwards_it_is_unknown_until_the_host_is_back(pair: Proxied) -> None:
    node, increment = pair.cluster.nodes[0], Increment()
    proxy = pair.proxies[0]
    trigger = proxy.when(b"COMMIT\0", "to_client", "blackhole", after_forwarding=False)
    with Router(pair.dsn) as router, Background() as background:
        worker = background.start(call_once, router, increment, 1.0)
        call(trigger.wait)
        proxy.refuse(existing="reset")
        with pytest.raises(CommitUnknown, match="lost during COMMIT") as caught:
            worker.result()
        assert any("the last error: NoHostAvailable" in note for note in caught.value.__notes__)
        proxy.clear_faults()
        assert call_once(router, increment) == 1
    assert increment.runs == 1
    assert counted(node) == (1, 1)


def test_a_connection_reset_after_the_body_leaves_the_outcome_to_the_next_attempt(
    pair: Proxied,
) -> None:
    node, increment = pair.cluster.nodes[0], Increment()
    with Router(pair.dsn) as router:
        # The result is stored together with COMMIT: what a lost connection has reached is not known.
        pair.proxies[0].when(b"DO UPDATE SET result", action="reset", after_forwarding=False)
        with pytest.raises(CommitUnknown, match="lost during COMMIT"):
            call_once(router, increment, retry=NEVER_AGAIN)
        assert counted(node) == (0, 0)
        pair.proxies[0].when(b"DO UPDATE SET result", action="reset", after_forwarding=False)
        assert call_once(router, increment) == 1
    assert counted(node) == (1, 1)


def test_a_connection_reset_before_the_body_is_a_lost_session(pair: Proxied) -> None:
    node, increment = pair.cluster.nodes[0], Increment()
    with Router(pair.dsn) as router:
        pair.proxies[0].when(b"INSERT INTO pgroute.once", action="reset", after_forwarding=False)
        with pytest.raises(SessionLost, match="nothing was committed") as caught:
            call_once(router, increment, retry=NEVER_AGAIN)
    assert caught.value.rerun_safe
    assert counted(node) == (0, 0)


@pytest.mark.parametrize("end", ["committed", "rolled back"])
def test_a_predecessor_left_hanging_by_a_deaf_network_is_waited_for_until_the_deadline(
    pair: Proxied, end: str
) -> None:
    node, increment = pair.cluster.nodes[0], Increment()
    proxy = pair.proxies[0]
    trigger = proxy.when(b"COMMIT", action="blackhole", after_forwarding=False)
    patience = within(1.0)  # it is to meet its predecessor before that is over
    with Router(pair.dsn) as router, Background() as background:
        begun = time.monotonic()
        worker = background.start(call_once, router, increment, patience)
        call(trigger.wait)
        increment.cut()  # the server does not notice, and keeps the row
        eventually(lambda: waiting(node, "transactionid"))
        with pytest.raises(CommitUnknown):
            worker.result()
        assert 0.9 * patience < time.monotonic() - begun < patience + within(1.5)
        assert counted(node) == (0, 0)

        later = background.start(call_once, router, increment)
        eventually(lambda: waiting(node, "transactionid"))
        if end == "committed":
            proxy.clear_faults()
        else:
            call(terminate, node, increment.pids[0])
        assert later.result() == 1
    assert increment.runs == (1 if end == "committed" else 2)
    assert counted(node) == (1, 1)


def test_a_predecessor_that_still_waits_for_the_standby_is_waited_for(pair: Proxied) -> None:
    (node, standby), increment = pair.cluster.nodes, Increment()
    call(standby.stop)
    pair.proxies[0].when(b"COMMIT", action="reset")
    with Router(pair.dsn) as router, Background() as background:
        worker = background.start(call_once, router, increment)
        eventually(lambda: waiting(node, "SyncRep") and waiting(node, "transactionid"))
        assert not worker.done()
        call(standby.start)
        assert worker.result() == 1
    assert increment.runs == 1
    assert counted(node) == (1, 1)


def test_a_later_call_alone_is_unknown_too_while_its_predecessor_is_undecided(pair: Proxied) -> None:
    node, first, second = pair.cluster.nodes[0], Increment(), Increment()
    over = threading.Event()

    def lingering(conn: Any) -> int:
        value = first(conn)
        eventually(over.is_set)
        return value

    with Router(pair.dsn) as router, Background() as background:
        worker = background.start(call_once, router, lingering)
        eventually(lambda: first.runs)
        with pytest.raises(CommitUnknown, match=f"once={KEY!r} had not ended after"):
            call_once(router, second, 0.3)
        over.set()
        assert worker.result() == 1
        assert call_once(router, second) == 1
    assert (first.runs, second.runs) == (1, 0)
    assert counted(node) == (1, 1)


def test_a_predecessor_is_waited_for_longer_than_a_session(pair: Proxied) -> None:
    node, first, second = pair.cluster.nodes[0], Increment(), Increment()
    over = threading.Event()

    def lingering(conn: Any) -> int:
        value = first(conn)
        eventually(over.is_set)
        return value

    with Router(pair.dsn, acquire_timeout=0.5) as router, Background() as background:
        router.wait()
        before = background.start(call_once, router, lingering)
        eventually(lambda: first.runs)
        begun = time.monotonic()
        after = background.start(call_once, router, second)
        eventually(lambda: waiting(node, "transactionid"))
        eventually(lambda: time.monotonic() - begun > 0.8)
        over.set()
        assert before.result() == 1
        assert after.result() == 1
    assert (first.runs, second.runs) == (1, 0)


# The primary itself goes and comes back.


@pytest.mark.parametrize("moment", ["before COMMIT", "in the wait", "after COMMIT"])
def test_a_crash_and_restart_of_the_primary_applies_it_once(pair: Proxied, moment: str) -> None:
    (node, standby), increment = pair.cluster.nodes, Increment()
    crashed = threading.Event()

    def body(conn: Any) -> int:
        value = increment(conn)
        if moment == "before COMMIT":
            eventually(crashed.is_set)
        return value

    if moment == "in the wait":
        call(standby.freeze)
    with Router(pair.dsn) as router, Background() as background:
        trigger = pair.proxies[0].when(b"COMMIT\0", "to_client", "blackhole", after_forwarding=False)
        worker = background.start(call_once, router, body)
        eventually(reached(moment, node, increment, trigger))
        call(node.kill)
        crashed.set()
        pair.proxies[0].reset()
        if moment == "in the wait":
            call(standby.thaw)
        pair.proxies[0].clear_faults()
        call(node.start)
        assert worker.result() == 1
    assert increment.runs == (2 if moment == "before COMMIT" else 1)
    assert counted(node) == (1, 1)


def reached(moment: str, node: Node, increment: Increment, trigger: Any) -> Any:
    """Return the condition that says that a call has come so far."""
    return {
        "before COMMIT": lambda: increment.runs,
        "in the wait": lambda: waiting(node, "SyncRep"),
        "after COMMIT": lambda: trigger.hits,
    }[moment]
