"""Canaries: each fails when a new psycopg changes what pgroute/_psycopg relies on, or makes it superfluous."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import gc
import itertools
import logging
import socket
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import psycopg.adapt
import psycopg.types.string
import psycopg_pool
import pytest
from psycopg import generators
from psycopg.errors import error_from_result
from psycopg.pq import TransactionStatus
from psycopg.types.numeric import FloatLoader
from psycopg.waiting import WAIT_W, wait

import pgroute
from pgroute._psycopg.adapters import layered, swap_adapters
from pgroute._psycopg.copying import end_steps, flush_steps, receive_steps
from pgroute._psycopg.login import ConnectAborted, unwanted, watched_class
from pgroute._psycopg.pooled import cancelling, mark_pooled, worth_telling
from pgroute._psycopg.prepared import Prepared, remove_steps, removes_prepared
from pgroute._psycopg.state import (
    enter_block,
    forget_prepared,
    has_two_phase,
    has_unfinished,
    leave_block,
    settings_of,
)
from pgroute._psycopg.statements import begin_steps, brief_steps, heard_steps, query_steps, rest_steps
from pgroute.monitor.late_cancel import deliver
from pgroute.testing import LocalCluster
from tests.support import async_eventually

cluster_needed = pytest.mark.cluster


def changed(name: str, what: str) -> str:
    """Return the text of a failure."""
    return f"psycopg {psycopg.__version__}: {what}. Adapt {name} in pgroute/_psycopg"


@pytest.fixture
def conn(shared: LocalCluster) -> Iterator[psycopg.Connection[Any]]:
    with contextlib.closing(psycopg.connect(shared.primary.conninfo, autocommit=True)) as conn:
        yield conn


@cluster_needed
@pytest.mark.parametrize("end", ["rollback", "DEALLOCATE ALL", "CREATE TEMP TABLE w{n} (); DROP TABLE w{n}"])
def test_psycopg_tells_when_it_removes_what_is_prepared(conn: psycopg.Connection[Any], end: str) -> None:
    conn.execute("PREPARE one AS SELECT 1")
    prepared, left = Prepared(conn), "SELECT count(*) FROM pg_prepared_statements WHERE name = 'one'"

    def over(number: int = 0) -> None:  # psycopg looks at a text only when it is new
        if end == "rollback":
            with conn.transaction(force_rollback=True):
                conn.execute("SELECT 1", prepare=False)
        else:
            for statement in end.format(n=number).split("; "):
                conn.execute(statement, prepare=False)

    if end != "DEALLOCATE ALL":
        over()
        kept = conn.execute(left, prepare=False).fetchone()
        assert (kept, prepared.intact) == ((1,), True), changed(
            "Prepared", "it removes them, having none of its own"
        )
    conn.execute("SELECT 1", prepare=True)
    was_intact = prepared.intact
    over(1)
    assert (was_intact, prepared.intact) == (True, False), changed("Prepared", "it does not tell")
    assert conn.execute(left, prepare=False).fetchone() == (0,), changed("Prepared", "it leaves them")
    conn.execute("SELECT 1", prepare=True)
    assert not removes_prepared(conn)
    forget_prepared(conn)
    assert removes_prepared(conn), changed("removes_prepared", "it does not tell")
    conn.execute("SELECT 1", prepare=False)
    assert not removes_prepared(conn)


@cluster_needed
def test_a_two_phase_transaction_is_seen(conn: psycopg.Connection[Any]) -> None:
    for function in (has_two_phase, has_unfinished):
        conn.autocommit = False
        assert not function(conn)
        conn.tpc_begin(conn.xid(1, "canary", "canary"))
        assert function(conn), changed(function.__name__, "Connection._tpc is gone or means something else")
        conn.tpc_rollback()
        assert not function(conn)


@cluster_needed
def test_a_connection_takes_other_adapters_and_gets_its_own_back(conn: psycopg.Connection[Any]) -> None:
    what = changed("swap_adapters", "Connection._adapters is gone or means something else")
    other = psycopg.adapt.AdaptersMap(psycopg.adapters)
    other.register_loader("int4", psycopg.types.string.TextLoader)
    before = swap_adapters(conn, other)
    assert conn.execute("SELECT 1").fetchone() == ("1",), what
    swap_adapters(conn, before)
    assert conn.execute("SELECT 1").fetchone() == (1,), what


@cluster_needed
def test_the_settings_of_a_connection_are_read_from_where_they_are_kept(
    conn: psycopg.Connection[Any],
) -> None:
    what = changed("settings_of", "a setting of a connection is kept elsewhere")
    conn.autocommit, conn.prepare_threshold = False, 7
    conn.isolation_level, conn.read_only, conn.deferrable = psycopg.IsolationLevel.SERIALIZABLE, True, True
    names = (
        "autocommit",
        "read_only",
        "isolation_level",
        "deferrable",
        "row_factory",
        "cursor_factory",
        "prepare_threshold",
        "server_cursor_factory",
        "prepared_max",
    )
    conn.prepared_max = 8
    for add in (conn.add_notice_handler, conn.add_notify_handler):
        add(print)
    told = settings_of(conn)
    assert told == (*(getattr(conn, name) for name in names), [print], [print]), what


def test_adapters_are_layered() -> None:
    what = changed(
        "layered", "the tables of AdaptersMap or TypesRegistry are gone, or are not shared any more"
    )
    stock, text = psycopg.adapters, psycopg.pq.Format.TEXT
    below, above = psycopg.adapt.AdaptersMap(stock), psycopg.adapt.AdaptersMap(stock)
    for each in (below, above):
        assert all(ours is theirs for ours, theirs in zip(each._loaders, stock._loaders, strict=True)), what
        assert all(each._dumpers[form] is stock._dumpers[form] for form in stock._dumpers), what
        assert each.types._registry is stock.types._registry, what
    below.register_loader("int4", psycopg.types.string.TextLoader)
    below.register_loader("int8", psycopg.types.string.TextLoader)
    above.register_loader("int8", psycopg.types.string.TextBinaryLoader)
    above.register_loader("int8", FloatLoader)
    made = layered(below, above)
    assert made.get_loader(stock.types["int4"].oid, text) is below.get_loader(
        stock.types["int4"].oid, text
    ), what
    assert made.get_loader(stock.types["int8"].oid, text) is above.get_loader(
        stock.types["int8"].oid, text
    ), what
    below.register_loader("int4", FloatLoader)
    assert layered(below, above).get_loader(stock.types["int4"].oid, text) is below.get_loader(23, text), what
    assert layered(None, above).get_loader(stock.types["int4"].oid, text) is stock.get_loader(
        stock.types["int4"].oid, text
    )


@cluster_needed
def test_a_transaction_that_was_never_left_is_seen(conn: psycopg.Connection[Any]) -> None:
    assert not has_unfinished(conn)
    block = conn.transaction()
    block.__enter__()
    conn.execute("COMMIT")
    assert conn.info.transaction_status is TransactionStatus.IDLE
    told = "Connection._num_transactions is gone or means something else"
    assert has_unfinished(conn), changed("has_unfinished", told)


@cluster_needed
def test_a_transaction_of_ours_is_one_of_psycopgs(conn: psycopg.Connection[Any]) -> None:
    what = changed("enter_block", "Connection._num_transactions is gone or means something else")
    conn.execute("CREATE TEMP TABLE canary (n int)")
    conn.autocommit = False
    conn.pgconn.exec_(b"BEGIN")
    enter_block(conn)
    for refused in (conn.commit, conn.rollback):
        with pytest.raises(psycopg.ProgrammingError):
            refused()
    conn.execute("INSERT INTO canary VALUES (1)")
    with conn.transaction(force_rollback=True) as inner:
        assert inner.savepoint_name, what
        assert not leave_block(conn), what
        conn.execute("INSERT INTO canary VALUES (2)")
    conn.pgconn.exec_(b"COMMIT")
    assert leave_block(conn), what
    assert not has_unfinished(conn), what
    assert leave_block(conn)
    with conn.transaction():
        conn.execute("INSERT INTO canary VALUES (3)")
    assert conn.execute("SELECT n FROM canary ORDER BY n").fetchall() == [(1,), (3,)], what
    conn.rollback()


def prepare(conn: psycopg.Connection[Any]) -> None:
    conn.execute("SELECT %s::int", [1], prepare=True)


@cluster_needed
def test_prepared_statements_are_forgotten(conn: psycopg.Connection[Any]) -> None:
    prepare(conn)
    forget_prepared(conn)
    conn.wait(query_steps(conn.pgconn, b"DISCARD ALL"))
    try:
        prepare(conn)
    except psycopg.errors.InvalidSqlStatementName:
        pytest.fail(changed("forget_prepared", "Connection._prepared.clear() does not forget all statements"))


@cluster_needed
def test_prepared_statements_are_removed_at_once(conn: psycopg.Connection[Any]) -> None:
    conn.autocommit = True
    prepare(conn)
    conn.wait(remove_steps(conn))
    left = conn.execute("SELECT count(*) FROM pg_prepared_statements", prepare=False).fetchone()
    assert left == (0,), changed("remove_steps", "Connection._prepared.maintain_gen() leaves them")
    prepare(conn)


@cluster_needed
def test_psycopg_does_not_notice_each_discard_by_itself(conn: psycopg.Connection[Any]) -> None:
    conn.execute("DISCARD ALL")
    prepare(conn)
    conn.execute("DISCARD ALL")
    try:
        prepare(conn)
    except psycopg.errors.InvalidSqlStatementName:
        return
    pytest.fail(
        changed("forget_prepared", "each DISCARD ALL is noticed: execute it with a cursor and delete")
    )


@cluster_needed
def test_a_connection_of_a_pool_stays_open(shared: LocalCluster) -> None:
    conn = psycopg.connect(shared.primary.conninfo)
    mark_pooled(conn)
    with conn:
        conn.execute("SELECT 1")
    assert not conn.closed, changed(
        "mark_pooled", "Connection._pool does not keep a `with conn` from closing"
    )
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        del conn
        gc.collect()
    assert told == [], changed("mark_pooled", "Connection._pool does not prevent the ResourceWarning")


@cluster_needed
def test_close_closes_a_connection_of_a_pool(shared: LocalCluster) -> None:
    conn = psycopg.connect(shared.primary.conninfo)
    mark_pooled(conn)
    conn.close()
    assert conn.closed, changed(
        "mark_pooled", "close() returns a connection without asking for close_returns"
    )


@contextlib.contextmanager
def not_wanted(answers: Iterator[bool]) -> Iterator[None]:
    """Answer in turn whether nobody wants the connection that is being opened."""
    token = unwanted.set(lambda: next(answers))
    try:
        yield
    finally:
        unwanted.reset(token)


@cluster_needed
def test_connecting_ends_when_it_is_not_wanted(shared: LocalCluster) -> None:
    told = changed(
        "watched_class", "connect() does not use Connection._connect_gen, so a login is not bounded"
    )
    for wanted in (True, False):
        outcome = contextlib.nullcontext() if wanted else pytest.raises(ConnectAborted)
        cls = watched_class(psycopg.Connection)
        try:
            with (
                not_wanted(itertools.repeat(not wanted)),
                outcome,
                contextlib.closing(cls.connect(shared.primary.conninfo)) as conn,
            ):
                assert type(conn) is psycopg.Connection
        except pytest.fail.Exception:
            pytest.fail(told)


@cluster_needed
async def test_connecting_in_a_loop_ends_when_it_is_not_wanted(shared: LocalCluster) -> None:
    told = changed(
        "watched_class", "connect() does not use Connection._connect_gen, so a login is not bounded"
    )
    cls = watched_class(psycopg.AsyncConnection)
    try:
        with not_wanted(itertools.repeat(True)), pytest.raises(ConnectAborted):
            await cls.connect(shared.primary.conninfo)
    except pytest.fail.Exception:
        pytest.fail(told)


def test_connecting_to_a_silent_host_asks_whether_it_is_wanted() -> None:
    cls = watched_class(psycopg.Connection)
    with (
        not_wanted(number > 3 for number in itertools.count()),
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(psycopg.OperationalError) as caught,
    ):
        cls.connect(host="127.0.0.1", port=silent.getsockname()[1], connect_timeout=3)
    told = "connecting to a silent host does not resume the generator, so closing a router takes its time"
    assert isinstance(caught.value, ConnectAborted), changed("watched_class", told)


STATEMENTS: list[tuple[str, Any]] = [
    ("SELECT %s::int AS a, 'text' AS b", [1]),
    ("SELECT %(number)s::int", {"number": 1}),
    ("SELECT 1", None),
    ("CREATE TEMPORARY TABLE canary (number int)", None),
    ("SELECT 1 WHERE %s", [False]),
    ("SELECT 1 / %s::int", [0]),
    ("SELECT %s", [object()]),
    ("SELECT pg_terminate_backend(pg_backend_pid()), %s::int", [1]),
]


def executed(conn: psycopg.Connection[Any], query: str, params: Any, *, along: bool) -> list[object]:
    """Return all that a cursor tells after a statement, and what is prepared."""
    cursor = conn.cursor()
    told: object = None
    try:
        if along:
            with conn.lock:
                conn.wait(begin_steps(cursor, query, params))
        else:
            cursor.execute(query, params)
    except psycopg.Error as exc:
        told = type(exc), str(exc)
    rows = cursor.fetchall() if cursor.description else None
    description = [(column.name, column.type_code) for column in cursor.description or []]
    told = told, rows, description, cursor.rowcount, cursor.statusmessage, cursor.rownumber
    query_kept = cursor._last_query, cursor._query and cursor._query.query
    return [told, query_kept, list(conn._prepared._names), list(conn._prepared._counts.values())]


@cluster_needed
@pytest.mark.parametrize(("query", "params"), STATEMENTS, ids=[query[:20] for query, _ in STATEMENTS])
def test_a_statement_with_its_begin_does_what_it_does_alone(
    shared: LocalCluster, query: str, params: Any
) -> None:
    what = changed("begin_steps", "Cursor.execute() does something else now")
    found = []
    for along in (False, True):
        with contextlib.closing(psycopg.connect(shared.primary.conninfo)) as conn:
            conn.prepare_threshold = 1
            rounds = []
            for _ in range(3):
                rounds.append(executed(conn, query, params, along=along))
                if conn.closed:
                    break
                assert not conn.pgconn.pipeline_status
                conn.rollback() if "CREATE" in query else conn.commit()
            found.append(rounds)
    assert found[0] == found[1], what


@cluster_needed
def test_several_statements_give_several_results(conn: psycopg.Connection[Any]) -> None:
    with conn.lock:
        found = conn.wait(query_steps(conn.pgconn, b"SELECT 1; SELECT 2"))
    told = "generators.execute or Connection.wait does not return the result of each statement"
    assert [result.get_value(0, 0) for result in found] == [b"1", b"2"], changed("query_steps", told)
    [failed] = conn.wait(query_steps(conn.pgconn, b"SELECT 1 / 0"))
    assert isinstance(error_from_result(failed, encoding="utf-8"), psycopg.errors.DivisionByZero)


@cluster_needed
def test_a_wait_is_resumed_to_see_whether_it_takes_too_long(conn: psycopg.Connection[Any]) -> None:
    with conn.lock:
        found = conn.wait(brief_steps(conn.pgconn, b"SELECT pg_sleep(60)", 0.0))
        told = "Connection.wait does not resume the generator, so a wait for a key of once= is not bounded"
        assert found is None, changed("brief_steps", told)
        conn.cancel_safe(timeout=5.0)
        [failed] = conn.wait(rest_steps(conn.pgconn))
    told = "generators.execute does not receive the results of what was sent before"
    assert isinstance(error_from_result(failed), psycopg.errors.QueryCanceled), changed("rest_steps", told)


@cluster_needed
def test_what_the_server_sends_is_noticed_unread(conn: psycopg.Connection[Any]) -> None:
    conn.pgconn.send_query(b"SELECT pg_sleep(0.3)")
    told = "waiting.wait has no timeout for a generator that waits for the socket"
    with pytest.raises(psycopg.Error):
        wait(heard_steps(), conn.pgconn.socket, interval=0.1, timeout=0.01)
        pytest.fail(changed("heard_steps", told))
    wait(heard_steps(), conn.pgconn.socket, interval=0.1, timeout=30.0)
    assert conn.pgconn.is_busy(), changed("heard_steps", "what has arrived is read by somebody else")
    conn.wait(rest_steps(conn.pgconn))


@cluster_needed
def test_rows_of_a_copy_are_made_and_read_without_it(conn: psycopg.Connection[Any]) -> None:
    told = (
        f"psycopg {psycopg.__version__}: Copy.formatter does not make and read rows any more. "
        "Adapt _async/copying/rows.py"
    )
    for binary, data in ((False, b"1\ta\\tb\n"), (True, None)):
        formatter = psycopg.Copy(psycopg.Cursor(conn), binary=binary).formatter
        formatter.transformer.set_dumper_types([23, 25], formatter.format)
        made = bytes(formatter.write_row((1, "a\tb"))) + bytes(formatter.end())
        assert data in (None, made), told
        [result] = conn.wait(query_steps(conn.pgconn, b"COPY (SELECT 1, 'a') TO STDOUT"))
        rows: list[Any] = []
        while not (ended := conn.wait(receive_steps(conn.pgconn, 1000, rows.append))[2]):
            pass
        assert ended[0].command_tuples == 1, changed("receive_steps", "the end of a COPY tells no rows")
        reader = psycopg.Copy(psycopg.Cursor(conn), binary=binary).formatter
        reader.transformer.set_pgresult(result)
        reader.transformer.set_loader_types([23, 25], reader.format)
        assert reader.parse_row(made.removesuffix(b"\xff\xff") if binary else made) == (1, "a\tb"), told


@cluster_needed
def test_psycopg_does_not_read_while_it_copies(conn: psycopg.Connection[Any]) -> None:
    conn.execute("CREATE TEMP TABLE canary (x text)")
    conn.wait(query_steps(conn.pgconn, b"COPY canary FROM STDIN"))
    steps = generators.copy_to(conn.pgconn, b"x\n", flush=True)
    told = "copy_to() reads notices meanwhile: flush_steps and end_steps are superfluous, use Copy.write() and finish()"
    assert next(steps) == WAIT_W, changed("flush_steps", told)
    steps.close()
    conn.wait(flush_steps(conn.pgconn))
    [done] = conn.wait(end_steps(conn.pgconn))
    assert done.command_tuples == 1, changed("end_steps", "it does not end a COPY")


@cluster_needed
async def test_statements_and_their_cancels_go_through_replaced_methods(shared: LocalCluster) -> None:
    conn = await psycopg.AsyncConnection.connect(shared.primary.conninfo)
    called: list[str] = []

    async def wait(*args: Any, **kwargs: Any) -> Any:
        called.append("wait")
        return await psycopg.AsyncConnection.wait(conn, *args, **kwargs)

    async def cancel_safe(**kwargs: Any) -> None:
        called.append("cancel_safe")
        await psycopg.AsyncConnection.cancel_safe(conn, **kwargs)

    conn.wait = wait  # type: ignore[method-assign]
    conn.cancel_safe = cancel_safe  # type: ignore[method-assign]
    await conn.execute("SELECT 1")
    told = (
        f"psycopg {psycopg.__version__}: interrupts are not bounded any more. Adapt _async/pool/interrupt.py"
    )
    assert "wait" in called, told
    task = asyncio.create_task(conn.execute("SELECT pg_sleep(30)"))
    await async_eventually(lambda: conn.pgconn.transaction_status == TransactionStatus.ACTIVE)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert called[-1] == "cancel_safe", told
    await conn.close()


@cluster_needed
async def test_a_cancel_request_outlives_its_connection(shared: LocalCluster) -> None:
    conn = await psycopg.AsyncConnection.connect(shared.primary.conninfo)
    asleep = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND pid = "
    running = f"{asleep}{conn.info.backend_pid}"
    conn.pgconn.send_query(b"SELECT pg_sleep(60)")
    await async_eventually(lambda: shared.primary.execute(running))
    request = conn.pgconn.cancel_conn()
    await conn.close()
    await deliver(request, 0.0)
    await async_eventually(lambda: not shared.primary.execute(running))


@cluster_needed
def test_what_follows_from_a_lost_connection_is_recognised(
    shared: LocalCluster, conn: psycopg.Connection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    mark_pooled(conn)
    with pytest.raises(psycopg.OperationalError), conn.pipeline():
        shared.nodes[0].execute(f"SELECT pg_terminate_backend({conn.info.backend_pid}, 10000)")
        conn.execute("SELECT 1")
    what = changed(
        "worth_telling", "BasePipeline._conn is gone, or the warnings have other words or arguments"
    )
    assert caplog.messages == [], what


def record(text: str, *args: object) -> logging.LogRecord:
    return logging.LogRecord("psycopg", logging.WARNING, __file__, 1, text, args, None)


@cluster_needed
def test_other_warnings_of_psycopgs_are_told(conn: psycopg.Connection[Any]) -> None:
    ignored = record("error ignored in rollback on %s: %s", conn, "oh")
    assert worth_telling(ignored), "a connection that is none of a pool's"
    mark_pooled(conn)
    assert worth_telling(ignored), "one that is open"
    conn.pgconn.finish()
    assert not worth_telling(ignored)
    assert worth_telling(record("unknown PostgreSQL timezone: %r; will use UTC", "Mars"))
    assert worth_telling(record("error ignored in something new"))
    cancelled = record("query cancellation failed: %s", "oh")
    assert worth_telling(cancelled)
    token = cancelling.set(True)
    assert not worth_telling(cancelled)
    cancelling.reset(token)


# Nothing else of psycopg's is touched.

ROOT = Path(pgroute.__path__[0])
DOOR = ROOT / "_psycopg"
SOURCES = [Path(module.__path__[0]) for module in (psycopg, psycopg_pool)]
USED = {
    "_tpc",
    "_num_transactions",
    "_prepared",
    "_pool",
    "_connect_gen",
    "_conn",
    "_autocommit",
    "_read_only",
}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def private_names() -> set[str]:
    """Return the private attributes of psycopg's and psycopg_pool's objects, and their private modules."""
    found = set()
    for path in (path for folder in SOURCES for path in folder.rglob("*.py")):
        found.add(path.stem)
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Attribute):
                found.add(node.attr)
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found.add(node.name)
    return set(filter(is_private, found))


def touched(tree: ast.AST, private: set[str]) -> Iterator[tuple[int, str]]:
    """Yield (line, name) of each private name of psycopg's in a module; what is of `self` is the module's own."""
    slots = {
        id(value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__slots__"
        for value in ast.walk(node.value)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in private:
            if ast.unparse(node.value) not in {"self", "cls"}:
                yield node.lineno, node.attr
        elif isinstance(node, ast.Constant) and node.value in USED and id(node) not in slots:
            yield node.lineno, node.value
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0].startswith("psycopg"):
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            yield from ((node.lineno, name) for name in names if is_private(name))
        elif isinstance(node, ast.ClassDef) and "psycopg" in "".join(map(ast.unparse, node.bases)):
            names = [item.attr for item in ast.walk(node) if isinstance(item, ast.Attribute)]
            yield from ((node.lineno, name) for name in names if name in private)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("conn._pool = self", "_pool"),
        ("if getattr(conn, '_tpc', None): pass", "_tpc"),
        ("type(cls.__name__, (cls,), {'_connect_gen': f})", "_connect_gen"),
        ("from psycopg._preparing import PrepareManager", "_preparing"),
        ("import psycopg\npsycopg._tpc.Xid", "_tpc"),
        ("class C(psycopg.Connection):\n    def f(self):\n        self._prepared.clear()", "_prepared"),
    ],
)
def test_the_scan_finds_a_planted_private_name(text: str, name: str) -> None:
    assert name in {found for _, found in touched(ast.parse(text), private_names())}


def test_no_other_module_touches_a_private_name_of_psycopg() -> None:
    private = private_names()
    assert private >= USED
    found = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in sorted(ROOT.rglob("*.py"))
        if DOOR not in path.parents
        for line, name in touched(ast.parse(path.read_text("utf-8")), private)
    ]
    assert found == []
    trees = [ast.parse(path.read_text("utf-8")) for path in DOOR.glob("*.py")]
    assert {name for tree in trees for _, name in touched(tree, private)} >= USED


def test_an_rlock_tells_whether_this_thread_has_it() -> None:
    """By a method that threading.Condition calls too; the pools ask it whether they are closed amid their own lines."""
    lock = threading.RLock()
    told = [lock._is_owned()]  # type: ignore[attr-defined]
    with lock:
        told.append(lock._is_owned())  # type: ignore[attr-defined]
        other = threading.Thread(target=lambda: told.append(lock._is_owned()))  # type: ignore[attr-defined]
        other.start()
        other.join()
    assert told == [False, True, False], "adapt _amid_call in pgroute/_async/pool/host_pool.py"
