"""How a credentials function is called: never by who waits, joined while it runs, called again when it hangs."""

from __future__ import annotations

import asyncio
import errno
import gc
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from pgroute import CredentialRequest
from pgroute.core.config.credentials import read_credentials
from pgroute.runtime import credentials
from pgroute.runtime.credential_call import CredentialsFailed
from pgroute.runtime.credentials import CredentialSource
from tests.support import as_coroutine, async_eventually, eventually, hang

REQUEST = CredentialRequest("db1", 5432, "writer")


class Gate:
    """A function that returns when it is let go."""

    def __init__(self) -> None:
        self.asked: list[CredentialRequest] = []
        self.threads: set[int] = set()
        self.open = threading.Event()

    def __call__(self, request: CredentialRequest) -> dict[str, str]:
        self.asked.append(request)
        self.threads.add(threading.get_ident())
        assert self.open.wait(20)
        return {"user": request.role}


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open.set()
    eventually(lambda: not any(t.name == "pgroute-credentials" for t in threading.enumerate()))


def outcome(source: CredentialSource, request: CredentialRequest = REQUEST) -> dict[str, str]:
    call = source.ask(request)
    assert call.wait(10)
    return dict(call.result())


def reason(source: CredentialSource) -> str:
    with pytest.raises(CredentialsFailed) as caught:
        outcome(source)
    return str(caught.value)


@pytest.mark.parametrize("function", [lambda r: {"user": r.role}, as_coroutine(lambda r: {"user": r.role})])
def test_a_function_and_a_coroutine_function_answer(function: Any) -> None:
    assert outcome(CredentialSource(function)) == {"user": "writer"}


def test_it_runs_in_another_thread_and_none_is_left(gate: Gate) -> None:
    gate.open.set()
    assert outcome(CredentialSource(gate)) == {"user": "writer"}
    assert threading.get_ident() not in gate.threads


def test_each_attempt_asks_anew() -> None:
    numbers = iter(range(10))
    source = CredentialSource(lambda _: {"user": str(next(numbers))})
    assert [outcome(source)["user"] for _ in range(3)] == ["0", "1", "2"]


def test_the_next_attempt_waits_for_a_call_under_way(gate: Gate) -> None:
    source = CredentialSource(gate)
    first = source.ask(REQUEST)
    assert not first.wait(0.02)
    again, other = source.ask(REQUEST), source.ask(CredentialRequest("db2", 5432, "writer"))
    assert again is first
    gate.open.set()
    assert again.wait(10)
    assert other.wait(10)
    assert [request.host for request in sorted(gate.asked, key=str)] == ["db1", "db2"]


def test_a_late_answer_is_for_the_next_attempt_and_for_no_other(gate: Gate) -> None:
    source = CredentialSource(gate)
    first = source.ask(REQUEST)
    assert not first.wait(0.02)
    first.missed = True
    gate.open.set()
    eventually(lambda: first.done)
    assert source.ask(REQUEST) is first
    assert outcome(source) == {"user": "writer"}
    assert len(gate.asked) == 2


