"""A transaction under way: its connection, its deadline, and what is sent with BEGIN and COMMIT."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import psycopg

from pgroute._async.checkout import NOTHING_SENT
from pgroute._async.commit import BY_ROUTER, ByClass
from pgroute._async.statements import checked, send
from pgroute._psycopg.state import enter_block
from pgroute._psycopg.statements import brief_steps, rest_steps
from pgroute.core.faults.classify import one_line
from pgroute.core.transactions.begin import begin_statement

if TYPE_CHECKING:
    from psycopg.pq.abc import PGresult

    from pgroute._acompat import AsyncWatchdog
    from pgroute._async.checkout import AsyncCheckout
    from pgroute._async.commit import Begun
    from pgroute._async.manager import AsyncSessionManager
    from pgroute.core.faults.classify import Fault
    from pgroute.core.transactions.nesting import Surroundings
    from pgroute.core.transactions.request import Request
    from pgroute.core.transactions.retry import RetryState
    from pgroute.runtime.causality import CausalReading

CT = TypeVar("CT", bound="psycopg.AsyncConnection[Any]")

logger = logging.getLogger("pgroute")

_LEAST_BOUND = 0.001

_PATIENCE = 2.0
"""Seconds that the server has to cancel a statement."""


class Final(Protocol):
    """A statement that is sent together with COMMIT.

    Attributes:
        statement: of one result.
    """

    statement: bytes

    def read(self, result: PGresult) -> None:
        """Take the result, after the COMMIT."""
        ...

    def refused(self, failure: psycopg.Error) -> Fault | None:
        """Raise or return what an error means that came from the statement or from COMMIT; None: nothing else."""
        ...


class AsyncUnderWay(Generic[CT]):
    """A transaction under way.

    Args:
        manager: gives the connection.
        request: what kind of transaction it is.
        state: how the attempts so far went.
        key: of ``once=``, if there is one. Then BEGIN is sent with the first statement of `send`.
        causal: gives the demand, and takes note of how far the transaction came; None: there is no demand.

    Attributes:
        manager, key: as given.
        timeout: seconds of the call for all attempts; None: it has no timeout of its own.
        again: what `begin_again` sends; b"" if that is not possible, because a class of the user's has begun it.
        ended: the attempt is over.
        final: a statement to send together with COMMIT, None if there is none.
        keep: set it to True to release the connection later than at the end.
        kept: its checkout then, from the end on.
        phase: how far COMMIT came; see `AsyncCheckout`.
    """

    __slots__ = (
        "__weakref__",
        "_begun",
        "_causal",
        "_checkout",
        "_outer",
        "_pending",
        "_request",
        "_state",
        "again",
        "ended",
        "final",
        "keep",
        "kept",
        "key",
        "manager",
        "phase",
        "timeout",
    )

    def __init__(
        self,
        manager: AsyncSessionManager[CT],
        request: Request,
        state: RetryState,
        key: str | None = None,
        causal: CausalReading | None = None,
    ) -> None:
        self.manager: AsyncSessionManager[CT] = manager
        self.key: str | None = key
        self.timeout: float | None = state.timeout
        self.again: bytes = b""
        self.ended: bool = False
        self.final: Final | None = None
        self.keep: bool = False
        self.kept: AsyncCheckout[CT] | None = None
        self.phase: str = NOTHING_SENT
        self._request = request
        self._state = state
        self._causal = causal
        self._checkout: AsyncCheckout[CT] | None = None
        self._begun: Begun = BY_ROUTER
        self._pending = b""
        self._outer: Surroundings | None = None

    @property
    def number(self) -> int:
        """Which attempt this is, from 1."""
        return self._state.attempt

    @property
    def open(self) -> bool:
        """Whether the transaction was begun and has not ended."""
        return self._checkout is not None and not self.ended

    @property
    def checkout(self) -> AsyncCheckout[CT]:
        """The checkout of its connection, from `begin` to the end."""
        assert self._checkout is not None
        return self._checkout

    @property
    def intact(self) -> bool:
        """Whether the connection is open, and the body has not ended the transaction."""
        return not (self.checkout.conn.closed or self.checkout.transaction_ended)

    @property
    def left(self) -> float:
        """The seconds until the time for all attempts is over, for waits for locks."""
        return self._state.until_end(time.monotonic())

    @property
    def earlier_unknown(self) -> bool:
        """Whether an earlier attempt may have been committed."""
        return self._state.unknown is not None

    def mark_resolved(self) -> None:
        """Record that no earlier attempt was committed, so that its CommitUnknown is not raised any more."""
        self._state.unknown = None

    def bounded(self, *, least: float = 0.0, grace: float = 0.0) -> AsyncWatchdog:
        """Return a block that cuts the connection at the end of the call's timeout, if it has one.

        Without one nothing is cut: the policy says when attempts begin, not how long they last.

        Args:
            least: seconds that the block has at least.
            grace: seconds after the timeout, in which the server itself can report it.
        """
        return self.checkout.within(max(self.left, least, _LEAST_BOUND) + grace)

    async def _begin(self, checkout: AsyncCheckout[CT]) -> None:
        conn, lease, request = checkout.conn, checkout.lease, self._request
        if conn.__class__.transaction is not psycopg.AsyncConnection.transaction:
            self._begun = await _begin_by_class(conn, request)
            lease.was_idle = False
            return
        lease.was_idle = False
        enter_block(conn)
        begin = lease.begin
        if not (request.plain and begin):
            begin = begin_statement(
                conn.isolation_level if request.isolation is None else request.isolation,
                conn.read_only if request.read_only is None else request.read_only,
                conn.deferrable if request.deferrable is None else request.deferrable,
            )
        if self.key is not None:
            self._pending, self.again = begin, b"ROLLBACK;" + begin
            return
        try:
            await send(conn, begin)
        finally:
            lease.was_idle = False  # if BEGIN was refused, no body has ended the transaction

    def begin_again(self) -> None:
        """Roll back and begin as before, together with the next statement of `send`. The body must not have begun."""
        self._pending = self.again

    async def send(self, statement: bytes) -> list[PGresult]:
        """Run statements in one round trip and return the result of each; BEGIN goes along with the first ones.

        Raises:
            psycopg.Error: the server's error, or the connection was lost.
        """
        checkout, pending = self._checkout, self._pending
        assert checkout is not None
        self._pending = b""
        try:
            return await send(checkout.conn, pending + statement)
        finally:
            if pending:
                checkout.lease.was_idle = False  # as in `_begin`

    async def send_briefly(self, statement: bytes, seconds: float) -> list[PGresult] | None:
        """Run statements as `send` does, and cancel them when they take too long: then return None.

        The connection is shut down if the server does not answer that either.

        Args:
            statement: the statements. Only the results of the last ones are returned for sure.
            seconds: after which to cancel; it may be 0.1 s more.

        Raises:
            psycopg.Error: as by `send`.
        """
        checkout, pending = self._checkout, self._pending
        assert checkout is not None
        self._pending = b""
        conn, cancelled = checkout.conn, False
        try:
            async with conn.lock:
                results = await conn.wait(brief_steps(conn.pgconn, pending + statement, seconds))
                if results is None:
                    cancelled, results = True, await _cancel(checkout)
            if cancelled and not results:
                return None  # it was done at that moment, and what it came to was lost with the first wait
            return checked(conn, results)
        except psycopg.errors.QueryCanceled:
            if not cancelled:
                raise
            return None
        finally:
            if pending:
                checkout.lease.was_idle = False  # as in `_begin`


async def _cancel(checkout: AsyncCheckout[Any]) -> list[PGresult]:
    """Have the statement under way cancelled, and return what came of it.

    Raises:
        psycopg.OperationalError: the server did not answer, and the connection was shut down.
    """
    conn = checkout.conn
    async with checkout.within(_PATIENCE):
        try:
            await conn.cancel_safe(timeout=_PATIENCE)
        except psycopg.Error as exc:
            logger.debug(
                "the server did not take a cancel request, closing the connection: %s", one_line(str(exc))
            )
            checkout.lease.abort()
        results: list[PGresult] = await conn.wait(rest_steps(conn.pgconn))
        return results


async def _begin_by_class(conn: psycopg.AsyncConnection[Any], request: Request) -> ByClass:
    """Begin by the transaction() of a class of the user's, which may do more than psycopg's.

    Raises:
        Exception: that of the class.
    """
    if request.isolation is not None:
        await conn.set_isolation_level(request.isolation)
    if request.read_only is not None:
        await conn.set_read_only(request.read_only)
    if request.deferrable is not None:
        await conn.set_deferrable(request.deferrable)
    block = conn.transaction()
    await block.__aenter__()
    return ByClass(block)
