# Generated from pgroute/_async/causal.py by .ci/unasync.py: edit that file, not this one.
"""Sessions that see what the sessions before them have written and read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, TypeVarTuple

from psycopg_pool.abc import CT

from pgroute._sync.session import Session
from pgroute._sync.transaction.runner import run_function
from pgroute.core.config.demand_options import DEFAULT_WAIT, make_demand
from pgroute.core.model.roles import Role, SessionAttrs
from pgroute.runtime.causality import Causality, CausalReading

if TYPE_CHECKING:

    from collections.abc import Callable
    import psycopg

    from pgroute._sync.manager import SessionManager
    from pgroute.core.config.retry_policy import RetryPolicy
    from pgroute.core.model.position import Position

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Causal(Generic[CT]):
    """Sessions that see what the sessions before them have written and read: what `causal()` returns.

    Its readers see its writers, and never go back behind what it has read. Each session asks for the position of its
    host, together with its COMMIT. Where that could not be had, the next readers go to the primary. The role needs
    EXECUTE on the functions that tell the position and the system identifier, which PostgreSQL grants to everybody.

    A session is ordered behind those that have ended before it began; sessions at the same time are not.
    """

    __module__ = "pgroute"

    __slots__ = ("__weakref__", "_causality", "_manager")

    def __init__(self, manager: SessionManager[CT], after: Position | None) -> None:
        self._manager = manager
        self._causality = Causality(after)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {self.position}>"

    @property
    def position(self) -> Position | None:
        """Up to where its sessions have written and read; None: there was no session yet.

        To go on elsewhere, hand its text to ``causal(after=)`` or ``reader(after=)`` there.
        """
        return self._causality.position

    @property
    def lost(self) -> bool:
        """Whether a session was refused with PositionLost. All further ones are: begin a new causal object."""
        return self._causality.lost

    def writer(self, timeout: float | None = None) -> Session[CT]:
        """Return a context manager as `Router.writer()` does.

        Args:
            timeout: seconds to wait for a connection; 0: take only one that is ready; None: acquire_timeout.

        Raises:
            PositionLost: on entering, a failover has lost the position.
            RouteError: on entering or leaving, as with `Router.writer()`.
        """
        reading = CausalReading(self._causality, Role.WRITER, max_lag=None, wait=0.0)
        return Session(self._manager, SessionAttrs.READ_WRITE, Role.WRITER, timeout, causal=reading)

    def reader(
        self,
        timeout: float | None = None,
        *,
        max_lag: float | None = None,
        wait: float = DEFAULT_WAIT,
    ) -> Session[CT]:
        """Return a context manager as `Router.reader()` does, to a host that has replayed the position.

        Args:
            timeout: seconds to wait for a connection; 0: take only one that is ready; None: acquire_timeout.
            max_lag: seconds that a standby may miss at most, at least 0.1; None: the router's.
            wait: seconds to wait for a standby to replay the position, before the primary is taken; less than the
                timeout.

        Raises:
            ConfigError: an argument is invalid; on entering, the position is one of another cluster.
            PositionLost: on entering, a failover has lost the position.
            RouteError: on entering or leaving, as with `Router.reader()`.
        """
        config = self._manager.config
        return Session(
            self._manager,
            config.reader_attrs,
            Role.READER,
            timeout,
            causal=self._reading(Role.READER, max_lag, wait),
        )

    def run(
        self,
        fn: Callable[[CT, *Ts], T],
        /,
        *args: *Ts,
        role: Literal["writer", "reader"] | Role = "writer",
        timeout: float | None = None,
        retry: RetryPolicy | None = None,
        once: str | bool | None = None,
        isolation: psycopg.IsolationLevel | str | None = None,
        read_only: bool | None = None,
        deferrable: bool | None = None,
    ) -> T:
        """Call ``fn(conn, *args)`` in a transaction and return its result, as `Router.run()` does.

        Args:
            fn: the body, a function of a connection. It must not commit: the router does.
            args: further arguments of *fn*.
            role: "writer" or "reader".
            timeout: seconds for the whole call; None: the limit of the policy, and acquire_timeout for each session.
            retry: the policy of retries; None: the router's.
            once: a key of 1 to 512 bytes, or True for a new key for this call.
            isolation: of the transaction; None: the setting of the connection.
            read_only: of the transaction; None: the setting of the connection.
            deferrable: of the transaction; None: the setting of the connection.

        Raises:
            PositionLost: a failover has lost the position.
            Exception: as with `Router.run()`.
        """
        reading = self._reading(Role.parse(role), None, DEFAULT_WAIT)
        # One statement: on a line of its own, an interrupt after the COMMIT would carry no note.
        return run_function(
            self._manager,
            fn,
            args,
            causal=reading,
            role=role,
            timeout=timeout,
            retry=retry,
            once=once,
            isolation=isolation,
            read_only=read_only,
            deferrable=deferrable,
        )

    def _reading(self, role: Role, max_lag: float | None, wait: float) -> CausalReading:
        demand = make_demand(self._manager.config.max_lag, max_lag=max_lag, after=None, wait=wait)
        return CausalReading(
            self._causality, role, max_lag=None if demand is None else demand.max_lag, wait=float(wait)
        )


def reading_of(
    causal: Causal[Any], role: Role, manager: SessionManager[Any]
) -> CausalReading | None:
    """Return how a session of a causal object is acquired, for what is built on routers; None: it is another's."""
    if causal._manager is not manager:  # noqa: SLF001
        return None
    return causal._reading(role, None, DEFAULT_WAIT)  # noqa: SLF001
