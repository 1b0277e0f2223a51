"""All that pgroute uses of psycopg beside its documented interface, each with the reason it is needed.

Private names, as they are in psycopg 3.3.9, the oldest version that pgroute accepts:

- ``Connection._tpc`` and ``_num_transactions``: `has_two_phase`, `has_unfinished`, `enter_block`, `leave_block`.
- ``Connection._prepared``: `forget_prepared`; with its ``prepare_threshold``, and ``_autocommit``, ``_read_only``,
  ``_isolation_level``, ``_deferrable``: `settings_of`, and with ``_begin_statement`` `restore_settings`.
- ``Connection._pool``: `mark_pooled`.
- ``Connection._adapters``: `swap_adapters`.
- ``AdaptersMap._loaders``, ``_dumpers``, ``_dumpers_by_oid``, ``TypesRegistry._registry``: `layered`.
- ``Connection._connect_gen``: `watched_class`.
- of cursors ``_conn``, ``_pgconn``, ``_tx``, ``_query``, ``_last_query``, ``_reset``, ``_convert_query``,
  ``_check_results``, ``_set_results``, with ``Connection._prepared``, ``_get_tx_start_command`` and ``_preparing``:
  `begin_steps`.
- ``BasePipeline._conn``, and the wording and arguments of psycopg's warnings: `worth_telling`.

Public names that the documentation does not list: ``psycopg.generators.execute`` (`query_steps`); ``Connection.lock``,
``Connection.wait`` and ``psycopg.errors.error_from_result`` (`_async/statements.py`); ``Copy.formatter`` with its
``write_row``, ``end``, ``parse_row`` and ``transformer`` (`_async/copying/rows.py`). Public methods replaced on one
connection, because its class is the user's: ``wait`` and ``cancel_safe`` (`_async/pool/interrupt.py`).

The steps of COPY are made of libpq's functions. psycopg's own only wait until they can write: a server that sends many
notices during a COPY FROM waits for them to be read, and then neither side goes on (libpq docs, PQflush).

psycopg_pool contributes exception classes and type variables, all public. ``tests/test_canaries.py`` fails, and says
what to do, when a new version of psycopg changes one of these names.
"""

from __future__ import annotations

import logging
import time
from contextvars import ContextVar
from functools import lru_cache
from operator import attrgetter, is_
from typing import TYPE_CHECKING, Any, cast

import psycopg
from psycopg import generators
from psycopg._preparing import Prepare
from psycopg.adapt import AdaptersMap, PyFormat, Transformer
from psycopg.pq import ExecStatus
from psycopg.waiting import READY_R, WAIT_R, WAIT_RW

from pgroute.runtime.receive_limit import Allowance

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping

    from psycopg.abc import Buffer
    from psycopg.pq.abc import PGconn, PGresult

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
)
"""Returns the settings that a session may change: of psycopg's public properties of the same names, without the calls.

The pool compares them after each session, and five calls are a tenth of what lending a connection costs.
"""


def restore_settings(conn: Connection, settings: tuple[Any, ...]) -> bool:
    """Set what `settings_of` has told on a connection in no transaction; False: its class has ways of its own.

    psycopg's methods ask for the status of the transaction, as steps of which each setting takes six.
    """
    cls, base = (
        type(conn),
        psycopg.Connection if isinstance(conn, psycopg.Connection) else psycopg.AsyncConnection,
    )
    for name in ("set_autocommit", "set_read_only", "set_isolation_level", "set_deferrable"):
        if getattr(cls, name) is not getattr(base, name):
            return False
    conn._autocommit, conn._read_only, conn._isolation_level, conn._deferrable = settings[:4]
    conn._begin_statement = b""  # which depends on them
    conn.row_factory, conn.cursor_factory, conn.prepare_threshold, conn.server_cursor_factory = settings[4:]
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


def swap_adapters(conn: Connection, adapters: AdaptersMap | None) -> AdaptersMap | None:
    """Give a connection other adapters, and return those that it had; None: it had none of its own yet.

    psycopg takes them when it connects alone (``context=``), and the pooled connection serves others too. Registering
    each adapter on the connection could not be undone.
    """
    before, conn._adapters = conn._adapters, adapters
    return before


def put_on(conn: Connection, adapters: AdaptersMap) -> AdaptersMap | None:
    """Give a connection `layered` adapters for a while, and return what `swap_adapters` is to give back."""
    before = conn._adapters
    conn._adapters = layered(before, adapters)
    return before


