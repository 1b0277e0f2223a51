"""Sessions that `Node.execute` uses again in these tests: most of them ask a server dozens of times."""

from __future__ import annotations

import os
import re
import select
import threading
from typing import TYPE_CHECKING, Any

import psycopg

from pgroute.testing.environment import connection_parameters, no_service, printing_statements
from pgroute.testing.query import run_query

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PATIENCE = 30.0
"""The default timeout in seconds of `Node.execute`. A statement with one of its own gets a session of its own too."""

# Statements that leave no state in a session, and whose result does not depend on when it began.
STATELESS = re.compile(r"(?i)\s*(SELECT|INSERT|UPDATE|DELETE|TRUNCATE|CREATE|DROP|ALTER|CHECKPOINT)\b")
STATEFUL = re.compile(
    r"(?i)\b(set_config|current_setting|pg_settings|pg_conf_load_time|pg_hba\w*|pg_\w*advisory\w*|pg_backend_pid"
    r"|pg_terminate_backend|pg_sleep|temp|temporary|database|role|user|current_user|session_user|subscription)\b"
)

Key = tuple[tuple[str, str | int], ...]


class KeptSessions:
    """Stands in for `run_query`.

    A statement on a kept session has no time limit but that of the test.
    """

    def __init__(self) -> None:
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._idle: dict[Key, list[psycopg.Connection]] = {}
        self._all: set[psycopg.Connection] = set()

    def run(
        self,
        target: Mapping[str, str | int],
        sql: str,
        params: Sequence[Any] | Mapping[str, Any] | None,
        timeout: float,
    ) -> list[tuple[Any, ...]]:
        """Return the rows of a statement, as `run_query`."""
        if (
            os.getpid() != self._owner
            or timeout != PATIENCE
            or not STATELESS.match(sql)
            or STATEFUL.search(sql)
        ):
            return run_query(target, sql, params, timeout)
        key = tuple(sorted(target.items()))
        session = self._take(key) or self._connect(target)
        try:
            cursor = session.execute(sql.encode(), params)
            rows = cursor.fetchall() if cursor.description is not None else []
        except BaseException:
            self._drop(session)
            raise
        with self._lock:
            self._idle.setdefault(key, []).append(session)
        return rows

    def forget(self, port: int | None = None) -> None:
        """Close the sessions that nobody uses now, of one server or of all."""
        with self._lock:
            chosen = [key for key in self._idle if port is None or dict(key)["port"] == port]
            sessions = [session for key in chosen for session in self._idle.pop(key)]
        for session in sessions:
            self._drop(session)

    def descriptors(self) -> set[int]:
        """Return those that are no test's leak."""
        with self._lock:
            return {session.fileno() for session in self._all if not session.closed}

    def _take(self, key: Key) -> psycopg.Connection | None:
        while True:
            with self._lock:
                sessions = self._idle.get(key)
                if not sessions:
                    return None
                session = sessions.pop()
            watch = select.poll()
            watch.register(session.fileno(), select.POLLIN)
            if not watch.poll(0):
                return session
            self._drop(session)  # the server has ended it

    def _connect(self, target: Mapping[str, str | int]) -> psycopg.Connection:
        given: dict[str, Any] = connection_parameters(**target, connect_timeout=round(PATIENCE))
        with no_service():
            session = psycopg.connect(**given, autocommit=True, prepare_threshold=None)
        with self._lock:
            self._all.add(session)
        for statement in printing_statements():
            session.execute(statement.encode())
        return session

    def _drop(self, session: psycopg.Connection) -> None:
        session.close()
        with self._lock:
            self._all.discard(session)


KEPT = KeptSessions()
