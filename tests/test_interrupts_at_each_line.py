"""Ctrl-C at each line that the synchronous router executes, one after the other, and at random moments."""

from __future__ import annotations

import contextlib
import dis
import functools
import itertools
import random
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Self
from unittest.mock import ANY

import psycopg
import pytest

import pgroute
from pgroute import Causal, Notification, PoolOptions, RouteError, Router
from pgroute._sync.router import manager_of
from pgroute.testing import LocalCluster
from tests.support import eventually

pytestmark = pytest.mark.cluster

PACKAGE = str(Path(pgroute.__file__).parent)
SIZE = 2
PATIENCE = 6.0
SAID = "committed"
"""In the note of each interrupt after which the work may be done."""

# What the interpreter calls between two lines of others; an exception has nobody there to go to.
UNRAISABLE = {"__del__", "_note", "lease_lost", "lost", "holder_lost", "<lambda>"}

MOST_LINES = 1500
"""Beyond what each piece of work has by far: one that grows with each interrupt keeps something of it."""

LEFT = object()
"""Kept by a caller who knows by itself that its work is done."""

NUMBERS = itertools.count(1)

CAUSAL: dict[int, Causal] = {}
"""The causal objects by the numbers that their sessions write."""


@functools.cache
def without_signals(code: CodeType) -> set[int]:
    """Return where no signal is handled though a line begins.

    A with statement calls __exit__ right after its body's end. A bare ``try:`` is a NOP, which Python 3.12 and later
    leave out of the tables that say who handles an exception.
    """
    every = [step for step in dis.get_instructions(code) if step.opname != "CACHE"]
    found = {step.offset for step in every if step.opname == "NOP"}
    steps = [step for step in every if step.opname != "NOP"]
    for index, step in enumerate(steps):
        after = steps[index + 1 if step.opname in ("SWAP", "PUSH_EXC_INFO") else index :]
        nones = [s.opname == "LOAD_CONST" and s.argval is None for s in after[:3]]
        if (len(nones) == 3 and all(nones)) or (after and after[0].opname == "WITH_EXCEPT_START"):
            found.add(step.offset)
    return found


class InterruptAt:
    """Raises KeyboardInterrupt at the so-many-th line of the package that its block executes."""

    def __init__(self, number: int) -> None:
        self._left = number
        self.where = ""

    def __enter__(self) -> Self:
        self._before = sys.gettrace()
        sys.settrace(self._enter)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _enter(self, frame: FrameType, event: str, arg: object) -> Any:
        code = frame.f_code
        if code.co_filename.startswith(PACKAGE) and code.co_name not in UNRAISABLE:
            return self._line
        return None

    def _line(self, frame: FrameType, event: str, arg: object) -> Any:
        if event == "line" and frame.f_lasti not in without_signals(frame.f_code):
            self._left -= 1
            if self._left == 0:
                code = frame.f_code
                self.where = f"{Path(code.co_filename).name}:{frame.f_lineno} {code.co_qualname}"
                raise KeyboardInterrupt
        return self._line


class Others(threading.Thread):
    """Somebody who works on the same pool all the time."""

    def __init__(self, router: Router) -> None:
        super().__init__()
        self._router = router
        self.ending = threading.Event()
        self.rounds = 0
        self.errors: list[BaseException] = []

    def run(self) -> None:
        while not self.ending.is_set():
            try:
                with self._router.writer(20.0) as conn:
                    conn.execute("SELECT 1")
                self.rounds += 1
            except BaseException as exc:  # noqa: BLE001  (told by the test)
                self.errors.append(exc)
                return
            self.ending.wait(0.001)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ending.set()
        self.join()


Work = Callable[[Router, str, int, list[Any]], None]


def insert(conn: psycopg.Connection[Any], table: str, number: int) -> None:
    conn.execute(f"INSERT INTO {table} VALUES ({number})")


def writing(router: Router, table: str, number: int, kept: list[Any]) -> None:
    with router.writer() as conn:
        kept.append(conn)
        insert(conn, table, number)


def failing(router: Router, table: str, number: int, kept: list[Any]) -> None:
    with contextlib.suppress(ZeroDivisionError), router.writer() as conn:
        kept.append(conn)
        insert(conn, table, number)
        raise ZeroDivisionError


