"""What the router has to say to an error of the server, in its text."""

from __future__ import annotations

from typing import Any

import psycopg

from pgroute.core.model.roles import Role

READER = (
    "pgroute: this session is a reader's: write through an engine of role writer, or with "
    "execution_options(postgresql_readonly=False)"
)
DEMOTED = "pgroute: this host takes no writes any more: the session is over, the next one goes to the primary"


def explain(error: psycopg.Error, lent: Any) -> None:
    """Add a line to an error, where the server's words do not say what to do.

    SQLAlchemy makes its own text of it afterwards. An event would do the same, but costs each statement 2 us.
    """
    if not isinstance(error, psycopg.errors.ReadOnlySqlTransaction):
        return
    if lent.role is Role.READER:
        _add(error, READER)
    elif lent.demoted(error):
        _add(error, DEMOTED)


def _add(error: psycopg.Error, line: str) -> None:
    if line not in str(error):
        error.args = (f"{error}\n{line}", *error.args[1:])
