"""Connections of a pool, in psycopg's eyes: how they are closed, and what it logs about them."""

from __future__ import annotations

import logging
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import psycopg

    Connection = psycopg.Connection[Any] | psycopg.AsyncConnection[Any]


class Pool:
    """Stands for a pool in psycopg's eyes: a true value whose `close_returns` says that close() closes."""

    close_returns = False


_POOL = Pool()


def mark_pooled(conn: Connection) -> None:
    """Tell psycopg that a connection belongs to a pool.

    Otherwise leaving ``with conn`` closes it (psycopg documentation, "with connection"), and one that is collected
    while open gives a ResourceWarning. psycopg_pool uses this attribute for it; no public name does.

    From the first one on, psycopg's loggers have the filter `worth_telling`.
    """
    conn._pool = cast("Any", _POOL)
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(worth_telling)  # does nothing if it is there


def bare(conn: Any) -> Any:
    """Return the connection itself where connect() has returned a proxy of it.

    The agents of Datadog and New Relic patch connect() so. Their proxies are those of wrapt: only type() and identity
    tell them from the connection.
    """
    return getattr(conn, "__wrapped__", conn)


_LOGGERS = ("psycopg", "psycopg.transaction")


cancelling: ContextVar[bool] = ContextVar("cancelling", default=False)
"""Whether a statement on a pooled connection is being cancelled in this context."""


def worth_telling(record: logging.LogRecord) -> bool:
    """Return whether a message of psycopg's says more than the errors that callers get anyway; a filter for its logger.

    A lost connection ends each pipeline, COPY and transaction() on it by an error, and psycopg warns of the next error
    that follows from it, once for each. It also warns if a statement ends otherwise than by the cancel request. Both
    happen wherever a host fails, and the pool replaces the connection. What concerns other connections, or one that is
    still open, is told. psycopg looks no method up on the way to these messages that could be replaced.
    """
    text = str(record.msg)
    if text.startswith("query "):
        return not cancelling.get()
    if not text.startswith("error ignored ") or not isinstance(record.args, tuple) or not record.args:
        return True
    subject = record.args[0]
    conn = getattr(subject, "connection", None) or getattr(subject, "_conn", None) or subject
    return not (getattr(conn, "_pool", None) is _POOL and getattr(conn, "broken", False))
