"""Which transactions surround the code that runs now, and which may not begin within their bodies."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

import psycopg

from pgroute.core.model.roles import Role

if TYPE_CHECKING:
    import weakref

    from pgroute.core.transactions.request import Request


class Enclosing(Protocol):
    """A transaction with a body.

    Attributes:
        manager: of its router.
        key: of ``once=``, if there is one.
        open: its body runs.
    """

    @property
    def manager(self) -> object: ...
    @property
    def key(self) -> str | None: ...
    @property
    def open(self) -> bool: ...


Surroundings = tuple["weakref.ref[Enclosing]", "Surroundings | None"]
"""A transaction in whose body code runs, and what surrounds that.

The reference is weak: a task that the body starts has this in its context for as long as it lives, and must not keep
the connection alive.
"""

surroundings: ContextVar[Surroundings | None] = ContextVar("surroundings", default=None)


def open_surroundings() -> Surroundings | None:
    """Return the innermost transaction that is still open. An interrupt can leave ended ones behind in the context."""
    around = surroundings.get()
    while around is not None:
        transaction = around[0]()
        if transaction is not None and transaction.open:
            break
        around = around[1]
    return around


def refuse_nested(manager: object, request: Request, key: str | None) -> None:
    """Refuse a transaction within a body that may be run again, if it commits on its own or waits for that body.

    Args:
        manager: of the router.
        request: what kind of transaction it is.
        key: of ``once=``, if there is one.

    Raises:
        psycopg.ProgrammingError: it is refused.
    """
    writes = request.role is Role.WRITER and not request.read_only
    around = surroundings.get()
    while around is not None:
        outer = around[0]()
        if outer is not None and outer.open and outer.manager is manager:
            if key is not None and outer.key == key:
                raise psycopg.ProgrammingError(
                    f"run(once={key!r}) within its own body: it would wait for itself"
                )
            if writes and not request.independent:
                raise psycopg.ProgrammingError(
                    "run(), attempts(), a direct query or a copy for a writer within the body of another: it would be "
                    "committed on its own, and again when the outer one is run again. Use the connection that the body "
                    "was given (its transaction() makes a savepoint), or give a key of your own: once=KEY"
                )
        around = around[1]