def test_a_call_that_hangs_is_made_again_beside_it(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    source = CredentialSource(gate)
    first = source.ask(REQUEST)
    eventually(lambda: gate.asked)
    monkeypatch.setattr(credentials, "HANGS", 0.0)
    second = source.ask(REQUEST)
    assert second is not first
    with pytest.raises(CredentialsFailed, match="did not return"):
        first.result()
    eventually(lambda: len(gate.asked) == 2)
    gate.open.set()
    assert second.wait(10)
    assert dict(second.result()) == {"user": "writer"}


def test_there_are_only_so_many_threads(gate: Gate) -> None:
    source = CredentialSource(gate)
    count = credentials.MOST_THREADS + 5
    calls = [source.ask(CredentialRequest(f"db{number}", 5432, "probe")) for number in range(count)]
    eventually(lambda: len(gate.asked) == credentials.MOST_THREADS)
    gate.open.set()
    assert all(call.wait(10) for call in calls)
    assert all(call.result() for call in calls)


def test_closing_ends_every_wait_at_once(gate: Gate) -> None:
    source = CredentialSource(gate)
    call = source.ask(REQUEST)
    begun_at = time.monotonic()
    source.close()
    assert call.wait(10)
    assert time.monotonic() - begun_at < 5
    with pytest.raises(CredentialsFailed, match="the router was closed"):
        call.result()
    assert reason(source) == "the router was closed"


def test_closing_cancels_a_coroutine_and_its_thread_ends() -> None:
    source = CredentialSource(hang)
    call = source.ask(REQUEST)
    eventually(lambda: any(t.name == "pgroute-credentials" for t in threading.enumerate()))
    source.close()
    assert call.wait(10)
    eventually(lambda: not any(t.name == "pgroute-credentials" for t in threading.enumerate()))


async def test_a_coroutine_runs_in_the_loop_of_the_application() -> None:
    loops = []

    async def function(_: CredentialRequest) -> dict[str, str]:
        loops.append(asyncio.get_running_loop())
        return {"user": "x"}

    source = CredentialSource(function)
    source.open(asyncio.get_running_loop())
    call = source.ask(REQUEST)
    await asyncio.to_thread(call.wait, 10)
    assert dict(call.result()) == {"user": "x"}
    assert loops == [asyncio.get_running_loop()]


async def test_closing_cancels_a_coroutine_in_the_loop_of_the_application() -> None:
    source = CredentialSource(hang)
    source.open(asyncio.get_running_loop())
    before = asyncio.all_tasks()
    call = source.ask(REQUEST)
    await async_eventually(lambda: asyncio.all_tasks() != before)
    source.close()
    await async_eventually(lambda: asyncio.all_tasks() == before)
    assert call.done


@pytest.mark.parametrize(
    "at", [(socket, "socketpair"), (asyncio.events, "new_event_loop")], ids=lambda at: at[1]
)
def test_a_coroutine_for_which_there_is_no_loop_is_closed_and_the_next_one_runs(
    monkeypatch: pytest.MonkeyPatch, at: tuple[Any, str]
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    source = CredentialSource(as_coroutine(lambda r: {"user": r.role}))
    with warnings.catch_warnings(record=True) as warned, monkeypatch.context() as patched:
        warnings.simplefilter("always")
        patched.setattr(*at, refuse)
        assert "Too many open files" in reason(source)
        gc.collect()
    assert [str(warning.message) for warning in warned] == []
    assert outcome(source) == {"user": "writer"}


class Rude(Exception):
    def __str__(self) -> str:
        raise TypeError("hunter2")


def raising(exc: BaseException) -> Any:
    def function(_: CredentialRequest) -> dict[str, str]:
        raise exc

    return function


@pytest.mark.parametrize(
    ("exc", "text"),
    [
        (PermissionError("vault: denied"), "raised PermissionError: vault: denied"),
        (ValueError("two\nlines"), "raised ValueError: two"),
        (ValueError("\x1b[2J"), "raised ValueError: \\x1b[2J"),
        (RuntimeError("password='hunter2'"), "raised RuntimeError"),
        (OSError("GET https://vault/v1/x?token=hunter2"), "raised OSError"),
        (OSError("postgresql://a:hunter2@b/c"), "raised OSError"),
        (Rude(), "raised Rude"),
        (KeyError(), "raised KeyError"),
        (SystemExit(3), "raised SystemExit: 3"),
        (KeyboardInterrupt(), "raised KeyboardInterrupt"),
        (asyncio.CancelledError(), "raised CancelledError"),
        (StopIteration("x"), "raised StopIteration: x"),
    ],
)
def test_what_it_raises_is_told_in_one_line_without_secrets(exc: BaseException, text: str) -> None:
    assert reason(CredentialSource(raising(exc))) == text


def test_a_refusal_is_remembered_for_the_same_login_alone() -> None:
    source = CredentialSource(lambda _: {})
    login, other = read_credentials({"user": "a"}), read_credentials({"user": "b"})
    assert source.first(REQUEST) == REQUEST
    source.note_refusal(REQUEST, login, "FATAL:  no")
    assert source.first(REQUEST).refused
    probe = CredentialRequest("db1", 5432, "probe")
    assert source.first(probe) == probe
    assert source.refusal(probe, login) == "FATAL:  no"
    assert source.refusal(probe, other) is None
    assert source.refusal(CredentialRequest("db2", 5432, "probe"), login) is None
    source.note_success(REQUEST)
    assert source.first(REQUEST) == REQUEST


def test_a_refusal_is_forgotten_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    source = CredentialSource(lambda _: {})
    login = read_credentials({"password": "a"})
    source.note_refusal(REQUEST, login, "FATAL:  no")
    monkeypatch.setattr(credentials, "REJECTED_GAP", 0.0)
    monkeypatch.setattr(credentials, "_STANDING", 0.0)
    assert source.refusal(REQUEST, login) is None
    assert source.first(REQUEST) == REQUEST
