"""pgroute's errors as Django raises them: each is pgroute's and Django's at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import django.db
import psycopg

from pgroute import errors
from pgroute.core.model.roles import Role

if TYPE_CHECKING:
    from types import TracebackType

    from pgroute.contrib.django.loan import Loan
    from pgroute.contrib.django.stand_ins import ErrorWrapper as DatabaseErrorWrapper
    from pgroute.contrib.django.stand_ins import OperationalError
else:
    from django.db import OperationalError
    from django.db.utils import DatabaseErrorWrapper


class RouteError(OperationalError, errors.RouteError):
    """See `pgroute.RouteError`."""


class AcquireTimeout(RouteError, errors.AcquireTimeout):
    """See `pgroute.AcquireTimeout`."""


class NoHostAvailable(AcquireTimeout, errors.NoHostAvailable):
    """See `pgroute.NoHostAvailable`."""


class PoolExhausted(AcquireTimeout, errors.PoolExhausted):
    """See `pgroute.PoolExhausted`."""


class SplitBrainError(AcquireTimeout, errors.SplitBrainError):
    """See `pgroute.SplitBrainError`."""


class PositionLost(RouteError, errors.PositionLost):
    """See `pgroute.PositionLost`."""


class SessionLost(RouteError, errors.SessionLost):
    """See `pgroute.SessionLost`."""


class CommitUnknown(RouteError, errors.CommitUnknown):
    """See `pgroute.CommitUnknown`."""


class RouterClosed(RouteError, errors.RouterClosed):
    """See `pgroute.RouterClosed`."""


_CLASSES: dict[type, type[RouteError]] = {
    errors.RouteError: RouteError,
    errors.AcquireTimeout: AcquireTimeout,
    errors.NoHostAvailable: NoHostAvailable,
    errors.PoolExhausted: PoolExhausted,
    errors.SplitBrainError: SplitBrainError,
    errors.PositionLost: PositionLost,
    errors.SessionLost: SessionLost,
    errors.CommitUnknown: CommitUnknown,
    errors.RouterClosed: RouterClosed,
}


def as_django(exc: errors.RouteError) -> RouteError:
    """Return an error of pgroute's as one that is Django's too."""
    cls = next(_CLASSES[cls] for cls in type(exc).__mro__ if cls in _CLASSES)
    made = cls.__new__(cls, *exc.args)
    made.__dict__.update(exc.__dict__)
    return made


class Borrower(Protocol):
    """A thread's connection, as the backend has it."""

    alias: str
    errors_occurred: bool
    loan: Loan | None


class ErrorWrapper(DatabaseErrorWrapper):
    """Raises errors of the driver as Django's, and has the session take note of them.

    Django enters it around each call of the driver.

    Args:
        wrapper: the connection.
    """

    wrapper: Borrower

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if exc_type is None:
            loan = self.wrapper.loan
            if loan is not None and loan.lease.unconfirmed:
                self._raise(loan.take_unconfirmed(), None)
            return
        if isinstance(exc, django.db.Error):  # it was raised here, by an inner call
            return
        if isinstance(exc, errors.RouteError):
            self._raise(exc, tb)
        loan = self.wrapper.loan
        if loan is not None and isinstance(exc, psycopg.Error):
            loan.note_error(exc)
            if isinstance(exc, psycopg.errors.ReadOnlySqlTransaction) and loan.role is Role.READER:
                self.wrapper.errors_occurred = True
                raise django.db.InternalError(
                    f"{exc}: the alias {self.wrapper.alias!r} is for reading (its OPTIONS say 'role': 'reader'), "
                    "write with that of the writer"
                ).with_traceback(tb) from exc
        super().__exit__(exc_type, exc, tb)

    def _raise(self, exc: errors.RouteError, tb: TracebackType | None) -> Any:
        self.wrapper.errors_occurred = True
        raise as_django(exc).with_traceback(tb) from exc
