"""Runs one SQL statement in a session of its own with a timeout that holds for frozen servers too."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from typing import TYPE_CHECKING, Any

from .environment import connection_parameters, no_service, printing_statements

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def run_query(
    target: Mapping[str, str | int],
    sql: str,
    params: Sequence[Any] | Mapping[str, Any] | None,
    timeout: float,
) -> list[tuple[Any, ...]]:
    """Return the rows of `sql`, run with autocommit ([] if it has none).

    `target` holds the connection parameters; neither the environment nor role defaults change them.

    Raises:
        psycopg.Error: the server's error.
        TimeoutError: no answer within `timeout` seconds (connecting alone may take psycopg's minimum of 2 s). The
            session was cut off, and the statement may have been executed.
    """
    import psycopg

    given: dict[str, Any] = connection_parameters(**target, connect_timeout=max(2, round(timeout)))
    with no_service():
        opened = psycopg.connect(**given, autocommit=True)
    with opened as connection:
        for statement in printing_statements():
            connection.execute(statement.encode())
        expired = threading.Event()
        with socket.socket(fileno=os.dup(connection.fileno())) as link:

            def cut_off() -> None:
                expired.set()
                with contextlib.suppress(OSError):  # an interrupt has closed it
                    link.shutdown(socket.SHUT_RDWR)

            timer = threading.Timer(timeout, cut_off)
            timer.daemon = True
            try:
                timer.start()
                cursor = connection.execute(sql.encode(), params)
                return cursor.fetchall() if cursor.description is not None else []
            except psycopg.OperationalError as error:
                if expired.is_set():
                    raise TimeoutError(f"no answer within {timeout} s to: {sql}") from error
                raise
            finally:
                timer.cancel()
                if timer.ident is not None:
                    timer.join()