def changing(router: Router, table: str, number: int, kept: list[Any]) -> None:
    with router.writer() as conn:
        kept.append(conn)
        conn.row_factory = psycopg.rows.dict_row  # type: ignore[assignment]
        conn.prepare_threshold = 3
        insert(conn, table, number)
        conn.commit()
        conn.autocommit = True


def running(router: Router, table: str, number: int, kept: list[Any]) -> None:
    def body(conn: psycopg.Connection[Any]) -> None:
        kept.append(conn)
        insert(conn, table, number)

    router.run(body)


def running_once(router: Router, table: str, number: int, kept: list[Any]) -> None:
    def body(conn: psycopg.Connection[Any]) -> None:
        kept.append(conn)
        insert(conn, table, number)

    router.run(body, once=f"{table} {number}")


def attempting(router: Router, table: str, number: int, kept: list[Any]) -> None:
    for attempt in router.attempts():
        with attempt as conn:
            kept.append(conn)
            insert(conn, table, number)
        kept.append(LEFT)


def lending(router: Router, table: str, number: int, kept: list[Any]) -> None:
    conn = router.getconn("writer")
    try:
        insert(conn, table, number)
    finally:
        try:
            router.putconn(conn)
        except KeyboardInterrupt:
            # As a caller would who knows that it must go back, if it has not.
            with contextlib.suppress(ValueError):
                router.putconn(conn)
            raise


def causal(router: Router, table: str, number: int, kept: list[Any]) -> None:
    CAUSAL[number] = source = router.causal()
    with source.writer() as conn:
        kept.append(conn)
        insert(conn, table, number)


def causal_run(router: Router, table: str, number: int, kept: list[Any]) -> None:
    CAUSAL[number] = source = router.causal()

    def body(conn: psycopg.Connection[Any]) -> None:
        kept.append(conn)
        insert(conn, table, number)

    source.run(body)


def executing(router: Router, table: str, number: int, kept: list[Any]) -> None:
    router.execute(f"INSERT INTO {table} VALUES ({number})")


def copying(router: Router, table: str, number: int, kept: list[Any]) -> None:
    router.copy_to_table(table, (row for row in [(number,)]))


def copying_a_file(router: Router, table: str, number: int, kept: list[Any]) -> None:
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_text(f"{number}\n")
        router.copy_to_table(table, file.name)


def copying_once(router: Router, table: str, number: int, kept: list[Any]) -> None:
    router.copy_to_table(table, [(number,)], once=f"copy {table} {number}")


def iterating(router: Router, table: str, number: int, kept: list[Any]) -> None:
    with router.copy_rows("SELECT * FROM generate_series(1, 3)", role="writer") as rows:
        for _ in rows:
            pass


def resetting(conn: psycopg.Connection[Any]) -> None:
    conn.execute("SELECT 1")
    conn.commit()


WORKS: dict[str, tuple[Work, dict[str, Any]]] = {
    "writes": (writing, {}),
    "fails": (failing, {}),
    "changes attributes": (changing, {}),
    "has a reset hook": (writing, {"reset": resetting}),
    "discards": (writing, {"reset": "discard"}),
    "run": (running, {}),
    "run once": (running_once, {}),
    "attempts": (attempting, {}),
    "getconn": (lending, {}),
    "execute": (executing, {}),
    "copy": (copying, {}),
    "copy of a file": (copying_a_file, {}),
    "copy once": (copying_once, {}),
    "copy of rows": (iterating, {}),
    "causal": (causal, {}),
    "causal run": (causal_run, {}),
}


