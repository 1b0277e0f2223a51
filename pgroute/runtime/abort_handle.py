"""The socket under a connection, and safe ways to cut it, or to give up connecting."""

from __future__ import annotations

import functools
import os
import socket
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar, cast

import psycopg

from pgroute.runtime.receive_limit import Allowance

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

C = TypeVar("C", bound="type[psycopg.Connection[Any] | psycopg.AsyncConnection[Any]]")

given_up: ContextVar[Callable[[], bool]] = ContextVar("given_up", default=lambda: False)
"""Set around connecting through a `breakable` class: whether nobody wants the connection any more."""


class AbortHandle:
    """The socket of a connection, and a way to cut it from any thread.

    A descriptor may be closed and used again for something else at any moment, so what is cut is a duplicate, and only
    if it still is the socket that was noted at connect.
    """

    __slots__ = ("_fd", "_identity")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        info = os.fstat(fd)
        self._identity = (info.st_dev, info.st_ino)

    def cut(self) -> bool:
        """Shut the socket down; whoever waits on it gets an error at once. Return whether it was still that socket."""
        try:
            duplicate = os.dup(self._fd)
        except OSError:
            return False
        try:
            info = os.fstat(duplicate)
            if (info.st_dev, info.st_ino) != self._identity:
                return False
            with socket.socket(fileno=os.dup(duplicate)) as wire:
                wire.shutdown(socket.SHUT_RDWR)
        except OSError:
            return False
        finally:
            os.close(duplicate)
        return True


class GivenUp(psycopg.OperationalError):
    """Nobody wants the connection any more."""


def breakable(cls: C) -> C:
    """Return a subclass of psycopg's class (or the user's) whose `connect` ends within 0.1 s of `given_up()`.

    It ends too when the server sends far more than a login takes, all of which libpq would keep. Without that a thread
    that connects to a frozen host is stuck there until the connect timeout. psycopg polls its generator that often,
    for Ctrl-C; where a later psycopg has it no more, connecting takes its time again. The connection itself is of the
    class asked for. A class that watches over its subclasses gets none.
    """
    broken: C = _breakable(cast("Any", cls))
    return broken


@functools.lru_cache(maxsize=32)
def _breakable(cls: Any) -> Any:
    base = psycopg.AsyncConnection if issubclass(cls, psycopg.AsyncConnection) else psycopg.Connection
    theirs = [parent for parent in cls.__mro__ if parent not in base.__mro__]
    if type(cls) is not type(base) or any("__init_subclass__" in vars(parent) for parent in theirs):
        return cls

    def connect_gen(_: Any, *args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        steps = cls._connect_gen(*args, **kwargs)
        allowance = Allowance()
        try:
            step = next(steps)
            while not given_up.get()():
                ready = yield step
                if ready:
                    allowance.count(step[0])
                step = steps.send(ready)
        except StopIteration as end:
            return end.value
        finally:
            steps.close()
        raise GivenUp("nobody waits for this connection any more")

    return type(cls.__name__, (cls,), {"_connect_gen": classmethod(connect_gen)})
