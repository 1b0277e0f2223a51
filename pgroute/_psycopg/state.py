"""What a session may change of a connection, and the state of its transaction."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any

import psycopg

if TYPE_CHECKING:
    from collections.abc import Callable

    Connection = psycopg.Connection[Any] | psycopg.AsyncConnection[Any]


settings_of: Callable[[Connection], tuple[Any, ...]] = attrgetter(
    "_autocommit",
    "_read_only",
    "_isolation_level",
    "_deferrable",
    "row_factory",
    "cursor_factory",
    "_prepared.prepare_threshold",
    "server_cursor_factory",
    "_prepared.prepared_max",
    "_notice_handlers",
    "_notify_handlers",
)
"""Returns the settings that a session may change: of psycopg's public properties of the same names, without the calls.
The handlers have none, and are the lists themselves.

The pool compares them after each session, and five calls are a tenth of what lending a connection costs.
"""


def noted_settings(conn: Connection) -> tuple[Any, ...]:
    """Return `settings_of` a connection, to compare with later ones."""
    *settings, notice_handlers, notify_handlers = settings_of(conn)
    return (*settings, [*notice_handlers], [*notify_handlers])


def restore_settings(conn: Connection, settings: tuple[Any, ...]) -> bool:
    """Set what `noted_settings` has told on a connection in no transaction; False: its class has ways of its own.

    Then what psycopg has methods for is left to these. They ask for the status of the transaction, as steps of which
    each setting takes six.
    """
    conn._prepared.prepared_max, conn._notice_handlers[:], conn._notify_handlers[:] = settings[8:]
    cls, base = (
        conn.__class__,
        psycopg.Connection if isinstance(conn, psycopg.Connection) else psycopg.AsyncConnection,
    )
    for name in ("set_autocommit", "set_read_only", "set_isolation_level", "set_deferrable"):
        if getattr(cls, name) is not getattr(base, name):
            return False
    conn._autocommit, conn._read_only, conn._isolation_level, conn._deferrable = settings[:4]
    conn._begin_statement = b""  # which depends on them
    conn.row_factory, conn.cursor_factory, conn.prepare_threshold, conn.server_cursor_factory = settings[4:8]
    return True


def has_two_phase(conn: Connection) -> bool:
    """Return whether a two-phase transaction was begun, and neither committed nor rolled back.

    After tpc_prepare() the server reports no transaction. The public commit() raises ProgrammingError without I/O then,
    but it does so for an open transaction() too, the user's class may override it, and it would add 0.7 us (threads)
    or 3 us (asyncio) to each session, a tenth of one without statements.
    """
    return bool(getattr(conn, "_tpc", None))


def has_unfinished(conn: Connection) -> bool:
    """Return whether a transaction() was entered and not left, or `has_two_phase`.

    After a plain COMMIT within a transaction() the server reports no transaction. For commit() see `has_two_phase`.
    """
    return bool(getattr(conn, "_tpc", None) or getattr(conn, "_num_transactions", 0))


def enter_block(conn: Connection) -> None:
    """Make psycopg treat a transaction that we have begun as a transaction() of its own.

    So commit() and rollback() are refused within it, and a transaction() is a savepoint. A transaction() of psycopg's
    sends BEGIN and COMMIT alone, each a round trip; ours go together with other statements. No public name begins or
    ends one without sending something.
    """
    conn._num_transactions = 1


def leave_block(conn: Connection) -> bool:
    """Undo `enter_block`, if it was called; return False if a transaction() was entered since and not left."""
    left = getattr(conn, "_num_transactions", 0) <= 1
    if left:
        conn._num_transactions = 0
    return left


def forget_prepared(conn: Connection) -> bool:
    """Make psycopg forget which statements it has prepared; to be followed by DISCARD ALL, or by its rollback().

    Returns whether there were any.

    psycopg notices a DISCARD ALL by itself only the first time that a connection executes that text, and would then go
    on to use statements that are gone. The public rollback() does it too, but needs a transaction: two round trips.
    """
    return conn._prepared.clear()
