"""Which statements of an ORM session only read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy.sql import visitors
from sqlalchemy.sql.selectable import CompoundSelect, Select

if TYPE_CHECKING:
    from sqlalchemy.sql.elements import ClauseElement

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
