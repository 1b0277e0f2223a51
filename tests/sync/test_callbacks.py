# Generated from tests/aio/test_callbacks.py by .ci/unasync.py: edit that file, not this one.
"""Functions of the user that are called with a connection: one whose work is not done never lets a session through."""

from __future__ import annotations

import functools
import logging
import time
from typing import Any

from unittest.mock import MagicMock
import pytest

from pgroute import Router, ConfigError, PoolOptions
from pgroute.testing import LocalCluster
from tests.support import (
    AcquiredByCoroutine,
    Coroutines,
    eventually,
    coroutine_function,
    coroutine_mock,
    within,
)

pytestmark = [pytest.mark.cluster, pytest.mark.long]


def lazy(_: Any) -> Any:
    yield


def wrapped(conn: Any) -> Any:
    """As a decorator leaves a coroutine function: none that can be recognized."""
    return coroutine_function(conn)


def forgetful(conn: Any) -> Any:
    return coroutine_function(conn)


VISIBLE = {
    "function": coroutine_function,
    "method": Coroutines().method,
    "object": Coroutines(),
    "partial": functools.partial(coroutine_function),
    "partial of an object": functools.partial(Coroutines()),
    "mock": coroutine_mock(),
}
LATE = {"wrapped": wrapped, "generator": lazy}


def asked(name: str, fn: Any) -> list[tuple[dict[str, Any], str]]:
    """Return the arguments that give a function to a router, and the name of the parameter."""
    roles = [({role: PoolOptions(**{name: fn})}, f"{role}.{name}") for role in ("writer", "reader")]
    return roles if name == "setup" else [({name: fn}, name), *roles]


@pytest.mark.parametrize("fn", VISIBLE.values(), ids=VISIBLE)
@pytest.mark.parametrize("name", ["configure", "reset", "setup"])
def test_a_visible_coroutine_function_is_for_an_asynchronous_router(name: str, fn: Any) -> None:
    for arguments, parameter in asked(name, fn):
        with pytest.raises(ConfigError, match="coroutine functions are for Async") as caught:
            Router("host=a", **arguments)
        assert caught.value.parameter == parameter


@pytest.mark.parametrize("fn", LATE.values(), ids=LATE)
def test_a_configure_whose_work_is_not_done_fails_the_session_at_once(
    shared: LocalCluster, fn: Any
) -> None:
    with Router(shared.dsn, configure=fn) as router:
        for _ in range(2):
            begun_at = time.monotonic()
            with pytest.raises(ConfigError, match="returned") as caught:
                router.getconn("writer", timeout=20.0)
            assert time.monotonic() - begun_at < within(5.0)
            assert caught.value.parameter == "configure"


@pytest.mark.parametrize("fn", LATE.values(), ids=LATE)
def test_a_setup_whose_work_is_not_done_fails_the_session(shared: LocalCluster, fn: Any) -> None:
    with Router(shared.dsn, writer=PoolOptions(setup=fn)) as router:
        with pytest.raises(ConfigError, match="returned") as caught:
            router.getconn("writer", timeout=20.0)
        assert caught.value.parameter == "setup"
        assert any("setup failed" in note for note in caught.value.__notes__)


@pytest.mark.parametrize("fn", LATE.values(), ids=LATE)
def test_a_reset_whose_work_is_not_done_leaves_nothing_to_the_next_session(
    shared: LocalCluster, caplog: pytest.LogCaptureFixture, fn: Any
) -> None:
    caplog.set_level(logging.WARNING, "pgroute")
    with Router(shared.dsn, writer=PoolOptions(max_size=1, reset=fn)) as router:
        with router.writer() as conn:
            conn.execute("SET application_name = 'the last one'")
        with router.writer() as conn:
            row = (conn.execute("SHOW application_name")).fetchone()
        assert row != ("the last one",)
    assert "could not be reset: invalid reset" in caplog.text


def plainly(conn: Any) -> None:
    conn.execute("SELECT 1")
    conn.commit()


def decorated(fn: Any) -> Any:
    @functools.wraps(fn)
    def call(conn: Any) -> Any:
        return fn(conn)

    return call


class Plain:
    """Objects that do their work when they are called."""

    def __call__(self, conn: Any) -> None:
        plainly(conn)

    def method(self, conn: Any) -> None:
        plainly(conn)


FIT = {
    "function": plainly,
    "lambda": lambda conn, *_: plainly(conn),
    "decorated": decorated(plainly),
    "object": Plain(),
    "method": Plain().method,
    "partial": functools.partial(decorated(plainly)),
    "mock": MagicMock(),
}


@pytest.mark.parametrize("fn", FIT.values(), ids=FIT)
def test_functions_that_do_their_work_are_called_whatever_they_are(
    shared: LocalCluster, fn: Any
) -> None:
    options = PoolOptions(configure=fn, reset=fn, setup=fn, max_size=1)
    with Router(shared.dsn, writer=options) as router:
        pids = set()
        for _ in range(3):
            with router.writer() as conn:
                pids.add(conn.info.backend_pid)
    assert len(pids) == 1


class Calls(list[int]):
    """A function that is false until it was called, as any empty list."""

    def __call__(self, conn: Any) -> None:
        self.append(conn.info.backend_pid)


def test_a_function_that_is_false_is_called_as_any_other(shared: LocalCluster) -> None:
    calls = configure, reset, setup = Calls(), Calls(), Calls()
    options = PoolOptions(min_size=0, configure=configure, reset=reset, setup=setup)
    with Router(shared.dsn, writer=options) as router, router.writer() as conn:
        pid = conn.info.backend_pid
    assert {each[0] for each in calls if each} == {pid}
    assert [len(each) for each in calls] == [1, 1, 1]


# Functions that are told something.


def test_a_subscriber_of_the_asynchronous_kind_is_refused(shared: LocalCluster) -> None:
    with Router(shared.dsn) as router:
        for fn in (Coroutines(), functools.partial(Coroutines()), coroutine_function):
            with pytest.raises(ConfigError, match="not a coroutine function"):
                router.subscribe(fn)
        with pytest.raises(ConfigError, match="no coroutine function"):
            router.copy_to_table("t", [(1,)], progress=Coroutines())


@pytest.mark.parametrize(
    ("policy", "parameter"), [(Coroutines(), "balance.pick"), (AcquiredByCoroutine(), "balance.acquired")]
)
def test_a_policy_of_the_asynchronous_kind_is_refused(policy: Any, parameter: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Router("host=a", balance=policy)
    assert caught.value.parameter == parameter


@pytest.mark.parametrize("choice", [None, "db1", coroutine_mock()])
def test_a_policy_that_chooses_no_candidate_is_told_at_once(shared: LocalCluster, choice: Any) -> None:
    class Lost:
        def pick(self, *_: Any) -> Any:
            return choice() if callable(choice) else choice

    with Router(shared.dsn, balance=Lost()) as router:
        eventually(lambda: len(router.topology.standbys) == 2)
        begun_at = time.monotonic()
        with pytest.raises(ConfigError, match=r"balance\.pick"):
            router.getconn("reader", timeout=20.0)
        assert time.monotonic() - begun_at < within(2.0)
