"""The connection of an attempt of `run_in_session`: the attempt ends its transaction, whatever the session says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg

from pgroute.contrib.sqlalchemy.lent import Dress
from pgroute.errors import RouteError

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping

    from pgroute.core.model.roles import Role
    from pgroute.core.transactions.retry import Retry


class Again(Exception):
    """The COMMIT failed, and another attempt follows.

    Attributes:
        step: when.
    """

    def __init__(self, step: Retry) -> None:
        super().__init__(step)
        self.step = step


class AttemptLent:
    """What `Lent` is for other sessions.

    Args:
        conn: the connection.
        transaction: the attempt, begun on it.
        role: of the transaction.
        read_write: it was asked for as read-write.
        adapters: psycopg's adapters of the engine.
        wait: runs what a method of the attempt returns.
        settled: by its name, the values of each setting that need not be set: the engine's, and the transaction's.

    Attributes:
        conn, role: as given.
        in_body: the user's function runs, which must not commit.
        rolled_back: it has rolled back.
        committed: the attempt has committed, or failed to.
    """

    def __init__(
        self,
        conn: Any,
        transaction: Any,
        *,
        role: Role,
        read_write: bool,
        adapters: Any,
        wait: Callable[[Any], Any],
        settled: Mapping[str, Container[Any]],
    ) -> None:
        self.conn = conn
        self.role = role
        self.in_body: bool = False
        self.rolled_back: bool = False
        self.committed: bool = False
        self._initialized: bool = False
        self._transaction = transaction
        self._read_write = read_write
        self._wait = wait
        self._settled = settled
        self._dress: Dress | None = Dress(conn, adapters)

    def settles(self, setting: str, value: object) -> bool:
        """Return True: the transaction has begun as it was asked for.

        Raises:
            psycopg.ProgrammingError: the function asks for something else.
        """
        if value and value not in self._settled[setting]:
            raise psycopg.ProgrammingError(
                f"{setting} {value!r} comes too late in a transaction of run_in_session, which takes isolation=, "
                "read_only= and deferrable="
            )
        return True

    def commit(self) -> None:
        """Commit the attempt.

        Raises:
            Again: it failed, and another attempt follows.
            psycopg.ProgrammingError: the function itself wants to commit.
            psycopg.Error: it failed for good.
        """
        if self.in_body:
            raise psycopg.ProgrammingError(
                "the function of run_in_session must not commit: that is done when it returns, or not at all"
            )
        if not self.committed:
            self.committed = True
            step = self._wait(self._transaction.commit())
            if step is not None:
                raise Again(step)

    def rollback(self) -> bool:
        """Note it: the attempt rolls back at its end. Returns that psycopg is not to be told."""
        if self._initialized:
            self._initialized = False
        else:
            self.rolled_back = self.rolled_back or self.in_body
        return False

    def initialized(self) -> None:
        """Note that SQLAlchemy has asked for itself: the rollback that follows is not the function's."""
        self._initialized = True

    def close(self) -> None:
        """Leave the connection to the attempt."""
        if self._dress is not None:
            self._dress.off()
            self._dress = None

    def terminate(self) -> None:
        """Do as `close` does."""
        self.close()

    def lose(self) -> None:
        """Do as `close` does."""
        self.close()

    def abandon(self) -> None:
        """Do as `close` does."""
        self.close()

    def detach(self) -> None:
        """Do nothing: the attempt has the connection."""

    def failed(self, exc: psycopg.Error) -> bool:
        """Return whether the session is over; the attempt looks into it."""
        return isinstance(exc, RouteError) or bool(self.conn.closed) or self.demoted(exc)

    def demoted(self, exc: BaseException | None) -> bool:
        """Return whether an error says that the host of a writer does not take writes."""
        return self._read_write and isinstance(exc, psycopg.errors.ReadOnlySqlTransaction)