def layered(below: AdaptersMap | None, above: AdaptersMap) -> AdaptersMap:
    """Return new adapters: what `above` has registered, then what `below` has, then psycopg's.

    `below` is what a connection has, to which a `configure` function may have added types of the database. There is no
    public way to ask what was registered. Maps share the tables that they have not changed, so that mostly nothing has
    to be compared. Otherwise the answer is kept beside `below` for as long as the tables are the same.
    """
    made = AdaptersMap(above)
    if below is None:
        return made
    stock = psycopg.adapters
    own = _tables(below)
    if all(map(is_, own, _tables(stock))):
        return made
    tables = [*own, *_tables(above)]
    kept = getattr(below, "pgroute_layered", None)
    if kept is None or not all(map(is_, kept[0], tables)):
        AdaptersMap(below)  # from now on `below` copies a table before it changes it
        kept = tables, _merged(made, below, stock, above)
        below.pgroute_layered = kept  # type: ignore[attr-defined]
    return AdaptersMap(kept[1])


def _tables(adapters: AdaptersMap) -> list[object]:
    return [
        *adapters._loaders,
        *adapters._dumpers.values(),
        *adapters._dumpers_by_oid,
        adapters.types._registry,
    ]


def _merged(made: AdaptersMap, below: AdaptersMap, stock: AdaptersMap, above: AdaptersMap) -> AdaptersMap:
    for fmt in (psycopg.pq.Format.TEXT, psycopg.pq.Format.BINARY):
        for oid, loader in _own(below._loaders[fmt], stock._loaders[fmt], above._loaders[fmt]):
            made.register_loader(oid, loader)
        by_oid = below._dumpers_by_oid[fmt], stock._dumpers_by_oid[fmt], above._dumpers_by_oid[fmt]
        for _, dumper in _own(*by_oid):
            made.register_dumper(None, dumper)
    for form in (PyFormat.TEXT, PyFormat.BINARY, PyFormat.AUTO):  # AUTO last: the others set it too
        for cls, dumper in _own(below._dumpers[form], stock._dumpers[form], above._dumpers[form]):
            made.register_dumper(cls, dumper)
    for info in below.types:
        if stock.types.get(info.oid) is not info and above.types.get(info.oid) is stock.types.get(info.oid):
            made.types.add(info)
    return made


def _own(
    below: Mapping[Any, Any], stock: Mapping[Any, Any], above: Mapping[Any, Any]
) -> Iterator[tuple[Any, Any]]:
    """Yield what `below` has beyond psycopg's own, unless `above` has something in its place."""
    for key, value in below.items():
        if stock.get(key) is not value and above.get(key) is stock.get(key):
            yield key, value


def forget_prepared(conn: Connection) -> bool:
    """Make psycopg forget which statements it has prepared; to be followed by DISCARD ALL, or by its rollback().

    Returns whether there were any.

    psycopg notices a DISCARD ALL by itself only the first time that a connection executes that text, and would then go
    on to use statements that are gone. The public rollback() does it too, but needs a transaction: two round trips.
    """
    return conn._prepared.clear()


class Pool:
    """Stands for a pool in psycopg's eyes: a true value whose `close_returns` says that close() closes."""

    close_returns = False


_POOL = Pool()


def mark_pooled(conn: Connection) -> None:
    """Tell psycopg that a connection belongs to a pool.

    Otherwise leaving ``with conn`` closes it (psycopg documentation, "with connection"), and one that is collected
    while open gives a ResourceWarning. psycopg_pool uses this attribute for it; no public name does.

    From the first one on, psycopg's loggers have the filter `worth_telling`.
    """
    conn._pool = cast("Any", _POOL)
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(worth_telling)  # does nothing if it is there


_LOGGERS = ("psycopg", "psycopg.transaction")

cancelling: ContextVar[bool] = ContextVar("cancelling", default=False)
"""Whether a statement on a pooled connection is being cancelled in this context."""


def worth_telling(record: logging.LogRecord) -> bool:
    """Return whether a message of psycopg's says more than the errors that callers get anyway; a filter for its logger.

    A lost connection ends each pipeline, COPY and transaction() on it by an error, and psycopg warns of the next error
    that follows from it, once for each. It also warns if a statement ends otherwise than by the cancel request. Both
    happen wherever a host fails, and the pool replaces the connection. What concerns other connections, or one that is
    still open, is told. psycopg looks no method up on the way to these messages that could be replaced.
    """
    text = str(record.msg)
    if text.startswith("query "):
        return not cancelling.get()
    if not text.startswith("error ignored ") or not isinstance(record.args, tuple) or not record.args:
        return True
    subject = record.args[0]
    conn = getattr(subject, "connection", None) or getattr(subject, "_conn", None) or subject
    return not (getattr(conn, "_pool", None) is _POOL and getattr(conn, "broken", False))


