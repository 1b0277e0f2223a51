"""Transactions of ORM sessions that are run again as a whole: `run_in_session` and its twin for asyncio."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeVar

from sqlalchemy.util import greenlet_spawn

from pgroute.contrib.sqlalchemy.session_run import ASYNC, SYNC, SessionRun

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import psycopg
    from sqlalchemy.ext.asyncio import async_scoped_session, async_sessionmaker
    from sqlalchemy.orm import scoped_session, sessionmaker

    from pgroute import RetryPolicy, Role

T = TypeVar("T")


def run_in_session(
    maker: sessionmaker[Any] | scoped_session[Any],
    fn: Callable[..., T],
    /,
    *args: Any,
    role: Literal["writer", "reader"] | Role = "writer",
    timeout: float | None = None,
    retry: RetryPolicy | None = None,
    once: str | bool | None = None,
    isolation: psycopg.IsolationLevel | str | None = None,
    read_only: bool | None = None,
    deferrable: bool | None = None,
) -> T:
    """Call ``fn(session, *args)`` in a transaction of an ORM session and return its result.

    It is run again as a whole, in a new session, where `Router.run()` would run it again: after a serialization failure
    or a deadlock, on a host that has become read-only, after the loss of the connection before COMMIT. Objects of
    earlier attempts are detached: load what you need in the function.

    Args:
        maker: a sessionmaker, with bind= an engine of ``postgresql+pgroute``, or a scoped_session of one: then each
            attempt's session is the current one while *fn* runs. ``db.session`` of Flask-SQLAlchemy is one.
        fn: the body, a function of a Session. It must not commit: that is done when it returns.
        args: further arguments of *fn*.
        role: "writer" or "reader".
        timeout: seconds for the whole call; None: the limit of the policy, and acquire_timeout for each session.
        retry: the policy of retries; None: the router's.
        once: a key of 1 to 512 bytes, or True for a new key for this call: the transaction is applied once, and its
            result, as stored in JSON, returned to each call with the key.
        isolation: "read committed", "repeatable read", "serializable" or a psycopg.IsolationLevel; None: the setting of
            the engine, else of the connection.
        read_only: of the transaction; None: as *isolation*.
        deferrable: of the transaction; None: as *isolation*.

    Raises:
        ConfigError: an argument is invalid.
        sqlalchemy.exc.DBAPIError: the transaction failed and is not run again; its ``orig`` is what `Router.run()`
            would have raised: NoHostAvailable, SessionLost, CommitUnknown, or the error of a statement.
        Exception: an error of *fn* after which it is not run again.
    """
    kind = {"isolation": isolation, "read_only": read_only, "deferrable": deferrable}
    # One statement: on a line of its own, an interrupt after the COMMIT would carry no note.
    return SessionRun(SYNC, maker, fn, args, role, timeout, retry, once, kind).run()  # type: ignore[no-any-return]


async def async_run_in_session(
    maker: async_sessionmaker[Any] | async_scoped_session[Any],
    fn: Callable[..., Awaitable[T]],
    /,
    *args: Any,
    role: Literal["writer", "reader"] | Role = "writer",
    timeout: float | None = None,
    retry: RetryPolicy | None = None,
    once: str | bool | None = None,
    isolation: psycopg.IsolationLevel | str | None = None,
    read_only: bool | None = None,
    deferrable: bool | None = None,
) -> T:
    """Call ``fn(session, *args)`` in a transaction of an ORM session and return its result.

    It is run again as a whole, in a new session, where `Router.run()` would run it again: after a serialization failure
    or a deadlock, on a host that has become read-only, after the loss of the connection before COMMIT. Objects of
    earlier attempts are detached: load what you need in the function.

    Args:
        maker: an async_sessionmaker, with bind= an engine of ``postgresql+pgroute``, or an async_scoped_session of
            one: then each attempt's session is the current one while *fn* runs.
        fn: the body, a coroutine function of an AsyncSession. It must not commit: that is done when it returns.
        args: further arguments of *fn*.
        role: "writer" or "reader".
        timeout: seconds for the whole call; None: the limit of the policy, and acquire_timeout for each session.
        retry: the policy of retries; None: the router's.
        once: a key of 1 to 512 bytes, or True for a new key for this call: the transaction is applied once, and its
            result, as stored in JSON, returned to each call with the key.
        isolation: "read committed", "repeatable read", "serializable" or a psycopg.IsolationLevel; None: the setting of
            the engine, else of the connection.
        read_only: of the transaction; None: as *isolation*.
        deferrable: of the transaction; None: as *isolation*.

    Raises:
        ConfigError: an argument is invalid.
        sqlalchemy.exc.DBAPIError: the transaction failed and is not run again; its ``orig`` is what `Router.run()`
            would have raised: NoHostAvailable, SessionLost, CommitUnknown, or the error of a statement.
        Exception: an error of *fn* after which it is not run again.
    """
    kind = {"isolation": isolation, "read_only": read_only, "deferrable": deferrable}
    run = SessionRun(ASYNC, maker, fn, args, role, timeout, retry, once, kind)
    return await greenlet_spawn(run.run)
