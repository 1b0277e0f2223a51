"""One session: the context manager around a connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pgroute._acompat import AsyncFace
from pgroute._async.checkout import note_commit
from pgroute._async.ending import end, roll_back
from pgroute.core.model.roles import SessionAttrs
from pgroute.errors import PositionLost

if TYPE_CHECKING:
    from types import TracebackType

    import psycopg

    from pgroute._async.checkout import AsyncCheckout
    from pgroute._async.manager import AsyncSessionManager
    from pgroute.core.model.roles import Role
    from pgroute.core.routing.demand import Demand
    from pgroute.runtime.causality import CausalReading

CT = TypeVar("CT", bound="psycopg.AsyncConnection[Any]")


class AsyncSession(AsyncFace, Generic[CT]):
    """A session, as `writer()`, `reader()` and `connection()` return it; use it once, in a ``with`` statement.

    Raises:
        RuntimeError: on entering, it is in use already.
        ConfigError: on entering, its timeout is not a number of seconds.
        RouteError: on entering, the router was opened in another event loop.
        psycopg.ProgrammingError: on leaving, a command was still running, or a two-phase transaction was prepared.
    """

    __module__ = "pgroute"

    __slots__ = (
        "__weakref__",
        "_attrs",
        "_causal",
        "_checkout",
        "_demand",
        "_free",
        "_manager",
        "_role",
        "_timeout",
    )

    def __init__(
        self,
        manager: AsyncSessionManager[CT],
        attrs: SessionAttrs,
        role: Role,
        timeout: float | None,
        *,
        demand: Demand | None = None,
        causal: CausalReading | None = None,
    ) -> None:
        self._manager = manager
        self._attrs = attrs
        self._role = role
        self._timeout = timeout
        self._demand = demand
        self._causal = causal
        self._checkout: AsyncCheckout[CT] | None = None
        # Empty while somebody enters it, or has: of several threads only one can take what is in a list.
        self._free = [True]

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            # sync-only: use = "with router.writer() as conn"
            use = "async with router.writer() as conn"  # async-only
            raise AttributeError(f"a session is no connection: use `{use}`, and conn.{name} within it")

        # async-only: begin
        def __await__(self) -> Any:
            raise TypeError(
                "a session is not awaited: use `async with router.writer() as conn`, or getconn()"
            )

        # async-only: end

    async def __aenter__(self) -> CT:
        try:
            self._free.pop()
        except IndexError:
            raise RuntimeError("this session is in use already; ask the router for another") from None
        checkout: AsyncCheckout[CT] | None = None
        try:
            self._checkout = checkout = await self._manager.acquire(
                self._attrs,
                self._role,
                self._manager.seconds(self._timeout),
                demand=self._demand,
                causal=self._causal,
            )
            return checkout.hold()
        except BaseException as exc:
            if self._causal is not None and isinstance(exc, PositionLost):
                self._causal.note_lost()
            self._checkout = None
            self._free.append(True)
            if checkout is not None:
                checkout.note_failure(exc)
                await checkout.release()
            raise

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        checkout, self._checkout = self._checkout, None
        if checkout is None:
            raise RuntimeError("this session was not entered, or has ended already")
        self._free.append(True)
        if checkout.left_to_parent(exc):
            return
        read_write = self._attrs is SessionAttrs.READ_WRITE
        try:
            try:
                if exc is None:
                    await end(checkout, read_write=read_write)
                else:
                    await roll_back(checkout, exc, read_write=read_write)
            finally:
                await checkout.release()
        except BaseException as failure:
            checkout.settle()
            note_commit(failure, checkout.phase)
            raise