class ConnectAborted(psycopg.OperationalError):
    """Nobody wants the connection any more."""


unwanted: ContextVar[Callable[[], bool]] = ContextVar("unwanted", default=lambda: False)
"""Whether nobody wants the connection that is being opened in this context any more."""


@lru_cache(maxsize=32)
def watched_class(cls: Any) -> Any:
    """Return a subclass of psycopg's class (or the user's) whose `connect` ends early where psycopg's would go on.

    It ends when the server sends far more than a login takes (`receive_limit`). libpq keeps all of that in memory: a
    server can make a process grow by some 200 MB a second until connect_timeout. No public name gives access to the
    socket during a login. It also ends within 0.1 s of *unwanted*, because psycopg resumes this generator that often:
    without that a router that is closed leaves threads behind until connect_timeout.

    The connection itself is of the class asked for. One subclass serves all pools of a class, because a
    user's `connect` may keep state in its class. A class that watches over its subclasses is returned as it is. In
    a version of psycopg that does not call ``_connect_gen``, the subclass changes nothing.

    Args:
        cls: the class of the connections.

    Raises:
        ConnectAborted: by `connect`, it was no longer wanted.
        TooMuch: by `connect`, the server sent too much.
    """
    actual: Any = cls
    base = psycopg.AsyncConnection if issubclass(cls, psycopg.AsyncConnection) else psycopg.Connection
    theirs = [parent for parent in cls.__mro__ if parent not in base.__mro__]
    if type(cls) is not type(base) or any("__init_subclass__" in vars(parent) for parent in theirs):
        return cls

    def connect_gen(_: Any, *args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        steps = actual._connect_gen(*args, **kwargs)
        allowance = Allowance()
        try:
            step = next(steps)
            while not unwanted.get()():
                ready = yield step
                if ready:
                    allowance.count(step[0])
                step = steps.send(ready)
        except StopIteration as end:
            return end.value
        finally:
            steps.close()
        raise ConnectAborted("the pool was closed while it connected")

    return type(cls.__name__, (cls,), {"_connect_gen": classmethod(connect_gen)})


def query_steps(pgconn: PGconn, statement: bytes) -> Generator[Any, Any, list[PGresult]]:
    """Send statements in one round trip; return the steps that receive libpq's result of each, for ``conn.wait``.

    To be called under the lock of the connection. A cursor would use the user's adapters, row factory and prepared
    statements, and cannot be told to stop reading.
    """
    pgconn.send_query(statement)
    steps: Generator[Any, Any, list[PGresult]] = generators.execute(pgconn)
    return steps


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


def flush_steps(pgconn: PGconn) -> Generator[Any, Any, bool]:
    """Send what COPY FROM has put, for ``conn.wait``; return whether something arrived meanwhile."""
    arrived = False
    while pgconn.flush():
        ready = yield WAIT_RW
        if ready and ready & READY_R:
            pgconn.consume_input()
            arrived = True
    return arrived


def end_steps(pgconn: PGconn, refusal: bytes | None = None) -> Generator[Any, Any, list[PGresult]]:
    """End COPY FROM, for ``conn.wait``; return libpq's results.

    Args:
        pgconn: in COPY FROM.
        refusal: why nothing of it is to be kept; None: all is.
    """
    while pgconn.put_copy_end(refusal) == 0:
        yield from flush_steps(pgconn)
    received: list[PGresult] = yield from generators.execute(pgconn)
    return received


def receive_steps(
    pgconn: PGconn, most: int, take: Callable[[Buffer], object]
) -> Generator[Any, Any, tuple[int, int, list[PGresult]]]:
    """Receive of COPY TO what has arrived, for ``conn.wait``; return the numbers of rows and bytes, and the results.

    There are results, those of libpq, in the end alone.

    Args:
        pgconn: in COPY TO.
        most: bytes after which no further row is taken.
        take: called with each row.
    """
    rows, size, looked = 0, 0, False
    while size < most:
        count, data = pgconn.get_copy_data(1)
        if count > 0:
            take(data)
            rows, size, looked = rows + 1, size + count, False
        elif count < 0:
            received: list[PGresult] = yield from generators.execute(pgconn)
            return rows, size, received
        elif not looked:
            pgconn.consume_input()
            looked = True
        elif rows:
            break
        elif (yield WAIT_R):
            looked = False
    return rows, size, []
