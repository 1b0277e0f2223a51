"""The thread that takes notes of sessions to OpenTelemetry, where that is slow or hangs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import pytest

from pgroute.contrib.opentelemetry import sender as module
from pgroute.contrib.opentelemetry.sender import Sender
from tests.support import Background, eventually


class Gate:
    """A note that is being sent until it is let through."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()

    def send(self) -> None:
        self.reached.set()
        assert self.opened.wait(30)


class Counted:
    """A note that counts how often it was sent, and puts another one in the queue if that is said."""

    def __init__(self, sender: Sender, *, again: bool = False) -> None:
        self.sent = 0
        self._sender = sender
        self._again = again

    def send(self) -> None:
        self.sent += 1
        if self._again:
            self._sender.leave(self)


@pytest.fixture
def sender() -> Iterator[Sender]:
    sender = Sender()
    yield sender
    sender.end()


@pytest.fixture
def gate(sender: Sender) -> Iterator[Gate]:
    """A note at which the thread of the sender stands."""
    gate = Gate()
    sender.leave(gate)
    assert gate.reached.wait(30)
    yield gate
    gate.opened.set()


def drop(sender: Sender, monkeypatch: pytest.MonkeyPatch) -> Counted:
    """Leave 25 notes where 10 find room."""
    monkeypatch.setattr(module, "ROOM", 10)
    note = Counted(sender)
    for _ in range(25):
        sender.leave(note)
    return note


def test_what_finds_no_room_is_dropped_counted_and_logged_once(
    sender: Sender, gate: Gate, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    note = drop(sender, monkeypatch)
    assert len(sender.notes) == 10
    assert sender.dropped == 15
    gate.opened.set()
    sender.flush()
    assert note.sent == 10
    [logged] = caplog.records
    assert "OpenTelemetry is slower than the sessions" in logged.getMessage()


@pytest.mark.parametrize("end", [False, True])
def test_handlers_of_the_log_run_on_the_way_of_no_session(
    sender: Sender,
    gate: Gate,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    end: bool,
) -> None:
    drop(sender, monkeypatch)
    assert not caplog.records
    monkeypatch.setattr(module, "_END_TIMEOUT", 0.05)
    with Background() as background:  # the thread stands at the gate
        (background.start(sender.end) if end else background.start(sender.flush, 0.05)).result()
    assert len(caplog.records) == 1


def test_the_thread_logs_what_was_dropped_and_outlives_a_handler_that_fails(
    sender: Sender, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            threads.append(threading.current_thread())
            raise RuntimeError("as it does")

    threads: list[threading.Thread] = []
    handler = Failing()
    module.logger.addHandler(handler)
    try:
        note = drop(sender, monkeypatch)
        gate.opened.set()
        eventually(lambda: note.sent == 10)
        assert threads == [sender._thread]
    finally:
        module.logger.removeHandler(handler)


def test_a_flush_sends_what_was_queued_when_it_began(sender: Sender) -> None:
    endless, note = Counted(sender, again=True), Counted(sender)
    sender.leave(endless)
    sender.leave(note)
    with Background() as background:
        background.start(sender.flush, 600.0).result()  # the queue is never empty
    assert note.sent == 1


def test_a_flush_waits_for_the_note_that_is_being_sent(sender: Sender, gate: Gate) -> None:
    with Background() as background:
        flushing = background.start(sender.flush)
        eventually(lambda: sender.notes)
        assert not flushing.done()
        gate.opened.set()
        flushing.result()


def test_a_flush_does_not_wait_forever(sender: Sender, gate: Gate) -> None:
    note = Counted(sender)
    sender.leave(note)
    with Background() as background:
        background.start(sender.flush, 0.05).result()
    assert list(sender.notes) == [note]  # no mark of the flush
    gate.opened.set()
    eventually(lambda: note.sent == 1)


def test_a_note_may_flush(sender: Sender) -> None:
    class Flushing:
        def send(self) -> None:
            sender.flush()

    note = Counted(sender)
    sender.leave(Flushing())
    sender.leave(note)
    sender.flush()
    assert note.sent == 1


def test_the_thread_outlives_a_processor_that_exits(sender: Sender, caplog: pytest.LogCaptureFixture) -> None:
    class Exiting:
        def send(self) -> None:
            raise SystemExit

    sender.leave(Exiting())
    sender.leave(Exiting())
    note = Counted(sender)
    sender.leave(note)
    eventually(lambda: note.sent == 1)
    assert sender._thread is not None
    assert sender._thread.is_alive()
    [logged] = caplog.records
    assert "SystemExit" in logged.getMessage()


def test_the_end_does_not_wait_forever_and_leaves_the_rest(
    sender: Sender, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_END_TIMEOUT", 0.05)
    note = Counted(sender)
    sender.leave(note)
    with Background() as background:
        background.start(sender.end).result()
    gate.opened.set()
    thread = sender._thread
    assert thread is not None
    eventually(lambda: not thread.is_alive())
    sender.flush()
    sender.leave(note)
    assert note.sent == 0
    assert not sender.notes


def test_notes_are_sent_where_no_thread_can_be_started(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    notes = [Counted(sender) for _ in range(3)]
    for note in notes[:2]:
        sender.leave(note)
    sender.flush()
    sender.leave(notes[2])
    sender.end()
    assert [note.sent for note in notes] == [1, 1, 1]
