"""The contenders, their settings, and the source that recommends each setting.

All have pools of the same sizes. A session is asked for with PATIENCE seconds, but for hasql's own default.
"""

from __future__ import annotations

import contextlib
import functools
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg_pool

import pgroute

try:
    from hasql.driver.psycopg3 import PoolManager
except ImportError:
    PoolManager = None

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = 5.0
SIZES = {"min_size": 1, "max_size": 10}

# One DSN with all hosts is what libpq's documentation gives for this ("Specifying Multiple Hosts", 34.1.1.3, and
# target_session_attrs in 34.1.2). Without connect_timeout psycopg waits 130 s for a host that hangs; 2 s is its least.
WRITER = "&target_session_attrs=read-write&connect_timeout=2"
READER = "&target_session_attrs=prefer-standby&load_balance_hosts=random&connect_timeout=2"

# "Connection quality" in psycopg's "Connection pools" recommends check=. Between attempts to connect the pool waits 1,
# 2, 4 s and so on up to reconnect_timeout ("Pool connection and sizing"). The quickest that we found is to have it give
# up at once, and to ask anew: that begins another attempt.
TUNED_POOL = {"reconnect_timeout": 0.1}
POOL_ACQUIRE = 0.1

# hasql's README, "How it works?": the role of a host is asked for each refresh_delay, so its failover is as quick as
# that. refresh_timeout bounds the asking. An acquire waits for the host that was chosen first, so it is made short and
# repeated.
TUNED_HASQL = {"refresh_delay": 0.1, "refresh_timeout": 1}
HASQL_ACQUIRE = 0.25


@dataclass(frozen=True)
class Sessions:
    """The interface for the application: context managers that yield a connection."""

    writer: Callable[[], Any]
    reader: Callable[[], Any] | None = None
    commits: bool = True
    """Whether leaving the session commits; psycopg_pool under hasql rolls back what was not committed."""


@dataclass(frozen=True)
class Contender:
    """A library with its settings. `open(dsn, sizes, readers)` is a context manager that yields Sessions."""

    name: str
    face: str
    open: Callable[..., Any]


@contextlib.contextmanager
def open_pgroute(dsn, sizes, readers):
    options = pgroute.PoolOptions(**sizes)
    with pgroute.Router(dsn, writer=options, acquire_timeout=PATIENCE) as router:
        router.wait()
        yield Sessions(router.writer, router.reader)


@contextlib.asynccontextmanager
async def open_pgroute_async(dsn, sizes, readers):
    options = pgroute.PoolOptions(**sizes)
    async with pgroute.AsyncRouter(dsn, writer=options, acquire_timeout=PATIENCE) as router:
        await router.wait()
        yield Sessions(router.writer, router.reader)


@contextlib.contextmanager
def open_pool(dsn, sizes, readers, *, tuned=False):
    cls = psycopg_pool.ConnectionPool
    extra = {"check": cls.check_connection, **TUNED_POOL} if tuned else {}
    with contextlib.ExitStack() as stack:

        def pool(attributes, sizes):
            pool = cls(dsn + attributes, timeout=PATIENCE, open=False, **sizes, **extra)
            stack.enter_context(pool).wait()
            return functools.partial(Repeated, pool.connection, POOL_ACQUIRE) if tuned else pool.connection

        yield Sessions(pool(WRITER, sizes), pool(READER, SIZES) if readers else None)


@contextlib.asynccontextmanager
async def open_pool_async(dsn, sizes, readers, *, tuned=False):
    cls = psycopg_pool.AsyncConnectionPool
    extra = {"check": cls.check_connection, **TUNED_POOL} if tuned else {}
    async with contextlib.AsyncExitStack() as stack:

        async def pool(attributes, sizes):
            pool = cls(dsn + attributes, timeout=PATIENCE, open=False, **sizes, **extra)
            await stack.enter_async_context(pool)
            await pool.wait()
            return functools.partial(Repeated, pool.connection, POOL_ACQUIRE) if tuned else pool.connection

        yield Sessions(await pool(WRITER, sizes), await pool(READER, SIZES) if readers else None)


def for_hasql(dsn):
    """Return the DSN as hasql can read it: without the empty password that keeps libpq from PGPASSWORD."""
    return dsn.replace("password=&", "")


@contextlib.asynccontextmanager
async def open_hasql(dsn, sizes, readers):
    async with PoolManager(for_hasql(dsn), pool_factory_kwargs=dict(sizes)) as manager:
        yield Sessions(manager.acquire_master, manager.acquire_replica, commits=False)


@contextlib.asynccontextmanager
async def open_hasql_tuned(dsn, sizes, readers):
    dsn = for_hasql(dsn) + "&connect_timeout=2"
    async with PoolManager(dsn, pool_factory_kwargs=dict(sizes), **TUNED_HASQL) as manager:
        yield Sessions(
            functools.partial(Repeated, manager.acquire_master, HASQL_ACQUIRE),
            functools.partial(Repeated, manager.acquire_replica, HASQL_ACQUIRE),
            commits=False,
        )


class Repeated:
    """A session asked for again and again, briefly each time, until PATIENCE is over."""

    def __init__(self, acquire, timeout):
        self._acquire = acquire
        self._timeout = timeout

    def __enter__(self):
        until = time.monotonic() + PATIENCE
        while True:
            self._session = self._acquire(timeout=self._timeout)
            try:
                return self._session.__enter__()
            except psycopg_pool.PoolTimeout:
                if time.monotonic() >= until:
                    raise

    def __exit__(self, *exc):
        return self._session.__exit__(*exc)

    async def __aenter__(self):
        until = time.monotonic() + PATIENCE
        while True:
            self._session = self._acquire(timeout=self._timeout)
            try:
                return await self._session.__aenter__()
            except (TimeoutError, psycopg_pool.PoolTimeout):
                if time.monotonic() >= until:
                    raise

    async def __aexit__(self, *exc):
        return await self._session.__aexit__(*exc)


ALL = {
    contender.name: contender
    for contender in (
        Contender("pgroute", "sync", open_pgroute),
        Contender("pgroute async", "async", open_pgroute_async),
        Contender("psycopg_pool", "sync", open_pool),
        Contender("psycopg_pool async", "async", open_pool_async),
        Contender("psycopg_pool tuned", "sync", functools.partial(open_pool, tuned=True)),
        Contender("psycopg_pool tuned async", "async", functools.partial(open_pool_async, tuned=True)),
        Contender("hasql", "async", open_hasql),
        Contender("hasql tuned", "async", open_hasql_tuned),
    )
    if PoolManager is not None or not contender.name.startswith("hasql")
}
