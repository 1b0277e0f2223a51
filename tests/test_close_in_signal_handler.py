"""A signal handler closes the router at each line that the thread below it executes."""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import psycopg
import pytest

import pgroute
from pgroute import PoolOptions, RouteError, Router
from pgroute.testing import LocalCluster
from tests.support import eventually

pytestmark = pytest.mark.cluster

PACKAGE = str(Path(pgroute.__file__).parent)
PATIENCE = 20.0


class HandlerAt:
    """Calls a function at the so-many-th line of the package, as a signal handler is: in the same thread."""

    def __init__(self, number: int, fn: Callable[[], object]) -> None:
        self._left = number
        self._fn = fn
        self.where = ""

    def __call__(self, frame: FrameType, event: str, arg: object) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "line":
            self._left -= 1
            if self._left == 0:
                sys.settrace(None)
                self.where = (
                    f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_qualname}"
                )
                self._fn()
        return self


def writing(router: Router) -> None:
    with router.writer() as conn:
        closed = router.closed
        conn.execute("SELECT 1")
        assert not closed, "a session of a closed router"


def returning(router: Router) -> None:
    conn = router.getconn("writer")
    router.putconn(conn)


def resizing(router: Router) -> None:
    router.resize("writer", min_size=2, max_size=3)
    router.expire()
    router.get_stats()
    router.pop_stats()


def listening(router: Router) -> None:
    with router.listen("a") as events:
        router.execute("NOTIFY a")
        next(events)


def subscribing(router: Router) -> None:
    router.subscribe(print)()


def opening(router: Router) -> None:
    router.open()


def closing(router: Router) -> None:
    router.close()


def first(router: Router) -> None:
    router.open()
    writing(router)


def run_closed_at(
    shared: LocalCluster, work: Callable[[Router], None], number: int, faults: list[str]
) -> bool:
    """Return whether the work has so many lines."""
    before = set(threading.enumerate())
    # One host: the lines of the thread are what counts.
    router = Router(shared.primary.conninfo, writer=PoolOptions(max_size=1))
    handler = HandlerAt(number, lambda: router.close(timeout=0))
    if work not in (opening, first):
        router.open(wait=True)
    ended = threading.Event()

    def traced() -> None:
        sys.settrace(handler)
        try:
            work(router)
        except (RouteError, psycopg.OperationalError, StopIteration):
            pass
        except BaseException as exc:  # noqa: BLE001  (told by the test)
            faults.append(f"{handler.where}: {exc!r}")
        finally:
            sys.settrace(None)
            ended.set()

    threading.Thread(target=traced, daemon=True).start()
    if not ended.wait(PATIENCE):
        faults.append(f"{handler.where}: hangs")
        return False
    if not handler.where:
        router.close()
    elif "closed" not in repr(router):
        faults.append(f"{handler.where}: {router!r}")
    elif router.get_stats()["writer"]["pool_size"]:
        faults.append(f"{handler.where}: {router.get_stats()['writer']}")
    try:
        eventually(lambda: set(threading.enumerate()) <= before)
    except AssertionError:
        faults.append(f"{handler.where}: left {set(threading.enumerate()) - before}")
    return bool(handler.where)


@pytest.mark.parametrize(
    "which", ["some", pytest.param("every", marks=[pytest.mark.long, pytest.mark.timeout(900)])]
)
@pytest.mark.parametrize(
    ("work", "step"),
    [
        (writing, 7),
        (returning, 7),
        (resizing, 67),
        (listening, 19),
        (subscribing, 3),
        (opening, 19),
        (closing, 19),
        (first, 67),
    ],
)
def test_a_signal_handler_may_close_the_router_at_any_line(
    shared: LocalCluster, work: Callable[[Router], None], step: int, which: str
) -> None:
    faults: list[str] = []
    lines = itertools.count(1, 1 if which == "every" else step)
    while not faults and run_closed_at(shared, work, next(lines), faults):
        pass
    assert faults == []
