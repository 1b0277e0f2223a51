"""Calls a router's credentials function in threads of its own, and remembers which logins were refused."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import inspect
import selectors
import socket
import threading
import time
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pgroute.core.config.credentials import BadCredentials, read_credentials
from pgroute.core.config.dsn import may_hold_secret
from pgroute.core.faults.classify import one_line
from pgroute.core.schedule import REJECTED_GAP
from pgroute.runtime.credential_call import HANGS, CredentialCall, CredentialsFailed

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from pgroute.core.config.credentials import CredentialRequest, Credentials
    from pgroute.core.config.dsn import Params

MOST_THREADS = 16
"""The most calls of the function at a time; further ones wait for their turn."""

_STANDING = 300.0
"""Seconds after which a refusal is forgotten if no other login followed."""

_STEP = 1.0


class CredentialSource:
    """The credentials function of one router.

    A call that takes too long for the connection that needs it goes on, and the next attempt takes its answer instead
    of making another. Otherwise no answer is kept: how long it is good for is known to the function alone. Threads
    exist only while the function runs.

    Args:
        fn: the user's function.
    """

    def __init__(self, fn: Credentials) -> None:
        self._fn = fn
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        self._calls: dict[CredentialRequest, CredentialCall] = {}
        self._waiting: deque[CredentialCall] = deque()
        self._threads = 0
        self._closed = False
        self._refusals: dict[tuple[str, int, Params], tuple[float, str]] = {}
        self._standing: dict[CredentialRequest, float] = {}

    def open(self, loop: object) -> None:
        """Begin to serve a router.

        Args:
            loop: the application's, in which coroutines run: what they use is often bound to it. None: there is none,
                and each coroutine runs in a loop of its own.
        """
        self._loop = loop if isinstance(loop, asyncio.AbstractEventLoop) else None

    def close(self) -> None:
        """Give up what is under way."""
        with self._lock:
            self._closed = True
            calls = tuple(self._calls.values())
            self._calls = {}
            self._waiting.clear()
        for call in calls:
            call.give_up("the router was closed")

    def ask(self, request: CredentialRequest) -> CredentialCall:
        """Have the function called; from any thread.

        Returns:
            The call; the one before for the same request if it is under way, or has ended after all who waited left.
        """
        hanging: CredentialCall | None = None
        with self._lock:
            call = self._calls.get(request)
            if call is not None:
                if call.done:
                    del self._calls[request]  # an answer is used once
                young = time.monotonic() - call.begun_at < HANGS
                if young and (call.missed or not call.done):
                    return call
                hanging = call
            call = CredentialCall(request)
            if self._closed:
                call.end(None, "the router was closed")
                return call
            self._calls[request] = call
            self._waiting.append(call)
            failure = self._start_thread()
            if failure:
                self._waiting.remove(call)
                del self._calls[request]
        if hanging is not None:
            hanging.give_up("did not return")
        if failure:
            call.end(None, failure)
        return call

    def _start_thread(self) -> str:
        if self._threads >= MOST_THREADS:
            return ""
        self._threads += 1
        try:
            threading.Thread(target=self._work, name="pgroute-credentials", daemon=True).start()
        except RuntimeError as exc:
            self._threads -= 1
            return "" if self._threads else f"could not be called: {exc}"
        return ""

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._threads -= 1
                    return
                call = self._waiting.popleft()
            if not call.done:
                call.end(*self._call(call))
            with self._lock:
                # One that was missed is for the next attempt, unless that came just now.
                if self._calls.get(call.request) is call and not (call.missed and call.answered):
                    del self._calls[call.request]

    def _call(self, call: CredentialCall) -> tuple[Params | None, str]:
        try:
            returned = self._fn(call.request)
            if inspect.isawaitable(returned):
                returned = self._outcome(call, returned)
            return read_credentials(returned), ""
        except (BadCredentials, CredentialsFailed) as exc:
            return None, str(exc)
        except BaseException as exc:  # noqa: BLE001  (of the user's function: this thread is for nothing else)
            return None, _told(exc)

    def _outcome(self, call: CredentialCall, awaitable: Awaitable[Any]) -> Any:
        if self._loop is None:
            return _run_alone(call, awaitable)
        waiting = _awaited(awaitable)
        try:
            future = asyncio.run_coroutine_threadsafe(waiting, self._loop)
        except BaseException:
            waiting.close()
            _close(awaitable)
            raise
        call.on_cancel(future.cancel)
        while True:
            try:
                return future.result(_STEP)
            except concurrent.futures.TimeoutError:
                if future.done() or self._loop.is_closed():
                    raise

    # What was refused. Each step is one operation of a dictionary, so no lock is needed.

    def first(self, request: CredentialRequest) -> CredentialRequest:
        """Return the request for a login; *refused* if the last one of this kind was refused."""
        at = self._standing.get(request)
        stands = at is not None and time.monotonic() - at < _STANDING
        return replace(request, refused=True) if stands else request

    def refusal(self, request: CredentialRequest, login: Params) -> str | None:
        """Return the text with which a host has refused this login a moment ago, whoever tried it."""
        at, text = self._refusals.get((request.host, request.port, login), (0.0, ""))
        return text if text and time.monotonic() - at < REJECTED_GAP else None

    def note_refusal(self, request: CredentialRequest, login: Params | None, text: str) -> None:
        """Take note that a login was refused.

        Args:
            request: whose login.
            login: its parameters; None: others with the same ones may be let in.
            text: of the host.
        """
        now = time.monotonic()
        for refused, (at, _) in tuple(self._refusals.items()):
            if now - at > REJECTED_GAP:
                self._refusals.pop(refused, None)
        for before, at in tuple(self._standing.items()):
            if now - at > _STANDING:
                self._standing.pop(before, None)
        self._standing[replace(request, refused=False)] = now
        if login is not None:
            self._refusals[request.host, request.port, login] = (now, text)

    def note_success(self, request: CredentialRequest) -> None:
        """Take note that a login was accepted."""
        self._standing.pop(replace(request, refused=False), None)


def _run_alone(call: CredentialCall, awaitable: Awaitable[Any]) -> Any:
    """Await it in a loop of its own."""
    runner = asyncio.Runner()
    try:
        _check_descriptors()
        runner.get_loop()
    except BaseException:
        _close(awaitable)
        raise
    with runner:
        return runner.run(_cancellable(call, awaitable))


def _check_descriptors() -> None:
    """Raise OSError if there are none for a loop: one that finds none halfway cannot be closed, and says so."""
    with selectors.DefaultSelector():
        for end in socket.socketpair():
            end.close()


def _close(awaitable: Awaitable[Any]) -> None:
    """End a coroutine that never ran, which Python would warn of."""
    if inspect.iscoroutine(awaitable):
        awaitable.close()


async def _awaited(awaitable: Awaitable[Any]) -> Any:
    try:
        return await awaitable
    except SystemExit as exc:  # which would end the application's loop
        raise CredentialsFailed(_told(exc)) from None


async def _cancellable(call: CredentialCall, awaitable: Awaitable[Any]) -> Any:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def cancel() -> None:
        with contextlib.suppress(RuntimeError):  # it has ended
            loop.call_soon_threadsafe(task.cancel)

    call.on_cancel(cancel)
    return await _awaited(awaitable)


def _told(exc: BaseException) -> str:
    """Return what the function raised: the text too, unless it seems to contain a secret."""
    name = type(exc).__name__
    try:
        text = str(exc)
    except Exception:  # noqa: BLE001  (the user's)
        text = ""
    return f"raised {name}" if not text or may_hold_secret(text) else f"raised {name}: {one_line(text)}"
