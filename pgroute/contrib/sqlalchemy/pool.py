"""The pool of an engine, which keeps no connection: the router does."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from sqlalchemy.pool import NullPool, QueuePool, SingletonThreadPool
from sqlalchemy.pool.base import _ConnectionRecord
from sqlalchemy.util.langhelpers import only_once

from pgroute.errors import ConfigError, presentable

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.pool import ConnectionPoolEntry, Pool

_ONCE = only_once(lambda: None, retry_on_exception=False).__code__

_INSTEAD = {
    "pool_size": "max_size={value} in the URL, which is per host; the most of SQLAlchemy's is pool_size + max_overflow",
    "max_overflow": "max_size= in the URL, which is per host; the most of SQLAlchemy's is pool_size + max_overflow",
    "pool_timeout": "acquire_timeout={value} in the URL",
    "pool_use_lifo": "nothing: the router lends the connection that was used last",
}


class RouterPool(NullPool):
    """Asks the router for a connection each time, and gives it back.

    The options of SQLAlchemy's own pools are refused, with the router's in their place.

    Attributes:
        replaced: called when the engine is disposed of, which then gets another pool; None: nothing is.
        own_listeners: how many listeners to `connect` there are that run once; -1: some do each time.
    """

    replaced: Callable[[], object] | None = None
    own_listeners: int = -1
    _begun = False

    def __init__(
        self,
        creator: Any,
        # Not keyword-only: SQLAlchemy looks which arguments there are.
        pool_size: object = None,
        max_overflow: object = None,
        timeout: object = None,
        use_lifo: object = None,
        **kw: Any,
    ) -> None:
        given = {
            "pool_size": pool_size,
            "max_overflow": max_overflow,
            "pool_timeout": timeout,
            "pool_use_lifo": use_lifo,
        }
        for name, value in given.items():
            if value is not None:
                number = isinstance(value, (int, float))
                shown = presentable(value) if number else "..."  # a mapping may hold a password
                accepted = f"the router has the pools, expected {_INSTEAD[name].format(value=shown)}"
                raise ConfigError(name, value, accepted)
        super().__init__(creator, **kw)

    def note_listeners(self) -> None:
        """Count the listeners to `connect` of a new engine, if they do nothing the second time, as SQLAlchemy's own."""
        listeners = list(self.dispatch.connect)
        if all(getattr(listener, "__code__", None) is _ONCE for listener in listeners):
            self.own_listeners = len(listeners)

    def _do_get(self) -> ConnectionPoolEntry:
        """Return a record with a connection; as NullPool, with less on the way if nobody listens."""
        dialect: Any = self._dialect
        if not (self._begun and dialect.known and len(self.dispatch.connect) == self.own_listeners):
            record = super()._do_get()
            self._begun = True
            return record
        record = _ConnectionRecord(self, connect=False)
        record.starttime = time.time()
        record.dbapi_connection = dialect.lend()
        record.fresh = True
        return record

    def _do_return_conn(self, record: Any) -> None:
        """Close the connection of a record; as NullPool."""
        connection: Any = record.dbapi_connection
        if connection is None or self.dispatch.close or self.dispatch.close_detached:
            record.close()
            return
        lent = getattr(connection, "pgroute_lent", None)
        record.dbapi_connection = None
        try:
            self._dialect.do_close(connection)
        except BaseException as exc:
            if lent is not None:
                lent.abandon()  # no collector may find it: the log refers to it
            self.logger.exception("Exception closing connection %r", connection)
            if not isinstance(exc, Exception):
                raise

    def recreate(self) -> RouterPool:
        """Return the pool that takes its place."""
        pool = super().recreate()
        assert isinstance(pool, RouterPool)
        pool.replaced = self.replaced
        pool.own_listeners = self.own_listeners
        if self.replaced is not None:
            self.replaced()
        return pool

    def status(self) -> str:
        """Say where the connections are."""
        return "RouterPool: the router has the connections, see its get_stats()"


def check_pool(pool: Pool) -> None:
    """Raise ConfigError for a pool that would keep connections, to a demoted primary too; those of tests may."""
    if isinstance(pool, (QueuePool, SingletonThreadPool)):
        accepted = "expected none, or NullPool: the router has the pools, and knows when a connection must go"
        raise ConfigError("poolclass", type(pool).__name__, accepted)
