# Generated from tests/aio/test_copy_out.py by .ci/unasync.py: edit that file, not this one.
"""COPY out of tables and queries: to which targets, with which options, and what is left after a failure."""

from __future__ import annotations

import bz2
import gc
import gzip
import io
import lzma
import os
import threading
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from pgroute import Router, ConfigError, PoolOptions, RouterClosed
from pgroute.testing import LocalCluster

pytestmark = pytest.mark.cluster

ONE_CONNECTION = PoolOptions(max_size=1)
MANY = "SELECT number, 'x' FROM generate_series(1, 30000) AS number"
TEXT = b"".join(b"%d\tx\n" % number for number in range(1, 30_001))
BROKEN = "SELECT 1 / (8000 - number), repeat('x', 100) FROM generate_series(1, 10000) AS number"
"""Fails after much of it was sent."""


class OwnFile:
    """A file of which nothing but write() is known, and which takes a part only."""

    def __init__(self) -> None:
        self.got = b""

    def write(self, data: bytes) -> int:
        self.got += data[:1000]
        return min(1000, len(data))


def test_each_kind_of_target_gets_the_same(shared: LocalCluster, tmp_path: Path) -> None:
    got: list[bytes] = []
    file, text, own = io.BytesIO(), io.StringIO(), OwnFile()
    file.write(b"head")
    with Router(shared.dsn) as router:
        for target in (file, text, own, got.append, tmp_path / "path", str(tmp_path / "str")):
            assert router.copy_from(MANY, target) == 30_000
    assert file.getvalue() == b"head" + TEXT
    assert text.getvalue() == TEXT.decode()
    assert own.got == b"".join(got) == TEXT
    assert all(data.endswith(b"\n") for data in got), "each time whole rows"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["path", "str"]
    assert (tmp_path / "path").read_bytes() == (tmp_path / "str").read_bytes() == TEXT


@pytest.mark.parametrize("module", [gzip, bz2, lzma])
@pytest.mark.parametrize("mode", ["b", "t"])
def test_compressed_files_are_targets_and_sources(
    shared: LocalCluster, table: str, tmp_path: Path, module: Any, mode: str
) -> None:
    path = tmp_path / "data"
    with Router(shared.dsn) as router:
        with module.open(path, "w" + mode) as file:
            assert router.copy_from("SELECT generate_series(1, 9)", file) == 9
        with module.open(path, "r" + mode) as file:
            assert router.copy_to_table(table, file) == 9


def test_text_is_not_cut_within_a_character(shared: LocalCluster) -> None:
    text = io.StringIO()
    with Router(shared.dsn) as router:
        assert router.copy_from("SELECT repeat('aü€', 200000) FROM generate_series(1, 3)", text) == 3
    assert text.getvalue() == ("aü€" * 200_000 + "\n") * 3


def test_pipe_is_a_target(shared: LocalCluster, tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(path.read_bytes()))
    reader.start()
    with Router(shared.dsn) as router:
        assert router.copy_from(MANY, path) == 30_000
    reader.join()
    assert got == [TEXT]


QUERIES: list[tuple[Any, Any]] = [
    ("SELECT 7", None),
    ("VALUES (7); ", None),
    (b"TABLE pg_am LIMIT 0", None),
    ("SELECT 7 -- and so on", None),
    ("SELECT 7 WHERE '%' LIKE '%'", None),
    ("SELECT %s::int", [7]),
    ("SELECT %(a)s WHERE '%%' = %(b)s", {"a": 7, "b": "%"}),
    (sql.SQL("SELECT {}").format(7), None),
    (sql.SQL("SELECT 7"), None),
]


@pytest.mark.parametrize(("query", "params"), QUERIES, ids=range(len(QUERIES)))
def test_query_is_copied(shared: LocalCluster, query: Any, params: Any) -> None:
    file = io.BytesIO()
    with Router(shared.dsn) as router:
        count = router.copy_from(query, file, params=params, delimiter="%")
    assert file.getvalue() == b"7\n" * count


