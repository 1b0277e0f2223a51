"""Batch jobs where nothing goes wrong but the input: chunks of items and of a query's rows, and what is refused."""

from __future__ import annotations

import datetime as dt
import re
import sys
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row

from pgroute import (
    AsyncRouter,
    ConfigError,
    PoolOptions,
    Router,  # async-only
)
from pgroute.batch import AsyncBatchJob, BatchError, BatchProgress, Chunk, Keyset
from pgroute.core.sql.schema import rights
from pgroute.testing import LocalCluster
from tests.batching import NOTE, Ground, ground_of, noted
from tests.support import Coroutines, Undecided, async_call, async_eventually, coroutine_function

pytestmark = pytest.mark.cluster

AsyncConnection = psycopg.AsyncConnection[Any]


@pytest.fixture
def ground(shared: LocalCluster) -> Iterator[Ground]:
    with ground_of(shared) as ground:
        yield ground


async def note(conn: AsyncConnection, chunk: Chunk) -> None:
    """Note a chunk's items, or the first column of its rows."""
    await conn.execute(NOTE, noted(chunk))


async def nothing(conn: AsyncConnection, chunk: Chunk) -> None:
    """Do nothing."""


# Items.


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("count", [0, 1, 99, 100, 101, 2000])
async def test_each_item_is_given_once(ground: Ground, count: int, workers: int) -> None:
    async with AsyncRouter(ground.dsn) as router:
        job = AsyncBatchJob(router, "j", range(count), chunk_size=100, workers=workers)
        report = await job.run(note)
    chunks = -(-count // 100)
    assert (report.job, report.rows, report.chunks, report.finished) == ("j", count, chunks, True)
    assert (report.skipped, report.rejected, report.retries) == (0, 0, 0)
    assert report.seconds > 0
    assert ground.seen() == [*range(count)]
    assert ground.execute("SELECT DISTINCT item / 100 <> chunk FROM seen") in ([], [(False,)])
    assert ground.rows() == {"batch_job": 1, "batch_chunk": 0, "batch_reject": 0}


async def test_items_of_any_kind_in_their_order(ground: Ground) -> None:
    chunks: list[Chunk] = []

    async def keep(conn: AsyncConnection, chunk: Chunk) -> None:
        chunks.append(chunk)

    items: list[Any] = [object(), {"a": 1}, None, "x", (1, 2)]
    async with AsyncRouter(ground.dsn) as router:
        await AsyncBatchJob(router, "j", (item for item in items), chunk_size=2).run(keep)
    assert chunks == [Chunk(0, items[:2]), Chunk(1, items[2:4]), Chunk(2, items[4:])]
    assert [(chunk.after, chunk.upto, chunk.where) for chunk in chunks] == 3 * [(None, None, None)]


async def test_a_function_gives_a_fresh_iterator_for_each_run(ground: Ground) -> None:
    async with AsyncRouter(ground.dsn) as router:
        job = AsyncBatchJob(router, "j", lambda: iter(range(10)), chunk_size=3)
        assert (await job.run(note)).rows == 10
        again = await job.run(note)
    assert (again.rows, again.chunks, again.skipped, again.finished) == (10, 4, 4, True)
    assert ground.seen() == [*range(10)]


async def test_a_finished_job_does_not_read_its_items(ground: Ground) -> None:
    def explode() -> Any:
        raise AssertionError

    async with AsyncRouter(ground.dsn) as router:
        await AsyncBatchJob(router, "j", range(10), chunk_size=3).run(note)
        report = await AsyncBatchJob(router, "j", explode, chunk_size=3).run(note)
    assert report.rows == 10


async def test_an_iterator_cannot_be_run_twice(ground: Ground) -> None:
    async with AsyncRouter(ground.dsn) as router:
        job = AsyncBatchJob(router, "j", iter(range(10)), chunk_size=3)
        await job.run(note)
        with pytest.raises(ConfigError, match="can be read only once"):
            await job.run(note)


# A query's rows.


async def test_each_row_of_a_query_is_given_once_in_the_order_of_the_key(ground: Ground) -> None:
    ground.items(1050)
    found: list[Any] = []

    async def keep(conn: AsyncConnection, chunk: Chunk) -> None:
        found.append((chunk.number, chunk.after, chunk.upto))
        assert chunk.rows == [(key, 0) for key in range((chunk.after or 0) + 1, chunk.upto + 1)]
        await note(conn, chunk)

    async with AsyncRouter(ground.dsn) as router:
        source = Keyset("SELECT id, price FROM item WHERE price = 0", key="id")
        report = await AsyncBatchJob(router, "j", source, chunk_size=100).run(keep)
    assert found == [(n, n * 100 or None, min(n * 100 + 100, 1050)) for n in range(11)]
    assert (report.rows, report.chunks, report.finished) == (1050, 11, True)
    assert ground.seen() == [*range(1, 1051)]


async def test_no_rows_are_no_chunks(ground: Ground) -> None:
    ground.items(0)
    async with AsyncRouter(ground.dsn) as router:
        report = await AsyncBatchJob(router, "j", Keyset("SELECT id FROM item", "id")).run(nothing)
    assert (report.rows, report.chunks, report.finished) == (0, 0, True)


@pytest.mark.parametrize(
    ("kind", "value", "of"),
    [
        ("text", r"""E'%\\''"' || to_char({}, '000')""", str),
        ("timestamptz", "'2026-11-01'::timestamptz + {} * interval '1.000001 s'", dt.datetime),
        ("uuid", "md5(({})::text)::uuid", uuid.UUID),
        ("numeric", "{}::numeric / 7", None),
        ("float8", "{}::float8 / 7", float),
        ("char(6)", "to_char({}, '000')", str),
        ("bytea", r"decode(to_char({}, 'FM000000'), 'hex')", bytes),
        ("date", "'2026-11-01'::date + {}", dt.date),
        ("interval", "make_interval(secs => {} - 50)", dt.timedelta),
        ('"odd % type"', "({})::int", None),
    ],
)
async def test_keys_of_any_type_with_an_order(ground: Ground, kind: str, value: str, of: Any) -> None:
    ground.execute('CREATE DOMAIN "odd % type" AS int')
    ground.execute(f'CREATE TABLE item ("the %% ""key""" {kind} PRIMARY KEY, id int)'.replace("%%", "%"))
    ground.execute(f"INSERT INTO item SELECT {value.format('n')}, n FROM generate_series(1, 95) AS n")
    styles = {"datestyle": "ISO, DMY", "bytea_output": "escape", "timezone": "Asia/Kolkata"}
    counts: list[int] = []

    async def keep(conn: AsyncConnection, chunk: Chunk) -> None:
        assert of is None or isinstance(chunk.upto, of)
        assert chunk.where is not None
        for query, params in (
            (sql.SQL("SELECT id FROM item WHERE {}"), None),
            (sql.SQL("SELECT id FROM item WHERE id > %s AND {}"), (0,)),
        ):
            cursor = await conn.execute(query.format(chunk.where), params)
            assert sorted(await cursor.fetchall()) == sorted((row[0],) for row in chunk.rows)
        counts.append(len(chunk.rows))
        await note(conn, chunk)

    async with AsyncRouter(ground.dsn, writer=PoolOptions(settings=styles)) as router:
        source = Keyset('SELECT id, "the % ""key""" FROM item -- the end', 'the % "key"')
        await AsyncBatchJob(router, "j", source, chunk_size=10, workers=2).run(keep)
    assert sorted(counts) == [5, *(9 * [10])]
    assert ground.seen() == [*range(1, 96)]


@pytest.mark.parametrize("params", [(3, "%"), {"less": 3, "not": "%"}])
async def test_keys_of_several_columns_and_parameters(ground: Ground, params: Any) -> None:
    ground.execute("CREATE TABLE item (shop int, name text, number int, PRIMARY KEY (shop, name))")
    ground.execute("INSERT INTO item SELECT n % 5, 'x' || n, n FROM generate_series(1, 200) AS n")
    query = "SELECT number, shop, name FROM item WHERE shop < %s AND name <> %s"
    if isinstance(params, dict):
        query = "SELECT number, shop, name FROM item WHERE shop < %(less)s AND name <> %(not)s"
    bounds: list[Any] = []

    async def keep(conn: AsyncConnection, chunk: Chunk) -> None:
        bounds.append((chunk.after, chunk.upto))
        assert chunk.where is not None
        cursor = await conn.execute(
            sql.SQL("SELECT count(*) FROM item WHERE shop < %s AND {}").format(chunk.where), (3,)
        )
        assert await cursor.fetchone() == (len(chunk.rows),)
        await note(conn, chunk)

    async with AsyncRouter(ground.dsn) as router:
        source = Keyset(query, key=("shop", "name"), params=params)
        await AsyncBatchJob(router, "j", source, chunk_size=25).run(keep)
    assert bounds[0] == (None, (0, "x25"))
    assert [after for after, _ in bounds[1:]] == [upto for _, upto in bounds[:-1]]
    assert ground.seen() == [n for n in range(1, 201) if n % 5 < 3]


async def test_rows_of_equal_keys_stay_together_and_are_given_once(ground: Ground) -> None:
    ground.execute("CREATE TABLE item (id int, part int)")
    ground.execute("INSERT INTO item SELECT n, n / 7 FROM generate_series(1, 100) AS n")
    ground.execute("INSERT INTO item SELECT n, 50 FROM generate_series(101, 160) AS n")
    parts: list[set[int]] = []

    async def keep(conn: AsyncConnection, chunk: Chunk) -> None:
        parts.append({part for _, part in chunk.rows})
        await note(conn, chunk)

    async with AsyncRouter(ground.dsn) as router:
        job = AsyncBatchJob(router, "j", Keyset("SELECT id, part FROM item", "part"), chunk_size=10)
        report = await job.run(keep)
    assert ground.seen() == [*range(1, 161)]
    assert sum(map(len, parts)) == len(set.union(*parts)), "a key is in one chunk only"
    assert report.rows == 160
    assert report.chunks == len(parts)


async def test_rows_inserted_meanwhile_belong_to_the_job_only_within_its_bounds(ground: Ground) -> None:
    ground.execute("CREATE TABLE item (id int PRIMARY KEY)")
    ground.execute("INSERT INTO item SELECT n * 10 FROM generate_series(1, 10) AS n")

    async def insert(conn: AsyncConnection, chunk: Chunk) -> None:
        if chunk.number == 0:
            await async_call(ground.execute, "INSERT INTO item VALUES (5), (95), (101)")
        await note(conn, chunk)

    async with AsyncRouter(ground.dsn) as router:
        await AsyncBatchJob(router, "j", Keyset("SELECT id FROM item", "id"), chunk_size=2).run(insert)
    assert ground.seen() == [*range(10, 91, 10), 95, 100]


async def test_without_fetching_the_body_works_by_the_bounds(ground: Ground) -> None:
    ground.items(250)

    async def raise_price(conn: AsyncConnection, chunk: Chunk) -> None:
        assert chunk.rows == []
        assert chunk.where is not None
        await conn.execute(sql.SQL("UPDATE item SET price = price + 1 WHERE {}").format(chunk.where))

    async with AsyncRouter(ground.dsn) as router:
        source = Keyset("SELECT id FROM item", "id", fetch=False)
        report = await AsyncBatchJob(router, "j", source, chunk_size=100).run(raise_price)
    assert report.rows == 250
    assert ground.execute("SELECT price, count(*) FROM item GROUP BY price") == [(1, 250)]


async def test_rows_come_by_the_routers_row_factory(ground: Ground) -> None:
    ground.items(3)
    rows: list[Any] = []

    async def keep(conn: AsyncConnection, chunk: Chunk) -> None:
        rows.extend(chunk.rows)

    async with AsyncRouter(ground.dsn, kwargs={"row_factory": dict_row, "autocommit": True}) as router:
        await AsyncBatchJob(router, "j", Keyset("SELECT id FROM item", "id")).run(keep)
    assert rows == [{"id": 1}, {"id": 2}, {"id": 3}]


@pytest.mark.parametrize("level", ["read committed", "repeatable read", "serializable"])
async def test_any_default_isolation_level(ground: Ground, level: str) -> None:
    ground.items(300)
    settings = {"default_transaction_isolation": level}
    async with AsyncRouter(ground.dsn, writer=PoolOptions(settings=settings)) as router:
        for name, source in (("items", range(1, 301)), ("keys", Keyset("SELECT id FROM item", "id"))):
            report = await AsyncBatchJob(router, name, source, chunk_size=10, workers=4).run(note)
            assert report.rows == 300
    assert ground.seen() == sorted([*range(1, 301)] * 2)


async def test_the_rights_that_install_prints_are_enough(ground: Ground) -> None:
    ground.items(30)
    name = f"worker_in_{ground.name}"
    ground.execute(f"CREATE ROLE {name} LOGIN PASSWORD '{ground.cluster.password}'")
    try:
        ground.execute(rights(name))
        ground.execute(f"GRANT SELECT ON item TO {name}; GRANT INSERT ON seen TO {name}")
        ground.cluster.catch_up()

        async def fail_once(conn: AsyncConnection, chunk: Chunk) -> None:
            await note(conn, chunk)
            if chunk.number == 1:
                raise KeyError

        async with AsyncRouter(ground.dsn, kwargs={"user": name}) as router:
            items = [(n,) for n in range(30)]
            for job, source in (("items", items), ("keys", Keyset("SELECT id FROM item", "id"))):
                report = await AsyncBatchJob(router, job, source, chunk_size=10, on_error="reject").run(
                    fail_once
                )
                assert (report.chunks, report.rejected) == (2, 1)
    finally:
        ground.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


# Progress.


async def test_a_callable_is_told_of_each_chunk(ground: Ground) -> None:
    told: list[BatchProgress] = []
    async with AsyncRouter(ground.dsn) as router:
        await AsyncBatchJob(router, "j", range(250), chunk_size=100).run(nothing, progress=told.append)
        primary = str(router.topology.primary.key) if router.topology.primary else None
    assert [(p.rows, p.chunks, p.finished) for p in told] == [
        (0, 0, False), (100, 1, False), (200, 2, False), (250, 3, False), (250, 3, True),
    ]  # fmt: skip
    assert {(p.job, p.rows_total, p.chunks_total, p.primary) for p in told} == {("j", 250, 3, primary)}
    assert told[0].eta is None
    assert told[1].rate > 0
    assert told[-1].eta == 0


async def test_how_much_there_is_in_all_is_told_once_it_is_known(ground: Ground) -> None:
    told: list[BatchProgress] = []
    async with AsyncRouter(ground.dsn) as router:
        source = iter(range(250))
        await AsyncBatchJob(router, "j", source, chunk_size=100).run(nothing, progress=told.append)
    totals = [(p.rows_total, p.chunks_total, p.eta) for p in told]
    assert totals == [*(4 * [(None, None, None)]), (250, 3, 0)]


@pytest.mark.parametrize("rich", ["installed", "missing"])
async def test_progress_is_plain_lines_where_stderr_is_no_terminal(
    ground: Ground, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, rich: str
) -> None:
    if rich == "missing":
        monkeypatch.setitem(sys.modules, "rich.console", None)
    async with AsyncRouter(ground.dsn) as router:
        await AsyncBatchJob(router, "j", range(250), chunk_size=100).run(nothing, progress=True)
        primary = router.topology.primary
        assert primary is not None
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("j: 250 of 250 rows (100 %), finished in ")
    assert line.endswith(f" rows/s, 0 retries, 0 rejected, primary {primary.key}")


async def test_a_line_comes_every_few_seconds_also_while_nothing_goes_on(
    ground: Ground, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgroute.batch.progress._LINES_EVERY", 0.02)
    told: list[str] = []

    def heard() -> int:
        told.append(capsys.readouterr().err)
        return "".join(told).count("j: 100 of 250 rows (40 %), ")

    async def wait(conn: AsyncConnection, chunk: Chunk) -> None:
        if chunk.number == 1:
            await async_eventually(lambda: heard() > 3)

    async with AsyncRouter(ground.dsn) as router:
        await AsyncBatchJob(router, "j", range(250), chunk_size=100).run(wait, progress=True)


async def test_progress_is_a_bar_on_a_terminal(
    ground: Ground, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    async with AsyncRouter(ground.dsn) as router:
        await AsyncBatchJob(router, "j [b]", range(250), chunk_size=100).run(nothing, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "━━━" in err
    assert "250 of 250 rows (100 %), finished in " in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", err)
    assert "j [b] " in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", err)


async def test_no_progress_is_shown_unless_asked_for(
    ground: Ground, capsys: pytest.CaptureFixture[str]
) -> None:
    async with AsyncRouter(ground.dsn) as router:
        await AsyncBatchJob(router, "j", range(250)).run(nothing)
    assert capsys.readouterr() == ("", "")


async def test_an_error_of_the_progress_callable_ends_the_run(ground: Ground) -> None:
    async with AsyncRouter(ground.dsn) as router:

        def fail(progress: BatchProgress) -> None:
            if progress.chunks:
                raise KeyError(progress.chunks)

        job = AsyncBatchJob(router, "j", range(250), chunk_size=100, on_error="reject")
        with pytest.raises(KeyError, match="1"):
            await job.run(note, progress=fail)
        assert (await job.run(note)).skipped == 1
    assert ground.seen() == [*range(250)]


# What is refused, before anything is written.


@pytest.mark.parametrize(
    ("parameter", "given", "accepted"),
    [
        ("job", "", "expected 1 to 512 bytes"),
        ("job", "é" * 257, r"514 bytes\).*1 to 512 bytes"),
        ("job", "a\0b", "without NUL"),
        ("job", "\udc80", "UTF-8"),
        ("job", 7, "expected 1 to 512"),
        pytest.param("job", 10**5000, "expected 1 to 512", id="huge"),
        ("source", "text", "not a str"),
        ("source", 7, "an iterable, or a function"),
        ("source", list, "an iterable, or a function"),
        ("chunk_size", 0, "at least 1"),
        ("chunk_size", 2**31, "at most 2147483647"),
        ("chunk_size", True, "at least 1"),
        ("chunk_size", 2.0, "at least 1"),
        ("workers", 0, "at least 1"),
        ("workers", 4, "at most 3: each needs a connection"),
        ("on_error", "skip", "'stop' or 'reject'"),
        ("on_error", Undecided(), "'stop' or 'reject'"),
        ("retry", 3, "RetryPolicy or None"),
    ],
)
async def test_a_job_names_what_it_cannot_use(parameter: str, given: Any, accepted: str) -> None:
    options: dict[str, Any] = {"job": "j", "source": [], parameter: given}
    router: AsyncRouter[Any] = AsyncRouter("host=127.0.0.1", writer=PoolOptions(max_size=3))
    with pytest.raises(ConfigError, match=f"(?s)^invalid {parameter} .*{accepted}") as caught:
        AsyncBatchJob(router, options.pop("job"), options.pop("source"), **options)
    assert caught.value.parameter == parameter


async def test_a_job_wants_a_router_of_its_own_kind() -> None:
    other: Any = Router("host=127.0.0.1")  # async-only
    # sync-only: other: Any = object()
    with pytest.raises(ConfigError, match=r"invalid router .* expected an? (Async)?Router"):
        AsyncBatchJob(other, "j", [])


@pytest.mark.parametrize(
    ("options", "parameter"),
    [
        ({"query": " ; ", "key": "id"}, "query"),
        ({"query": 7, "key": "id"}, "query"),
        ({"query": "SELECT 1", "key": ""}, "key"),
        ({"query": "SELECT 1", "key": ()}, "key"),
        ({"query": "SELECT 1", "key": ("a", "a")}, "key"),
        ({"query": "SELECT 1", "key": 7}, "key"),
        ({"query": "SELECT 1", "key": "id", "params": "x"}, "params"),
        ({"query": "SELECT 1", "key": "id", "fetch": None}, "fetch"),
    ],
)
def test_a_keyset_names_what_it_cannot_use(options: dict[str, Any], parameter: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Keyset(**options)
    assert caught.value.parameter == parameter


async def generator(conn: AsyncConnection, chunk: Chunk) -> Any:
    yield 1


@pytest.mark.parametrize("fn", [None, 7, generator])
async def test_a_body_that_is_none_is_refused(ground: Ground, fn: Any) -> None:
    async with AsyncRouter(ground.dsn) as router:
        with pytest.raises(ConfigError, match=r"^invalid fn "):
            await AsyncBatchJob(router, "j", range(3)).run(fn)
    assert ground.rows()["batch_job"] == 0


# sync-only: def test_a_coroutine_function_is_refused_by_the_synchronous_job(ground: Ground) -> None:
# sync-only:     body: Any = coroutine_function
# sync-only:     with Router(ground.dsn) as router:
# sync-only:         with pytest.raises(ConfigError, match="coroutine function"):
# sync-only:             BatchJob(router, "j", range(3)).run(body)
# sync-only:     assert ground.rows()["batch_job"] == 0


@pytest.mark.parametrize("on_error", ["stop", "reject"])
async def test_a_body_that_leaves_its_work_to_be_done_later_is_rolled_back(
    ground: Ground, on_error: Any
) -> None:
    async def lazy(conn: AsyncConnection, chunk: Chunk) -> Any:
        await conn.execute("INSERT INTO seen VALUES (1)")
        return coroutine_function()

    async with AsyncRouter(ground.dsn) as router:
        job = AsyncBatchJob(router, "j", range(3), on_error=on_error)
        with pytest.raises(ConfigError, match="it returned a coroutine, and was rolled back"):
            await job.run(lazy)
    assert ground.seen() == []
    assert ground.rows()["batch_reject"] == 0


@pytest.mark.parametrize("progress", [7, "yes", coroutine_function, Coroutines()])
async def test_progress_that_cannot_be_told(ground: Ground, progress: Any) -> None:
    async with AsyncRouter(ground.dsn) as router:
        with pytest.raises(ConfigError, match=r"^invalid progress "):
            await AsyncBatchJob(router, "j", range(3)).run(nothing, progress=progress)


@pytest.mark.parametrize(
    ("query", "key", "accepted"),
    [
        ("SELECT id FROM item", "nr", r"no column named 'nr' \(columns: id\)"),
        ("SELECT id, id FROM item", ("id",), "2 columns named 'id'"),
        ("SELECT id, nullif(id, 7) AS k FROM item", "k", "never NULL"),
        ("SELECT id, nullif(id, 7) AS k FROM item", ("id", "k"), "never NULL"),
        ("SELECT id, id::money AS k FROM item", ("id", "k"), r"'k' has the type money.*cast.*money::numeric"),
        ("SELECT id::oid::regclass AS k FROM item", "k", "'k' has the type regclass.*regclass::oid"),
        ("SELECT ARRAY[id::oid::regprocedure] AS k FROM item", "k", "the type regprocedure"),
        ("SELECT id::money::price AS k FROM item", "k", "the type money"),
        ("SELECT ROW(id::money)::priced AS k FROM item", "k", "the type money"),
    ],
)
async def test_keys_that_cannot_serve(ground: Ground, query: str, key: Any, accepted: str) -> None:
    ground.items(10)
    ground.execute("CREATE DOMAIN price AS money; CREATE TYPE priced AS (amount price)")
    async with AsyncRouter(ground.dsn) as router:
        with pytest.raises(ConfigError, match=f"^invalid key .*{accepted}"):
            await AsyncBatchJob(router, "j", Keyset(query, key), chunk_size=3).run(nothing)
    assert ground.rows()["batch_job"] == 0


async def test_an_error_of_the_query_is_the_servers_own(ground: Ground) -> None:
    async with AsyncRouter(ground.dsn) as router:
        with pytest.raises(psycopg.errors.UndefinedTable, match="nowhere"):
            await AsyncBatchJob(router, "j", Keyset("SELECT id FROM nowhere", "id")).run(nothing)
    assert ground.rows()["batch_job"] == 0


async def test_a_function_that_gives_no_iterator(ground: Ground) -> None:
    async with AsyncRouter(ground.dsn) as router:
        source: Any = lambda: 7  # noqa: E731
        with pytest.raises(ConfigError, match="expected it to return an iterator, not a int"):
            await AsyncBatchJob(router, "j", source).run(nothing)


async def test_without_the_tables_the_error_says_how_to_make_them(ground: Ground) -> None:
    ground.execute("DROP SCHEMA pgroute CASCADE")
    async with AsyncRouter(ground.dsn) as router:
        with pytest.raises(ConfigError, match=r"invalid job 'j'.*pgroute install DSN"):
            await AsyncBatchJob(router, "j", range(3)).run(nothing)


async def test_a_name_stands_for_one_source_and_one_chunk_size(ground: Ground) -> None:
    ground.items(5)
    query = "SELECT id, price FROM item WHERE price < %s"
    async with AsyncRouter(ground.dsn) as router:
        await AsyncBatchJob(router, "items", range(5), chunk_size=2).run(nothing)
        await AsyncBatchJob(router, "keys", Keyset(query, "id", [7]), chunk_size=2).run(nothing)
        for name, source, size, problem in (
            ("items", range(5), 3, "invalid chunk_size 3: .*started with chunk_size=2"),
            (
                "items",
                Keyset(query, "id", [7]),
                2,
                "invalid source 'keyset:.*started with the source 'items'",
            ),
            ("keys", range(5), 2, "invalid source 'items': .*with the source 'keyset:.* by id bigint'"),
            ("keys", Keyset(query, "id", [8]), 2, "invalid source 'keyset"),
            ("keys", Keyset(query, "price", [7]), 2, "invalid source 'keyset:.*by price integer"),
            ("keys", Keyset(query + " ", "id", [7]), 2, "invalid source 'keyset"),
        ):
            with pytest.raises(ConfigError, match=f"^{problem}"):
                await AsyncBatchJob(router, name, source, chunk_size=size).run(nothing)
        await AsyncBatchJob(router, "keys", Keyset(query, "id", [7], fetch=False), chunk_size=2).run(nothing)


async def test_a_body_that_asks_for_a_rollback_fails(ground: Ground) -> None:
    async def back(conn: AsyncConnection, chunk: Chunk) -> None:
        raise psycopg.Rollback

    async with AsyncRouter(ground.dsn) as router:
        with pytest.raises(psycopg.ProgrammingError, match=r"the body raised psycopg\.Rollback"):
            await AsyncBatchJob(router, "j", range(3)).run(back)


async def test_workers_work_at_once(ground: Ground) -> None:
    together = threading.Barrier(3)

    async def meet(conn: AsyncConnection, chunk: Chunk) -> None:
        await async_call(together.wait, 10)

    async with AsyncRouter(ground.dsn) as router:
        await AsyncBatchJob(router, "j", range(9), chunk_size=1, workers=3).run(meet)


async def test_an_unopened_router_is_told_apart(ground: Ground) -> None:
    router: AsyncRouter[Any] = AsyncRouter(ground.dsn)
    with pytest.raises(psycopg.OperationalError, match="never opened"):
        await AsyncBatchJob(router, "j", range(3)).run(nothing)
    assert issubclass(BatchError, psycopg.OperationalError)
