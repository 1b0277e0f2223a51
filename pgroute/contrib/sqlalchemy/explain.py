"""What the router has to say to an error, in the text of SQLAlchemy's exception."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg

from pgroute.core.model.roles import Role

if TYPE_CHECKING:
    from sqlalchemy.engine import ExceptionContext

READER = (
    "pgroute: this session is a reader's: write through an engine of role writer, or with "
    "execution_options(postgresql_readonly=False)"
)
DEMOTED = "pgroute: this host takes no writes any more: the session is over, the next one goes to the primary"


def explain(context: ExceptionContext) -> None:
    """Add a detail to an exception, where the server's words do not say what to do."""
    error, connection = context.sqlalchemy_exception, context.connection
    if error is None or connection is None or connection.closed or connection.invalidated:
        return
    if not isinstance(context.original_exception, psycopg.errors.ReadOnlySqlTransaction):
        return
    lent = getattr(connection.connection, "pgroute_lent", None)
    if lent is None:
        return
    if lent.role is Role.READER:
        _add(context, READER)
    elif lent.demoted(context.original_exception):
        _add(context, DEMOTED)


def _add(context: ExceptionContext, detail: str) -> None:
    error = context.sqlalchemy_exception
    assert error is not None
    error.add_detail(detail)
