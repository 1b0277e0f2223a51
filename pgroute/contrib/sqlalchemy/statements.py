"""Which statements of an ORM session only read, and with which BEGIN can be sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
from sqlalchemy.sql import visitors
from sqlalchemy.sql.selectable import CompoundSelect, Select

if TYPE_CHECKING:
    from sqlalchemy.sql.elements import ClauseElement

_PLAIN = (psycopg.Cursor, psycopg.AsyncCursor)

_SINGLE = frozenset({"select", "compound_select", "insert", "update", "delete"})
"""What SQLAlchemy makes one statement of, whatever it is made from."""

_WRITES = frozenset({"insert", "update", "delete", "next_value_func", "sequence"})
"""What a query may hold that makes it write: a CTE with DML, a value of a sequence."""


def only_reads(clause: ClauseElement | None) -> bool:
    """Return whether a statement is a query of SQLAlchemy's without FOR UPDATE, DML in a CTE, or a sequence.

    SQL is never read: a text() may do anything. Nor is it known what a function does.
    """
    if not isinstance(clause, (Select, CompoundSelect)):
        return False
    return all(_reads(part) for part in visitors.iterate(clause))


def _reads(part: visitors.ExternallyTraversible) -> bool:
    if part.__visit_name__ in _WRITES:
        return False
    return getattr(part, "_for_update_arg", None) is None


def begins(cursor: Any, conn: Any, statement: str, parameters: object, context: Any) -> bool:
    """Return whether BEGIN may go along with a statement.

    It must be one statement: SQL of the user's may hold several, if it has no parameters, and so may what a listener
    has made of SQLAlchemy's. Server-side cursors do it their own way.

    Args:
        cursor: psycopg's.
        conn: its connection, in no transaction.
        statement: as it goes to the server.
        parameters: of the statement.
        context: SQLAlchemy's; None: there is none.
    """
    return (
        context is not None
        and context.compiled is not None
        and (
            bool(parameters)
            or (statement == context.statement and context.compiled.statement.__visit_name__ in _SINGLE)
        )
        and type(cursor) in _PLAIN
        and not (conn.autocommit or conn.pgconn.pipeline_status)
    )