def test_several_statements_are_refused(shared: LocalCluster, table: str) -> None:
    insert = f"INSERT INTO {table} VALUES (1)"
    queries = (f"SELECT 1; {insert}", f"SELECT 1) TO STDOUT; {insert}; SELECT (1", f"{insert}; SELECT 1")
    with Router(shared.dsn, writer=ONE_CONNECTION) as router:
        for query in queries:
            with pytest.raises(psycopg.errors.SyntaxError):
                router.copy_from(query, io.BytesIO(), role="writer")
            with pytest.raises(psycopg.errors.SyntaxError):
                with router.copy_chunks(query, role="writer"):
                    pass
        assert router.fetchval(f"SELECT count(*) FROM {table}", role="writer") == 0


def test_options_say_how_it_is_written(shared: LocalCluster, goods: str) -> None:
    options: dict[str, Any] = {
        "format": "csv",
        "delimiter": ";",
        "null": "nil",
        "header": True,
        "quote": "'",
        "escape": "\\",
        "force_quote": ["name"],
        "encoding": "LATIN1",
    }
    file = io.BytesIO()
    with Router(shared.dsn) as router:
        router.copy_to_table(goods, [(1, "ü'"), (2, None)])
        assert router.copy_from(f"public.{goods}", file, role="writer", **options) == 2
        assert file.getvalue() == b"id;name\n1;'\xfc\\''\n2;nil\n"
        with pytest.raises(psycopg.errors.UntranslatableCharacter):
            router.copy_from("SELECT '€'", file, encoding="LATIN1")
    assert file.getvalue() == b"id;name\n1;'\xfc\\''\n2;nil\n"


def test_readers_are_asked_by_default(shared: LocalCluster) -> None:
    file = io.BytesIO()
    with Router(shared.dsn) as router:
        for options in ({}, {"role": "writer"}):
            router.copy_from("SELECT pg_is_in_recovery()", file, **options)  # type: ignore[arg-type]
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            router.copy_from("SELECT txid_current()", file)
    assert file.getvalue() == b"t\nf\n"


def test_query_may_write(shared: LocalCluster, table: str) -> None:
    file = io.BytesIO()
    with Router(shared.dsn) as router:
        query = f"INSERT INTO {table} VALUES (1), (2) RETURNING number"
        assert router.copy_from(query, file, role="writer") == 2
        assert router.fetch(f"SELECT * FROM {table}", role="writer") == [(1,), (2,)]
        with router.copy_rows(f"DELETE FROM {table} RETURNING number", role="writer") as rows:
            assert [(*row,) for row in rows] == [("1",), ("2",)]
        assert router.fetch(f"SELECT * FROM {table}", role="writer") == []


def test_query_has_written_nothing_if_the_target_fails(
    shared: LocalCluster, table: str, tmp_path: Path
) -> None:
    class Full(io.BytesIO):
        def flush(self) -> None:
            raise OSError(28, "No space left on device")

    def full(_: bytes) -> None:
        raise OSError(28, "No space left on device")

    delete = f"DELETE FROM {table} RETURNING number"
    path = tmp_path / "data"
    with Router(shared.dsn, writer=ONE_CONNECTION) as router:
        router.execute(f"INSERT INTO {table} VALUES (1), (2)")
        for target in (full, "/dev/full", Full()):
            with pytest.raises(OSError, match="No space left") as caught:
                router.copy_from(delete, target, role="writer")
            assert not hasattr(caught.value, "__notes__")
        with pytest.raises(ZeroDivisionError):
            router.copy_from(delete, path, role="writer", progress=lambda _: 1 / 0)
        assert list(tmp_path.iterdir()) == []
        assert router.fetch(f"SELECT * FROM {table}", role="writer") == [(1,), (2,)]
        assert router.copy_from(delete, path, role="writer") == 2
        assert router.fetch(f"SELECT * FROM {table}", role="writer") == []
    assert path.read_text() == "1\n2\n"


def test_rows_that_are_nowhere_else_stay_beside_a_path_that_cannot_be_replaced(
    shared: LocalCluster, table: str, tmp_path: Path
) -> None:
    path = tmp_path / "data"
    with Router(shared.dsn, writer=ONE_CONNECTION) as router:
        router.execute(f"INSERT INTO {table} VALUES (1), (2)")
        delete = f"DELETE FROM {table} RETURNING number"
        with pytest.raises(IsADirectoryError) as caught:
            router.copy_from(delete, path, role="writer", progress=lambda _: path.mkdir())
        assert router.fetch(f"SELECT * FROM {table}", role="writer") == []
        [part] = tmp_path.glob(".pgroute-*.part")
        assert part.read_text() == "1\n2\n"
        assert str(part) in str(caught.value.__notes__)
        path.rmdir()
        part.unlink()
        with pytest.raises(IsADirectoryError):
            router.copy_from("SELECT 1", path, progress=lambda _: path.mkdir())
    assert list(tmp_path.iterdir()) == [path], "a query that has written nothing can be asked again"