class Trial:
    """Interrupts a piece of work at one place after the other, and tells what went wrong."""

    def __init__(self, shared: LocalCluster, table: str) -> None:
        self.shared = shared
        self.table = table
        self.faults: list[str] = []
        self.kept: list[Any] = []
        self.tried = 0
        self.where = ""

    def interrupt(
        self,
        router: Router,
        work: Work,
        line: int,
        *,
        truth: bool = True,
        before_check: Callable[[], object] = lambda: None,
    ) -> bool:
        """Return whether the work was interrupted at that line; false: it has no more lines."""
        number = next(NUMBERS)
        self.kept = kept = list[Any]()
        interrupter = InterruptAt(line)
        try:
            with interrupter:
                work(router, self.table, number, kept)
        except KeyboardInterrupt as exc:
            notes: str | None = " ".join(getattr(exc, "__notes__", ()))
        except BaseException as exc:  # noqa: BLE001  (told by the test)
            notes = f"replaced by {exc!r}"
        else:
            notes = None
        before_check()
        if not interrupter.where:
            return False
        self.where = f"line {line}, {interrupter.where}"
        if notes is None or notes.startswith("replaced"):
            self.faults.append(f"{self.where}: {notes or 'swallowed'}")
        self.check(router, number if truth and LEFT not in kept else None, notes or "")
        return True

    def signal(self, router: Router, work: Work, turn: int, rng: random.Random) -> None:
        """Interrupt the work at a random moment, if it lasts that long."""
        number = next(NUMBERS)
        kept: list[Any] = []
        notes: str | None = None
        try:
            try:
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.00005, 0.006))
                work(router, self.table, number, kept)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0.0)
        except KeyboardInterrupt as exc:
            notes = " ".join(getattr(exc, "__notes__", ()))
            # One that comes as the work has returned already, into this file's own code, can tell of nothing.
            if traceback.extract_tb(exc.__traceback__)[-1].filename == __file__:
                kept.append(LEFT)
        if notes is not None:
            self.where = f"turn {turn}, {work.__name__}"
            self.check(router, None if LEFT in kept else number, notes)

    def check(self, router: Router, number: int | None, notes: str) -> None:
        """All slots must be there, and the row only if that is told."""
        self.tried += 1
        lent: list[Any] = []
        try:
            while len(lent) < SIZE:
                lent.append(router.getconn("writer", timeout=PATIENCE))
            if number is not None and number in CAUSAL:
                position, doubtful, _ = CAUSAL[number]._causality.state()
                found = lent[0].execute(f"SELECT FROM {self.table} WHERE number = {number}", prepare=False)
                if found.rowcount and position is None and not doubtful:
                    self.faults.append(f"{self.where}: committed, and the next reader need not see it")
                lent[0].rollback()
            if number is not None and SAID not in notes:
                found = lent[0].execute(f"SELECT FROM {self.table} WHERE number = {number}", prepare=False)
                if found.rowcount:
                    self.faults.append(f"{self.where}: committed, and not told")
                lent[0].rollback()
        except RouteError as exc:
            self.faults.append(f"{self.where}: a slot was lost: {str(exc).splitlines()[0]}")
        for conn in lent:
            router.putconn(conn)


def lines(request: pytest.FixtureRequest, step: int) -> Iterator[int]:
    """All, or each so-many-th."""
    return itertools.count(1, 1) if "every" in request.node.name else itertools.count(1, step)


EVERY = pytest.mark.parametrize(
    "which", ["some", pytest.param("every", marks=[pytest.mark.long, pytest.mark.timeout(900)])]
)


@pytest.fixture
def trial(shared: LocalCluster, table: str) -> Iterator[Trial]:
    trial = Trial(shared, table)
    yield trial
    assert trial.faults == []
    assert trial.tried > 3


# Interrupted on the first line of close(), a file is closed by its collection, as everywhere in Python.
@pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <_io.FileIO:pytest.PytestUnraisableExceptionWarning"
)
@EVERY
@pytest.mark.parametrize("name", WORKS)
def test_an_interrupt_at_any_line_costs_no_slot_and_hides_no_commit(
    name: str, which: str, request: pytest.FixtureRequest, trial: Trial
) -> None:
    work, options = WORKS[name]
    # An interrupt must say what became of the router's own transaction, on every line.
    each = lines(request, 3 if "run" in name or name in ("attempts", "causal") else 5)
    line = next(each)
    going_on = True
    while going_on:
        known = len(trial.faults)
        with Router(trial.shared.dsn, writer=PoolOptions(max_size=SIZE, **options)) as router:
            router.install()
            router.wait()
            with Others(router) as others:
                while going_on and len(trial.faults) == known:
                    going_on = trial.interrupt(router, work, line, truth=work is not changing)
                    line = next(each)
                    assert line < MOST_LINES, trial.where
                eventually(lambda: others.rounds or others.errors)
                if len(trial.faults) > known:
                    others.ending.set()
                    router.close(0.1)
            trial.faults += [f"{trial.where}: harmed another: {exc!r}" for exc in others.errors]


