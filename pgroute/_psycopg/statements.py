"""Statements in one round trip, beside psycopg's cursors or together with BEGIN."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import generators
from psycopg._preparing import Prepare
from psycopg.adapt import Transformer
from psycopg.pq import ExecStatus
from psycopg.waiting import WAIT_R

if TYPE_CHECKING:
    from collections.abc import Generator

    from psycopg.pq.abc import PGconn, PGresult


def query_steps(pgconn: PGconn, statement: bytes) -> Generator[Any, Any, list[PGresult]]:
    """Send statements in one round trip; return the steps that receive libpq's result of each, for ``conn.wait``.

    To be called under the lock of the connection. A cursor would use the user's adapters, row factory and prepared
    statements, and cannot be told to stop reading.
    """
    pgconn.send_query(statement)
    steps: Generator[Any, Any, list[PGresult]] = generators.execute(pgconn)
    return steps


def heard_steps() -> Generator[Any, Any, None]:
    """Return the steps that wait until the server has sent something that is not read yet, for `psycopg.waiting`."""
    while not (yield WAIT_R):
        pass


_DONE, _SYNCED = ExecStatus.COMMAND_OK, ExecStatus.PIPELINE_SYNC


def begin_steps(
    cursor: psycopg.Cursor[Any] | psycopg.AsyncCursor[Any], query: str, params: Any
) -> Generator[Any, Any, None]:
    """Do as ``cursor.execute(query, params)``, but send BEGIN in the same round trip; for ``conn.wait``.

    psycopg sends BEGIN alone and waits for the answer. In a pipeline of its own it does so too, and the steps of such
    a pipeline cost more time than the round trip. These are those of ``_execute_gen``. What libpq sends is the same,
    with BEGIN by the extended protocol too. It is for one statement: several need the simple protocol.

    Args:
        cursor: psycopg's, no subclass. Its connection is outside of a transaction, not in autocommit or pipeline mode.
        query: one statement.
        params: as for ``execute``.

    Raises:
        psycopg.Error: the server's error to BEGIN or to the statement, or the connection was lost.
    """
    conn, pgconn = cursor._conn, cursor._pgconn
    cursor._reset()
    cursor._tx = Transformer(cursor)
    converted = cursor._convert_query(query, params)
    prepared, text, form = conn._prepared, converted.query, cursor.format
    kind, name = prepared.get(converted)
    pgconn.enter_pipeline_mode()
    pgconn.send_query_params(conn._get_tx_start_command(), None)
    if kind is Prepare.NO:
        cursor._query = converted
        pgconn.send_query_params(text, converted.params, converted.types, converted.formats, form)
    else:
        if kind is Prepare.SHOULD:
            pgconn.send_prepare(name, text, converted.types)
        pgconn.send_query_prepared(name, converted.params, converted.formats, form)
    pgconn.pipeline_sync()
    answers: list[list[PGresult]] = []
    try:
        yield from generators.send(pgconn)
        while True:
            results: list[PGresult] = yield from generators.fetch_many(pgconn)
            if results[0].status == _SYNCED:
                break
            answers.append(results)
        pgconn.exit_pipeline_mode()
    except psycopg.OperationalError:
        for results in answers:  # the server may have said why it ends the connection
            cursor._check_results(results)
        raise
    if len(answers) > 2 or answers[0][0].status != _DONE:
        for results in answers[:-1]:
            cursor._check_results(results)
    if (key := prepared.maybe_add_to_cache(converted, kind, name)) is not None:
        prepared.validate(key, kind, name, answers[-1])
    cursor._check_results(answers[-1])
    cursor._set_results(answers[-1])
    cursor._last_query = query
    yield from prepared.maintain_gen(conn)


def brief_steps(
    pgconn: PGconn, statement: bytes, seconds: float
) -> Generator[Any, Any, list[PGresult] | None]:
    """As `query_steps`, but return None if there is no answer for so many seconds. `rest_steps` can still receive it.

    psycopg resumes this generator every 0.1 s, which costs no timer, and an interrupt is handled as ever.
    """
    steps = query_steps(pgconn, statement)
    begun = 0.0
    try:
        step = next(steps)
        while True:
            ready = yield step
            if not ready:
                now = time.monotonic()
                begun = begun or now
                if now - begun >= seconds:
                    return None
            step = steps.send(ready)
    except StopIteration as end:
        results: list[PGresult] = end.value
        return results


def rest_steps(pgconn: PGconn) -> Generator[Any, Any, list[PGresult]]:
    """Return the steps that receive the results which `brief_steps` has left."""
    steps: Generator[Any, Any, list[PGresult]] = generators.execute(pgconn)
    return steps
