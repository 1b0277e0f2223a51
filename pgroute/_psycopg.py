"""All that pgroute uses of psycopg beside its documented interface, each with the reason it is needed.

Private names, as they are in psycopg 3.3.9, the oldest version that pgroute accepts:

- ``Connection._tpc`` and ``_num_transactions``: `has_two_phase`, `has_open_block`, `enter_block`, `is_only_block`,
  `leave_block`.
- ``Connection._prepared``: `forget_prepared`.
- ``Connection._pool``: `mark_pooled`.
- ``Connection._connect_gen``: `watched_class`.

Public names that the documentation does not list: ``psycopg.generators.execute`` (`query_steps`); ``Connection.lock``,
``Connection.wait`` and ``psycopg.errors.error_from_result`` (`_async/statements.py`). Public methods replaced on one
connection, because its class is the user's: ``wait`` and ``cancel_safe`` (`_async/pool/interrupt.py`).

psycopg_pool contributes exception classes and type variables, all public. ``tests/test_canaries.py`` fails, and says
what to do, when a new version of psycopg changes one of these names.
"""

from __future__ import annotations

from contextvars import ContextVar
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import psycopg
from psycopg import generators

from pgroute.runtime.receive_limit import Allowance

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from psycopg.pq.abc import PGconn, PGresult

    Connection = psycopg.Connection[Any] | psycopg.AsyncConnection[Any]


def has_two_phase(conn: Connection) -> bool:
    """Return whether a two-phase transaction was begun, and neither committed nor rolled back.

    After tpc_prepare() the server reports no transaction. The public commit() raises ProgrammingError without I/O then,
    but it does so for an open transaction() too, the user's class may override it, and it would add 0.7 us (threads)
    or 3 us (asyncio) to each session, a tenth of one without statements.
    """
    return bool(getattr(conn, "_tpc", None))


def has_open_block(conn: Connection) -> bool:
    """Return whether a transaction() was entered and not left.

    The server's status does not tell after a plain COMMIT within it. For commit() see `has_two_phase`.
    """
    return bool(getattr(conn, "_num_transactions", 0))


def enter_block(conn: Connection) -> None:
    """Make psycopg treat a transaction that we have begun as a transaction() of its own.

    So commit() and rollback() are refused within it, and a transaction() is a savepoint. A transaction() of psycopg's
    sends BEGIN and COMMIT alone, each a round trip; ours go together with other statements. No public name begins or
    ends one without sending something.
    """
    conn._num_transactions = 1


def is_only_block(conn: Connection) -> bool:
    """Return whether no transaction() was entered and not left since `enter_block`."""
    return getattr(conn, "_num_transactions", 0) == 1


def leave_block(conn: Connection) -> None:
    """Undo `enter_block`."""
    conn._num_transactions = 0


def forget_prepared(conn: Connection) -> None:
    """Make psycopg forget which statements it has prepared; to be followed by DISCARD ALL.

    psycopg notices a DISCARD ALL by itself only the first time that a connection executes that text, and would then go
    on to use statements that are gone. The public rollback() does it too, but needs a transaction: two round trips.
    """
    conn._prepared.clear()


class Pool:
    """Stands for a pool in psycopg's eyes: a true value whose `close_returns` says that close() closes."""

    close_returns = False


_POOL = Pool()


def mark_pooled(conn: Connection) -> None:
    """Tell psycopg that a connection belongs to a pool.

    Otherwise leaving ``with conn`` closes it (psycopg documentation, "with connection"), and one that is collected
    while open gives a ResourceWarning. psycopg_pool uses this attribute for it; no public name does.
    """
    conn._pool = cast("Any", _POOL)


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


def query_steps(pgconn: PGconn, statement: bytes) -> Generator[Any, Any, list[PGresult]]:
    """Send statements in one round trip, for ``conn.wait``; return libpq's result of each.

    A cursor would use the user's adapters, row factory and prepared statements, and cannot be told to stop reading.
    """
    pgconn.send_query(statement)
    received: list[PGresult] = yield from generators.execute(pgconn)
    return received