@EVERY
def test_an_interrupt_at_any_line_of_waiting_in_the_queue_leaves_nothing_behind(
    which: str, request: pytest.FixtureRequest, trial: Trial
) -> None:
    def waiting(router: Router, table: str, number: int, kept: list[Any]) -> None:
        with router.writer() as conn:
            kept.append(conn)
            insert(conn, table, number)

    with Router(trial.shared.dsn, writer=PoolOptions(max_size=SIZE)) as router:
        router.wait()
        for line in lines(request, 4):
            held = [router.getconn("writer") for _ in range(SIZE)]
            holder = Holder(router, held)
            holder.start()
            going_on = trial.interrupt(router, waiting, line, before_check=holder.end)
            if not going_on or trial.faults:
                break
        if trial.faults:
            router.close(0.1)


class Holder(threading.Thread):
    """Gives connections back as soon as somebody waits for them."""

    def __init__(self, router: Router, held: list[Any]) -> None:
        super().__init__()
        self._router = router
        self._held = held
        self._ending = threading.Event()

    def run(self) -> None:
        stats = self._router.get_stats
        while not self._ending.wait(0.001) and not stats()["writer"]["requests_waiting"]:
            pass
        while self._held:
            self._router.putconn(self._held.pop())

    def end(self) -> None:
        self._ending.set()
        self.join()


@EVERY
def test_an_interrupt_at_any_line_of_the_first_session_leaves_the_router_usable(
    which: str, request: pytest.FixtureRequest, trial: Trial
) -> None:
    for line in lines(request, 25):
        with Router(trial.shared.dsn, writer=PoolOptions(max_size=SIZE)) as router:
            if not trial.interrupt(router, writing, line) or trial.faults:
                router.close(0.1)
                break


def ended(before: set[threading.Thread]) -> bool:
    return set(threading.enumerate()) <= before


@EVERY
def test_an_interrupt_at_any_line_of_close_lets_the_next_close_finish(
    which: str, request: pytest.FixtureRequest, trial: Trial
) -> None:
    for line in lines(request, 25):
        before = set(threading.enumerate())
        router = Router(trial.shared.dsn, writer=PoolOptions(max_size=SIZE))
        router.open()
        with router.writer() as conn:
            conn.execute("SELECT 1")
        interrupter = InterruptAt(line)
        try:
            with interrupter:
                router.close()
        except KeyboardInterrupt:
            pass
        else:
            if interrupter.where:
                trial.faults.append(f"line {line}, {interrupter.where}: swallowed")
        router.close()
        try:
            eventually(functools.partial(ended, before), 3.0)
        except AssertionError:
            left = [thread.name for thread in set(threading.enumerate()) - before]
            trial.faults.append(f"line {line}, {interrupter.where}: left {left}")
        if not interrupter.where:
            break
        trial.tried += 1


@EVERY
def test_an_interrupt_at_any_line_of_listening_leaves_no_listener(
    which: str, request: pytest.FixtureRequest, trial: Trial
) -> None:
    def listening(router: Router, table: str, number: int, kept: list[Any]) -> None:
        with router.listen("a", "b") as events:
            router.execute("NOTIFY a")
            try:
                assert next(events) == Notification("a", "", ANY)
            except KeyboardInterrupt:
                # It is still there, unless it was interrupted here.
                kept.append(events.next(PATIENCE))
                raise

    with Router(trial.shared.dsn, writer=PoolOptions(max_size=SIZE)) as router:
        router.wait()
        shared_hub = manager_of(router).listening
        for line in lines(request, 8):
            if not trial.interrupt(router, listening, line, truth=False) or trial.faults:
                break
            eventually(lambda: shared_hub.made is None or shared_hub.made.idle)
            if "listener.py" in trial.where and "__next__" in trial.where:
                assert trial.kept == [Notification("a", "", ANY)], trial.where
            with router.listen("a") as events:
                router.execute("NOTIFY a, 'again'")
                assert events.next(PATIENCE) == Notification("a", "again", ANY), trial.where


# Python throws away what is raised in a __del__ or the callback of a weak reference.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "seed", [1, pytest.param(2, marks=pytest.mark.long), pytest.param(3, marks=pytest.mark.long)]
)
def test_ctrl_c_at_random_moments_costs_no_slot_and_hides_no_commit(seed: int, trial: Trial) -> None:
    rng = random.Random(seed)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        with (
            Router(trial.shared.dsn, writer=PoolOptions(max_size=SIZE)) as router,
            Others(router) as others,
        ):
            router.install()
            for turn in range(200):
                trial.signal(
                    router, rng.choice([writing, failing, running, running_once, attempting]), turn, rng
                )
            assert not others.errors
            if trial.faults:
                others.ending.set()
                router.close(0.1)
    finally:
        signal.signal(signal.SIGALRM, before)