def test_commit_that_the_server_refuses_leaves_nothing_beside_the_path(
    shared: LocalCluster, table: str, tmp_path: Path
) -> None:
    child = f"child_of_{table}"
    node = shared.nodes[0]
    node.execute(f"INSERT INTO {table} VALUES (1)")
    node.execute(
        f"CREATE TABLE {child} (number int REFERENCES {table} DEFERRABLE INITIALLY DEFERRED);"
        f"INSERT INTO {child} VALUES (1)"
    )
    try:
        with Router(shared.dsn, writer=ONE_CONNECTION) as router:
            with pytest.raises(psycopg.errors.ForeignKeyViolation):
                router.copy_from(f"DELETE FROM {table} RETURNING *", tmp_path / "data", role="writer")
    finally:
        node.execute(f"DROP TABLE {child}")
    assert list(tmp_path.iterdir()) == []
    assert node.execute(f"SELECT * FROM {table}") == [(1,)]


def test_target_that_takes_nothing_has_not_taken_all(shared: LocalCluster, table: str) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    delete = f"DELETE FROM {table} RETURNING number"
    with Router(shared.dsn, writer=ONE_CONNECTION) as router:
        router.execute(f"INSERT INTO {table} SELECT generate_series(1, 50000)")
        with (
            open(writing, "wb", buffering=0) as pipe,  # noqa: PTH123
            open(reading, "rb"),  # noqa: PTH123
            pytest.raises(ConfigError, match=r"^invalid target 'None from its write"),
        ):
            router.copy_from(delete, pipe, role="writer")
        assert router.fetchval(f"SELECT count(*) FROM {table}", role="writer") == 50_000


def test_query_has_written_what_was_read_to_its_end(shared: LocalCluster, table: str) -> None:
    delete = f"DELETE FROM {table} WHERE number < %s RETURNING number"
    with Router(shared.dsn, writer=ONE_CONNECTION) as router:
        router.execute(f"INSERT INTO {table} SELECT generate_series(1, 3)")
        with pytest.raises(ZeroDivisionError):
            with router.copy_rows(delete, params=[9], role="writer") as rows:
                for _ in rows:
                    pass
                raise ZeroDivisionError
        with router.copy_rows(delete, params=[9], role="writer") as rows:
            assert rows.__next__() == ("1",)
        with router.copy_chunks(delete, params=[9], role="writer"):
            pass
        assert router.fetchval(f"SELECT count(*) FROM {table}", role="writer") == 3
        with router.copy_rows(delete, params=[2], role="writer") as rows:
            assert rows.__next__() == ("1",)
        with router.copy_chunks(delete, params=[3], role="writer") as chunks:
            assert chunks.__next__() == b"2\n"
        assert router.fetch(f"SELECT * FROM {table}", role="writer") == [(3,)]


