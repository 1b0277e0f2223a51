"""Logins that end early: because nobody wants the connection any more, or the server sends too much."""

from __future__ import annotations

from contextvars import ContextVar
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import psycopg

from pgroute.runtime.receive_limit import Allowance

if TYPE_CHECKING:
    from collections.abc import Callable, Generator


class ConnectAborted(psycopg.OperationalError):
    """Nobody wants the connection any more."""


unwanted: ContextVar[Callable[[], bool]] = ContextVar("unwanted", default=lambda: False)
"""Whether nobody wants the connection that is being opened in this context any more."""


@lru_cache(maxsize=32)
def watched_class(cls: Any) -> Any:
    """Return a subclass of psycopg's class (or the user's) whose `connect` ends early where psycopg's would go on.

    It ends when the server sends far more than a login takes (`receive_limit`). libpq keeps all of that in memory: a
    server can make a process grow by some 200 MB a second until connect_timeout. No public name gives access to the
    socket during a login. It also ends within 0.1 s of *unwanted*, because psycopg resumes this generator that often:
    without that a router that is closed leaves threads behind until connect_timeout.

    The connection itself is of the class asked for. One subclass serves all pools of a class, because a
    user's `connect` may keep state in its class. A class that watches over its subclasses is returned as it is. In
    a version of psycopg that does not call ``_connect_gen``, the subclass changes nothing.

    Args:
        cls: the class of the connections.

    Raises:
        ConnectAborted: by `connect`, it was no longer wanted.
        TooMuch: by `connect`, the server sent too much.
    """
    actual: Any = cls
    base = psycopg.AsyncConnection if issubclass(cls, psycopg.AsyncConnection) else psycopg.Connection
    theirs = [parent for parent in cls.__mro__ if parent not in base.__mro__]
    if type(cls) is not type(base) or any("__init_subclass__" in vars(parent) for parent in theirs):
        return cls

    def connect_gen(_: Any, *args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        steps = actual._connect_gen(*args, **kwargs)
        allowance = Allowance()
        try:
            step = next(steps)
            while not unwanted.get()():
                ready = yield step
                if ready:
                    allowance.count(step[0])
                step = steps.send(ready)
        except StopIteration as end:
            return end.value
        finally:
            steps.close()
        raise ConnectAborted("the pool was closed while it connected")

    return type(cls.__name__, (cls,), {"_connect_gen": classmethod(connect_gen)})
