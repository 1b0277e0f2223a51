"""One call of a router's credentials function, and what those who need its answer do with it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from typing import TYPE_CHECKING

from pgroute.runtime.wakeup import OneShotEvent

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgroute.core.config.credentials import CredentialRequest
    from pgroute.core.config.dsn import Params

HANGS = 10.0
"""Seconds after which a call counts as hanging: the function is called again beside it."""


class CredentialsFailed(Exception):
    """The function gave no credentials. The text says why, without a value of its."""


class CredentialCall:
    """One call of the function, which several may wait for.

    Args:
        request: what is asked for.

    Attributes:
        request: as given.
        begun_at: monotonic seconds.
        missed: it took too long for those who waited.
    """

    def __init__(self, request: CredentialRequest) -> None:
        self.request = request
        self.begun_at: float = time.monotonic()
        self.missed = False
        self._lock = threading.Lock()
        self._done = OneShotEvent()
        self._answer: Params | None = None
        self._failure = ""
        self._tell: list[Callable[[], object]] = []
        self._cancel: Callable[[], object] | None = None

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self._done.is_set

    @property
    def answered(self) -> bool:
        """Whether it has given credentials."""
        return self._answer is not None

    def wait(self, timeout: float) -> bool:
        """Return whether it has ended, after *timeout* seconds at the latest."""
        return self._done.wait(timeout)

    def on_done(self, fn: Callable[[], object]) -> None:
        """Have *fn* called at the end, in any thread; at once if it has ended already."""
        with self._lock:
            if not self.done:
                self._tell.append(fn)
                return
        fn()

    def on_cancel(self, fn: Callable[[], object]) -> None:
        """Have *fn* called if the call is given up; at once if it was."""
        with self._lock:
            self._cancel = fn
            given_up = self.done
        if given_up:
            fn()

    def end(self, answer: Params | None, failure: str = "") -> None:
        """Set the outcome, unless there is one."""
        with self._lock:
            if self.done:
                return
            self._answer, self._failure = answer, failure
            self._done.set()
            tell, self._tell = self._tell, []
        for fn in tell:
            fn()

    def give_up(self, why: str) -> None:
        """End it without an answer. A coroutine is cancelled; a function goes on in its thread."""
        self.end(None, why)
        if self._cancel is not None:
            self._cancel()

    def result(self) -> Params:
        """Return the credentials.

        Raises:
            CredentialsFailed: there are none.
        """
        if self._answer is None:
            raise CredentialsFailed(self._failure)
        return self._answer


def late(seconds: float) -> str:
    """Return the reason of an attempt for which the function was too slow."""
    return f"gave no answer within {seconds:g} s"


def reason(failure: str) -> str:
    """Return the text for users of a failure of the function."""
    return f"no credentials: the function of credentials= {failure}"


def end_in_loop(call: CredentialCall) -> asyncio.Future[None]:
    """Return a future of the running loop that is done once the call has ended."""
    loop = asyncio.get_running_loop()
    ended = loop.create_future()

    def end() -> None:
        if not ended.done():
            ended.set_result(None)

    def tell() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(end)

    call.on_done(tell)
    return ended