def test_bad_arguments_are_refused(shared: LocalCluster, tmp_path: Path) -> None:
    with Router(shared.dsn) as router:
        bad: list[tuple[Any, Any, dict[str, Any], str]] = [
            ("SELECT 1", 5, {}, "target"),
            ("", io.BytesIO(), {}, "query_or_table"),
            ("  ", io.BytesIO(), {}, "query_or_table"),
            (5, io.BytesIO(), {}, "query_or_table"),
            (("a", ""), io.BytesIO(), {}, "query_or_table"),
            ("SELECT %s", io.BytesIO(), {"params": 5}, "params"),
            ("SELECT 1", "a\0b", {}, "target"),
            ("SELECT 1", io.BytesIO(), {"null": "\udc80"}, "null"),
            ("SELECT 1", io.BytesIO(), {"columns": ["a"]}, "columns"),
            ("goods", io.BytesIO(), {"params": [1]}, "params"),
            ("goods", io.BytesIO(), {"role": "both"}, "role"),
            ("goods", io.BytesIO(), {"timeout": "1"}, "timeout"),
            ("goods", io.BytesIO(), {"header": "match"}, "header"),
            ("goods", io.BytesIO(), {"on_error": "ignore"}, "on_error"),
            ("goods", io.StringIO(), {"encoding": "UTF8"}, "encoding"),
            ("goods", io.BytesIO(), {"progress": "yes"}, "progress"),
        ]
        for query, target, arguments, parameter in bad:
            with pytest.raises(ConfigError, match=rf"^invalid {parameter} "):
                router.copy_from(query, target, **arguments)
        for name, value in (("types", 5), ("format", "csv")):
            with pytest.raises(ConfigError, match=rf"^invalid {name} "):
                router.copy_rows("goods", **{name: value})  # type: ignore[arg-type]
        with pytest.raises(psycopg.ProgrammingError, match="cannot adapt"):
            router.copy_from("SELECT %s", io.BytesIO(), params=[object()])
        with pytest.raises(FileNotFoundError):
            router.copy_from("SELECT 1", tmp_path / "none" / "data")
    with pytest.raises(RouterClosed):
        router.copy_from("SELECT 1", tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


# What is left after a failure.


def test_path_holds_all_or_what_it_held(shared: LocalCluster, tmp_path: Path) -> None:
    path = tmp_path / "data"
    with Router(shared.primary.conninfo, reader=ONE_CONNECTION) as router:
        for content in (None, b"before"):
            if content is not None:
                path.write_bytes(content)
            with pytest.raises(psycopg.errors.DivisionByZero):
                router.copy_from(BROKEN, path)
            assert [file.read_bytes() for file in tmp_path.iterdir()] == (
                [] if content is None else [content]
            )
        assert router.copy_from(MANY, path) == 30_000
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [TEXT]


def test_file_gets_all_or_nothing_if_it_can_give_back(shared: LocalCluster) -> None:
    file, text, own = io.BytesIO(b"before"), io.StringIO(), OwnFile()
    file.seek(0, os.SEEK_END)
    inside = io.BytesIO(b"before and after")
    inside.seek(7)
    with Router(shared.dsn) as router:
        for target in (file, text, own, inside):
            with pytest.raises(psycopg.errors.DivisionByZero):
                router.copy_from(BROKEN, target)
        assert router.copy_from("SELECT 'all'", file) == 1
    assert file.getvalue() == b"beforeall\n"
    assert text.getvalue() == ""
    assert own.got.startswith(b"0\tx")
    assert inside.getvalue().startswith(b"before 0\tx")


def test_error_of_the_target_comes_out(shared: LocalCluster) -> None:
    error = psycopg.errors.SerializationFailure("of another database")
    got = []

    def take(data: bytes) -> None:
        got.append(data)
        raise error

    with Router(shared.primary.conninfo, reader=ONE_CONNECTION) as router:
        with pytest.raises(psycopg.errors.SerializationFailure) as caught:
            router.copy_from(MANY, take)
        assert caught.value is error
        with pytest.raises(ZeroDivisionError):
            router.copy_from(MANY, io.BytesIO(), progress=lambda _: 1 / 0)
        assert router.fetchval("SELECT 1") == 1
    assert len(got) == 1


def test_disk_that_is_full_leaves_what_was_there(shared: LocalCluster, tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.symlink_to("/dev/full")
    with Router(shared.primary.conninfo, reader=ONE_CONNECTION) as router:
        with pytest.raises(OSError, match="No space left"):
            router.copy_from(MANY, path)
        assert router.fetchval("SELECT 1") == 1
    assert list(tmp_path.iterdir()) == [path]


# Iterators.


def test_rows_are_iterated_over(shared: LocalCluster) -> None:
    with Router(shared.dsn) as router:
        with router.copy_rows(MANY) as rows:
            assert [(*row,) for row in rows] == [(str(n), "x") for n in range(1, 30_001)]
        with router.copy_rows(MANY, types=["int8", "text"]) as rows:
            assert [(*row,) for row in rows] == [(n, "x") for n in range(1, 30_001)]
        with router.copy_rows("SELECT %s, NULL", params=[1]) as rows:
            assert [(*row,) for row in rows] == [("1", None)]
        with router.copy_rows("SELECT 1 WHERE false") as rows:
            assert [(*row,) for row in rows] == []
        with router.copy_rows("SELECT 1", format="binary") as rows:
            assert [(*row,) for row in rows] == [(b"\0\0\0\1",)]


def test_chunks_are_iterated_over(shared: LocalCluster) -> None:
    with Router(shared.dsn) as router, router.copy_chunks(MANY) as chunks:
        assert b"".join([bytes(chunk) for chunk in chunks]) == TEXT


def test_iteration_may_be_left_early(shared: LocalCluster) -> None:
    with Router(shared.primary.conninfo, reader=ONE_CONNECTION) as router:
        for _ in range(3):
            with router.copy_rows(MANY) as rows:
                for row in rows:
                    assert row == ("1", "x")
                    break
            with pytest.raises(ZeroDivisionError):
                with router.copy_chunks(MANY) as chunks:
                    for _chunk in chunks:
                        raise ZeroDivisionError
            with router.copy_chunks(MANY):
                pass
        assert router.fetchval("SELECT 1") == 1


def test_iteration_ends_with_the_error_of_the_server(shared: LocalCluster) -> None:
    count = 0
    with Router(shared.primary.conninfo, reader=ONE_CONNECTION) as router:
        pid = router.fetchval("SELECT pg_backend_pid()")
        with pytest.raises(psycopg.errors.DivisionByZero):
            with router.copy_rows(BROKEN) as rows:
                for _ in rows:
                    count += 1
        assert 0 < count < 8_000
        assert router.fetchval("SELECT pg_backend_pid()") == pid
        with pytest.raises(psycopg.errors.UndefinedTable):
            with router.copy_rows("nonsense"):
                raise AssertionError
        with pytest.raises(ValueError, match="invalid literal for int"):
            with router.copy_rows("SELECT 'a'", types=["int4"]) as rows:
                for _ in rows:
                    raise AssertionError
        with pytest.raises(ConfigError, match=r"invalid types.*expected 1, one for each column"):
            with router.copy_rows("SELECT 'a'", types=["text", "text"]):
                raise AssertionError
        assert router.fetchval("SELECT 1") == 1


def test_value_that_cannot_be_loaded_ends_the_iteration_behind_the_rows_before_it(
    shared: LocalCluster,
) -> None:
    query = "SELECT CASE n WHEN 3 THEN 'infinity' ELSE '2026-01-01' END FROM generate_series(1, 5) AS n"
    got: list[Any] = []
    with Router(shared.dsn) as router, router.copy_rows(query, types=["date"]) as rows:
        for _ in range(2):
            with pytest.raises(psycopg.DataError, match="infinity"):
                for (day,) in rows:
                    got.append(day.day)
    assert got == [1, 1], "and nothing behind it, as if that were all"


def test_iterator_is_used_once_and_within_its_block(shared: LocalCluster) -> None:
    with Router(shared.dsn) as router:
        rows = router.copy_rows("SELECT 1")
        with pytest.raises(RuntimeError, match="within its `with` statement"):
            for _ in rows:
                raise AssertionError
        with rows:
            pass
        with pytest.raises(RuntimeError, match="was used already"):
            with rows:
                raise AssertionError
        with pytest.raises(RuntimeError, match="within its `with` statement"):
            for _ in rows:
                raise AssertionError
    with pytest.raises(RouterClosed):
        with router.copy_rows("SELECT 1"):
            raise AssertionError


def test_iterator_that_is_never_left_gives_its_connection_back(shared: LocalCluster) -> None:
    with Router(shared.primary.conninfo, reader=ONE_CONNECTION) as router:
        rows = router.copy_rows(MANY)
        rows.__enter__()
        for _ in rows:
            break
        del rows
        gc.collect()
        assert router.fetchval("SELECT 1") == 1




def test_a_row_that_cannot_be_read_does_not_end_a_copy_of_the_users_own(shared: LocalCluster) -> None:
    rows = "SELECT CASE WHEN i = 3 THEN 'x' ELSE gen_random_uuid()::text END FROM generate_series(1, 5000) i"
    good = bad = 0
    with (
        Router(shared.dsn) as router,
        router.writer() as conn,
        conn.cursor().copy(f"COPY ({rows}) TO STDOUT") as copy,
    ):
        copy.set_types(["uuid"])
        while True:
            try:
                if copy.read_row() is None:
                    break
                good += 1
            except ValueError:
                bad += 1
    assert (good, bad) == (4999, 1)
