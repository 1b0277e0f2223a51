# Generated from tests/aio/test_copy_in.py by .ci/unasync.py: edit that file, not this one.
"""COPY into tables: what is copied from where, with which options, and what is refused."""

from __future__ import annotations

import codecs
import datetime as dt
import io
import os
import tempfile
import threading
from collections.abc import (
    Callable,
    Iterator,
)
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from pgroute import Router, ConfigError, CopyProgress, PoolOptions, RouterClosed
from pgroute.testing import LocalCluster

pytestmark = pytest.mark.cluster

ONE_CONNECTION = PoolOptions(max_size=1)
ROWS = [(1, "a\tb\\"), (2, None), (3, "ü\r\n\b")]
TEXT = b"1\ta\\tb\\\\\n2\t\\N\n3\t\xc3\xbc\\r\\n\\b\n"


def stored(cluster: LocalCluster, table: str) -> list[tuple[Any, ...]]:
    return cluster.nodes[0].execute(f"SELECT * FROM {table} ORDER BY 1")


def each_row() -> Iterator[tuple[Any, ...]]:
    yield from ROWS


def each_byte() -> Iterator[bytes]:
    for byte in TEXT:
        yield bytes([byte])




class OwnFile:
    """A file of which nothing but read() is known."""

    def __init__(self) -> None:
        self._file = io.BytesIO(TEXT)

    def read(self, size: int) -> bytes:
        return self._file.read(min(size, 5))


SOURCES: dict[str, Any] = {
    "list": lambda: ROWS,
    "rows as lists": lambda: [list(row) for row in ROWS],
    "set": lambda: set(ROWS),
    "iterator": lambda: iter(ROWS),
    "generator": each_row,
    "generator function": lambda: each_row,
    "bytes": each_byte,
    "views of bytes": lambda: [memoryview(TEXT)[:5], bytearray(TEXT[5:])],
    "file": lambda: io.BytesIO(TEXT),
    "own file": OwnFile,
    "file of text": lambda: io.StringIO(TEXT.decode()),
    "function of a file": lambda: lambda: io.BytesIO(TEXT),
    "function of a file of text": lambda: lambda: io.StringIO(TEXT.decode()),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_each_kind_of_source_gives_the_same(shared: LocalCluster, goods: str, kind: str) -> None:
    with Router(shared.dsn) as router:
        assert router.copy_to_table(goods, SOURCES[kind]()) == 3
    assert stored(shared, goods) == ROWS


@pytest.mark.parametrize("make", [str, Path, lambda path: lambda: path], ids=["str", "Path", "function"])
def test_path_is_a_source(
    shared: LocalCluster, goods: str, tmp_path: Path, make: Callable[[Path], Any]
) -> None:
    path = tmp_path / "goods"
    path.write_bytes(TEXT)
    with Router(shared.dsn) as router:
        assert router.copy_to_table(goods, make(path)) == 3
        with pytest.raises(FileNotFoundError):
            router.copy_to_table(goods, make(tmp_path / "none"))
    assert stored(shared, goods) == ROWS


def test_pipe_is_a_source(shared: LocalCluster, goods: str, tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(TEXT,))
    writer.start()
    with Router(shared.dsn) as router:
        assert router.copy_to_table(goods, path) == 3
    writer.join()
    assert stored(shared, goods) == ROWS


def test_file_is_copied_from_where_it_is_and_left_open(shared: LocalCluster, goods: str) -> None:
    file = io.BytesIO(b"head" + TEXT)
    file.seek(4)
    with Router(shared.dsn) as router:
        assert router.copy_to_table(goods, file) == 3
    assert file.read() == b""


TEXT_FILES: dict[str, Any] = {
    "NamedTemporaryFile": partial(tempfile.NamedTemporaryFile, "w+", encoding="utf-16"),
    "SpooledTemporaryFile": partial(tempfile.SpooledTemporaryFile, mode="w+", encoding="latin-1"),
    "codecs.open": lambda dir: codecs.open(str(dir / "text"), "w+", encoding="latin-1"),  # noqa: A006, SIM115
}


@pytest.mark.parametrize("kind", TEXT_FILES)
def test_files_of_text_that_tell_it_by_their_encoding(
    shared: LocalCluster, goods: str, tmp_path: Path, kind: str
) -> None:
    with TEXT_FILES[kind](dir=tmp_path) as file:
        with Router(shared.dsn) as router:
            assert router.copy_from("SELECT 7, 'é'", file, role="writer") == 1
            file.seek(0)
            assert router.copy_to_table(goods, file) == 1
    assert shared.nodes[0].execute(f"SELECT id, name FROM {goods}") == [(7, "é")]


@pytest.mark.parametrize("source", [[], (), iter([]), io.BytesIO(), io.StringIO(), lambda: ()], ids=range(6))
def test_nothing_is_copied_of_an_empty_source(shared: LocalCluster, goods: str, source: Any) -> None:
    with Router(shared.dsn) as router:
        assert router.copy_to_table(goods, source) == 0


CSV: dict[str, Any] = {"format": "csv", "delimiter": ";", "quote": "'"}


@pytest.mark.parametrize(
    "options", [CSV, {"format": "binary"}, {"null": "nil"}], ids=["csv", "binary", "text"]
)
def test_empty_table_is_copied_as_any_other(
    shared: LocalCluster, goods: str, options: dict[str, Any]
) -> None:
    with (
        Router(shared.dsn) as router,
        router.copy_chunks(goods, role="writer", **options) as chunks,
    ):
        assert router.copy_to_table(goods, [bytes(c) for c in chunks], **options) == 0
        assert router.copy_to_table(goods, iter(()), **options) == 0


def test_values_of_many_types(shared: LocalCluster, goods: str) -> None:
    shared.nodes[0].execute(
        f"ALTER TABLE {goods} ADD amount numeric, ADD at timestamptz, ADD words text[], ADD facts jsonb, ADD raw bytea"
    )
    at = dt.datetime(2024, 2, 29, 12, tzinfo=dt.UTC)
    row = (1, "a", Decimal("1.50"), at, ["x", 'y "z"', None], Jsonb({"a": [1]}), b"\0\xff")
    types = ["int4", "text", "numeric", "timestamptz", "text[]", "jsonb", "bytea"]
    with Router(shared.dsn) as router:
        for number, options in enumerate([{}, {"types": types}, {"format": "binary", "types": types}], 1):
            assert router.copy_to_table(goods, [(number, *row[1:])], **options) == 1  # type: ignore[arg-type]
        with router.copy_rows(goods, role="writer", types=types) as rows:
            found = [(*row,) for row in rows]
        with router.copy_rows(goods, role="writer", types=types, format="binary") as rows:
            assert [(*row,) for row in rows] == found
    assert found == [(number, *row[1:5], {"a": [1]}, row[6]) for number in (1, 2, 3)]


def test_binary_rows(shared: LocalCluster, goods: str) -> None:
    with Router(shared.dsn) as router:
        assert router.copy_to_table(goods, [], format="binary") == 0
        assert router.copy_to_table(goods, ROWS, format="binary", types=["int4", "text"]) == 3
        file = io.BytesIO()
        assert router.copy_from(goods, file, role="writer", format="binary") == 3
        router.execute(f"TRUNCATE {goods}")
        file.seek(0)
        assert router.copy_to_table(goods, file, format="binary") == 3
        with pytest.raises(ConfigError, match=r"invalid types \['int4'\]: expected 2, one for each column"):
            router.copy_to_table(goods, ROWS, types=["int4"])
        with pytest.raises(ConfigError, match=r"invalid types.*that psycopg knows"):
            router.copy_to_table(goods, ROWS, types=["int4", "nonsense"])
        with pytest.raises(ConfigError, match=r"invalid types.*None with a file"):
            router.copy_to_table(goods, io.BytesIO(), types=["int4", "text"])
    assert stored(shared, goods) == ROWS


def test_columns_and_names_are_quoted(shared: LocalCluster, goods: str) -> None:
    schema, table = f'S"{goods}', "T.a 'x"
    node = shared.nodes[0]
    whole = sql.Identifier(schema, table)
    node.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)).as_string())
    node.execute(sql.SQL('CREATE TABLE {} ("A" int, "b""c" text)').format(whole).as_string())
    try:
        with Router(shared.dsn) as router:
            assert router.copy_to_table((schema, table), [(1, "x")]) == 1
            assert router.copy_to_table(whole, [("y", 2)], columns=['b"c', "A"]) == 1
            assert router.copy_to_table(f"public.{goods}", [(1,)], columns=("id",)) == 1
            file = io.StringIO()
            assert router.copy_from(whole, file, columns=['b"c'], role="writer", header=True) == 2
            assert file.getvalue() == 'b"c\nx\ny\n'
            with pytest.raises(psycopg.errors.UndefinedTable):
                router.copy_to_table(goods.upper(), ROWS)
    finally:
        node.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(schema)).as_string())
    assert stored(shared, goods) == [(1, "new")]


OPTIONS: dict[str, tuple[bytes, dict[str, Any]]] = {
    "csv": (b'1,"a,""b"\n2,\n', {"format": "csv"}),
    "all of csv": (
        b"id%name\n1%'a,\"b'\n2%-\n",
        {
            "format": "csv",
            "delimiter": "%",
            "quote": "'",
            "escape": "\\",
            "null": "-",
            "header": "match",
            "force_null": ["name"],
        },
    ),
    "text": (b'1|a,"b\n2|nil\n', {"delimiter": "|", "null": "nil"}),
    "where": (b'1\ta,"b\n2\t\\N\n3\tx\n', {"where": "id < 3 -- and so on"}),
    "composed where": (b'1\ta,"b\n2\t\\N\n3\tx\n', {"where": sql.SQL("id < {}").format(3)}),
    "errors left out": (b'1\ta,"b\nx\ty\n2\t\\N\n', {"on_error": "ignore", "log_verbosity": "verbose"}),
}


@pytest.mark.parametrize("kind", OPTIONS)
def test_options_say_what_the_bytes_mean(shared: LocalCluster, goods: str, kind: str) -> None:
    data, options = OPTIONS[kind]
    with Router(shared.dsn) as router:
        assert router.copy_to_table(goods, io.BytesIO(data), **options) == 2
    assert stored(shared, goods) == [(1, 'a,"b'), (2, None)]


def test_text_of_null_and_of_the_default(shared: LocalCluster, goods: str) -> None:
    with Router(shared.dsn) as router:
        router.copy_to_table(goods, io.BytesIO(b"1,\\D\n"), format="csv", default="\\D")
        router.copy_to_table(goods, io.BytesIO(b"2,\n"), format="csv", force_not_null=["name"])
        router.copy_to_table(goods, io.BytesIO(b'3,""\n'), format="csv", force_null=True)
        limited = {"on_error": "ignore", "reject_limit": 1}
        with pytest.raises(psycopg.DataError, match="skipped more than REJECT_LIMIT"):
            router.copy_to_table(goods, [("x", "")] * 2, **limited)  # type: ignore[arg-type]
        assert router.copy_to_table(goods, [("x", ""), (4, "")], **limited) == 1  # type: ignore[arg-type]
    assert stored(shared, goods) == [(1, "new"), (2, ""), (3, None), (4, "")]


def test_encodings(shared: LocalCluster, goods: str) -> None:
    with Router(shared.dsn, kwargs={"client_encoding": "latin1"}) as router:
        router.copy_to_table(goods, [(1, "ü")])
        router.copy_to_table(goods, io.BytesIO(b"2\t\xfc\n"))
        router.copy_to_table(goods, io.BytesIO("3\tü\n".encode()), encoding="UTF8")
        router.copy_to_table(goods, io.StringIO("4\tü€\n"))
        with pytest.raises(UnicodeEncodeError) as caught:
            router.copy_to_table(goods, [(5, "€")])
        assert caught.value.__notes__ == ["in row 1 of the source"]
        file = io.BytesIO()
        router.copy_from(f"SELECT name FROM {goods} WHERE name = 'ü'", file, role="writer")
        assert file.getvalue() == b"\xfc\n" * 3
        text = io.StringIO()
        router.copy_from((goods,), text, role="writer", columns=["name"])
        assert text.getvalue() == "ü\nü\nü\nü€\n"
    assert stored(shared, goods) == [(1, "ü"), (2, "ü"), (3, "ü"), (4, "ü€")]


BACKSLASHES = {"BIG5": "功n", "GBK": "乗n", "GB18030": "乗n", "SJIS": "ソn", "SHIFT_JIS_2004": "ソn"}
REFUSED = r"^invalid client_encoding .*UTF8.*format='binary'"


@pytest.mark.parametrize("encoding", BACKSLASHES)
def test_half_a_character_is_no_backslash(shared: LocalCluster, goods: str, encoding: str) -> None:
    rows = [(1, "丁"), (2, None), (3, BACKSLASHES[encoding]), (4, "n")]
    types = ["int4", "text"]
    with Router(shared.dsn, kwargs={"client_encoding": encoding}) as router:
        with pytest.raises(ConfigError, match=REFUSED) as caught:
            router.copy_to_table(goods, rows)
        assert caught.value.__notes__ == ["in row 3 of the source"]
        with pytest.raises(ConfigError, match=REFUSED) as caught:
            router.copy_to_table(goods, rows + [(5, "n" * 100)] * 1000)
        assert caught.value.__notes__ == ["in row 3 of the source"]
        assert stored(shared, goods) == []
        router.copy_to_table(goods, rows, format="binary", types=types)
        assert stored(shared, goods) == rows
        got = []
        with pytest.raises(ConfigError, match=REFUSED):
            with router.copy_rows(goods, role="writer") as found:
                for row in found:
                    got.append((*row,))  # noqa: PERF401  (kept when it raises)
        assert got == [("1", "丁"), ("2", None)]
        with router.copy_rows(goods, role="writer", format="binary", types=types) as found:
            assert [(*row,) for row in found] == rows


def test_half_a_character_of_johab_is_no_backslash(shared: LocalCluster, goods: str) -> None:
    with Router(shared.dsn, kwargs={"client_encoding": "JOHAB"}) as router:
        with pytest.raises(ConfigError, match=REFUSED):
            router.copy_to_table(goods, [(1, "乭")])


@pytest.mark.parametrize("encoding", [*BACKSLASHES, "JOHAB"])
def test_other_rows_go_with_encodings_where_half_a_character_may_be_a_backslash(
    shared: LocalCluster, goods: str, encoding: str
) -> None:
    text = "a\tb\\n" if encoding in ("BIG5", "GBK", "GB18030", "SJIS") else "a\tb"  # others have no backslash
    other = {"JOHAB": "n", "SJIS": "ﾁ", "SHIFT_JIS_2004": "ﾁ"}.get(encoding, "丁")
    rows = [("1", text), ("2", None), ("3", f"{other}\n"), ("4", f"{other}{text}")]
    with Router(shared.dsn, kwargs={"client_encoding": encoding}) as router:
        router.copy_to_table(goods, rows)
        with router.copy_rows(goods, role="writer") as found:
            assert [(*row,) for row in found] == rows
    assert stored(shared, goods) == [(int(number), name) for number, name in rows]


@pytest.mark.parametrize("encoding", ["UHC", "EUC_KR"])
def test_other_encodings_of_two_bytes(shared: LocalCluster, goods: str, encoding: str) -> None:
    rows = [("1", "가n\\n")]
    with Router(shared.dsn, kwargs={"client_encoding": encoding}) as router:
        router.copy_to_table(goods, rows)
        with router.copy_rows(goods, role="writer") as found:
            assert [(*row,) for row in found] == rows
    assert stored(shared, goods) == [(1, "가n\\n")]


def test_progress_is_told(shared: LocalCluster, goods: str) -> None:
    told: list[CopyProgress] = []
    rows = [(number, "x" * 100) for number in range(1, 8001)]
    with Router(shared.dsn) as router:
        assert router.copy_to_table(goods, rows, progress=told.append, where="false") == 0
        *before, last = told
        assert last == CopyProgress(bytes=sum(len(f"{n}\t\n") + 100 for n, _ in rows), rows=8000, attempt=1)
        assert len(before) == 3
        assert all(1 < step.rows < 8000 for step in before if step.rows is not None)
        told.clear()
        router.copy_to_table(goods, io.BytesIO(TEXT), progress=told.append)
        assert told == [CopyProgress(bytes=len(TEXT), rows=None, attempt=1)]
        told.clear()
        assert router.copy_from(goods, io.BytesIO(), progress=told.append, role="writer") == 3
        assert told == [CopyProgress(bytes=len(TEXT), rows=3, attempt=1)]


BAD_ITEMS: dict[str, tuple[Any, str]] = {
    "dicts": ([{"id": 1, "name": "a"}], "'dict as row 1'"),
    "texts": (["1\ta"], "'str as row 1'"),
    "numbers": ([1, 2], "'int as row 1'"),
    "a text among rows": ([(1, "a"), "2\tb"], "'str as row 2'"),
    "bytes among rows": ([(1, "a"), b"2\tb\n"], "'bytes as row 2'"),
    "a row among bytes": ([b"1\ta\n", (2, "b")], "'tuple as item 2'"),
}


@pytest.mark.parametrize("kind", BAD_ITEMS)
def test_items_that_are_no_rows_are_refused(shared: LocalCluster, goods: str, kind: str) -> None:
    source, said = BAD_ITEMS[kind]
    with Router(shared.dsn, writer=ONE_CONNECTION) as router:
        pid = router.fetchval("SELECT pg_backend_pid()", role="writer")
        with pytest.raises(
            ConfigError, match=f"invalid source {said}: expected rows that are sequences of values"
        ):
            router.copy_to_table(goods, source)
        assert router.fetchval("SELECT pg_backend_pid()", role="writer") == pid
    assert stored(shared, goods) == []


BAD_DATA: dict[str, tuple[Any, type[Exception]]] = {
    "a row too long": ([(1, "a"), (2, "b", "c")], psycopg.errors.BadCopyFileFormat),
    "a row too short": ([(1, "a"), (2,)], psycopg.errors.BadCopyFileFormat),
    "null bytes in a row": ([(1, "a"), (2, "b\0")], psycopg.DataError),
    "null bytes in a file": (io.BytesIO(b"1\ta\n2\tb\0\n"), psycopg.errors.CharacterNotInRepertoire),
    "a value of another type": ([(1, "a"), ("x", "b")], psycopg.errors.InvalidTextRepresentation),
    "a value out of range": ([(1, "a"), (2**40, "b")], psycopg.errors.NumericValueOutOfRange),
    "a value psycopg does not know": ([(1, "a"), (2, object())], psycopg.ProgrammingError),
    "a value that is checked": ([(1, "a"), (-1, "b")], psycopg.errors.CheckViolation),
    "a value that is there": ([(1, "a"), (1, "b")], psycopg.errors.UniqueViolation),
    "a value that is missing": ([(1, "a"), (None, "b")], psycopg.errors.NotNullViolation),
    "bytes that are no UTF-8": (io.BytesIO(b"1\t\xff\n"), psycopg.errors.CharacterNotInRepertoire),
    "a file that ends early": (io.BytesIO(b"1\ta\n2"), psycopg.errors.BadCopyFileFormat),
}


@pytest.mark.parametrize("kind", BAD_DATA)
def test_data_that_do_not_fit_leave_nothing(shared: LocalCluster, goods: str, kind: str) -> None:
    source, error = BAD_DATA[kind]
    with Router(shared.dsn, writer=ONE_CONNECTION) as router:
        pid = router.fetchval("SELECT pg_backend_pid()", role="writer")
        with pytest.raises(error) as caught:
            router.copy_to_table(goods, source)
        if getattr(caught.value, "sqlstate", None) is None:
            assert "in row 2 of the source" in caught.value.__notes__
        assert router.fetchval("SELECT pg_backend_pid()", role="writer") == pid
    assert stored(shared, goods) == []


def test_violation_that_is_found_at_the_end(shared: LocalCluster, goods: str) -> None:
    shared.nodes[0].execute(
        f"ALTER TABLE {goods} ADD CONSTRAINT {goods}_name UNIQUE (name) DEFERRABLE INITIALLY DEFERRED"
    )
    with Router(shared.dsn) as router:
        with pytest.raises(psycopg.errors.UniqueViolation):
            router.copy_to_table(goods, [(1, "a"), (2, "a")])
        assert router.copy_to_table(goods, [(1, "a"), (2, "b")]) == 2
    assert stored(shared, goods) == [(1, "a"), (2, "b")]


def test_bad_arguments_are_refused_before_anything_is_read(shared: LocalCluster, goods: str) -> None:
    source = iter(ROWS)
    with Router(shared.dsn) as router:
        for arguments in (
            {"role": "both"},
            {"timeout": -1},
            {"once": b"key"},
            {"once": "key", "role": "reader"},
            {"columns": "id"},
            {"where": ""},
            {"format": "json"},
            {"delimeter": ","},
            {"progress": 5},
            {"types": "int4"},
            {"types": [-1]},
            {"where": "\udc80"},
        ):
            with pytest.raises(ConfigError, match=rf"^invalid {next(iter(arguments))} "):
                router.copy_to_table(goods, source, **arguments)
        for bad in (5, b"1", {"id": 1}, "a\0b"):
            with pytest.raises(ConfigError, match=r"^invalid source"):
                router.copy_to_table(goods, bad)  # type: ignore[arg-type]
        for table in ('"goods"', "", None):
            with pytest.raises(ConfigError, match=r"^invalid table"):
                router.copy_to_table(table, source)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match=r"invalid encoding.*text file"):
            router.copy_to_table(goods, io.StringIO(), encoding="UTF8")
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            router.copy_to_table(goods, source, role="reader")
        assert router.copy_to_table(goods, source) == 3, "nothing was taken from it"
        for options in ({"delimiter": ","}, {"format": "csv"}, {"encoding": "UTF8"}):
            with pytest.raises(ConfigError, match="with rows"):
                router.copy_to_table(goods, ROWS, **options)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match=r"'str from its read\(\)'.*opened in binary mode"):
            router.copy_to_table(goods, Talker("1\ta\n"))
        with pytest.raises(ConfigError, match=r"'NoneType from its read\(\)'"):
            router.copy_to_table(goods, Talker(None))
        with pytest.raises(ConfigError, match="expected a function that returns no other"):
            router.copy_to_table(goods, lambda: lambda: ROWS)
    with pytest.raises(RouterClosed):
        router.copy_to_table(goods, ROWS)


class Talker:
    """A file that does not give bytes."""

    def __init__(self, said: Any) -> None:
        self._said = said

    def read(self, size: int) -> Any:
        return self._said


# What happens in the middle.


def test_error_of_the_source_comes_out_and_nothing_is_kept(shared: LocalCluster, goods: str) -> None:
    closed = []

    def failing() -> Iterator[tuple[int, str]]:
        try:
            for number in range(1, 50_000):
                yield number, "x" * 20
            raise ZeroDivisionError("of mine")
        finally:
            closed.append(True)

    with Router(shared.dsn, writer=ONE_CONNECTION) as router:
        pid = router.fetchval("SELECT pg_backend_pid()", role="writer")
        with pytest.raises(ZeroDivisionError, match="of mine") as caught:
            router.copy_to_table(goods, failing())
        assert not hasattr(caught.value, "__notes__")
        assert router.fetchval("SELECT pg_backend_pid()", role="writer") == pid
    assert closed == [True]
    assert stored(shared, goods) == []


def test_retryable_error_of_the_source_is_its_own(shared: LocalCluster, goods: str) -> None:
    error = psycopg.errors.SerializationFailure("of another database")
    tried = []

    def failing() -> Iterator[tuple[int, str]]:
        tried.append(True)
        yield 1, "a"
        raise error

    with Router(shared.dsn) as router:
        router.install()
        for once in (None, f"copy of {goods}"):
            with pytest.raises(psycopg.errors.SerializationFailure) as caught:
                router.copy_to_table(goods, failing, once=once)
            assert caught.value is error
    assert tried == [True, True]
    assert stored(shared, goods) == []


def test_error_of_progress_comes_out_and_nothing_is_kept(shared: LocalCluster, goods: str) -> None:
    def stop(progress: CopyProgress) -> None:
        raise ZeroDivisionError

    with Router(shared.dsn, writer=ONE_CONNECTION) as router:
        for source in (ROWS, io.BytesIO(TEXT)):
            with pytest.raises(ZeroDivisionError):
                router.copy_to_table(goods, source, progress=stop)
        assert router.fetchval("SELECT 1", role="writer") == 1
    assert stored(shared, goods) == []


def test_generator_is_closed_when_the_server_refuses(shared: LocalCluster, goods: str) -> None:
    closed = []

    def rows() -> Iterator[tuple[int, str]]:
        try:
            yield -1, "a"
            yield 2, "b"
        finally:
            closed.append("rows")

    untouched = rows()
    with Router(shared.dsn) as router:
        with pytest.raises(psycopg.errors.CheckViolation):
            router.copy_to_table(goods, rows())
        with pytest.raises(psycopg.errors.UndefinedTable):
            router.copy_to_table("nonsense", untouched)
        assert router.copy_to_table(goods, untouched, where="false") == 0, "nothing was taken"
    assert closed[:2] == ["rows"] * 2


def test_server_that_sends_notices_meanwhile_is_read(shared: LocalCluster, goods: str) -> None:
    shared.nodes[0].execute(f"""
        CREATE FUNCTION {goods}() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN RAISE NOTICE '%', repeat('x', 4000); RETURN NULL; END $$;
        CREATE TRIGGER told BEFORE INSERT ON {goods} FOR EACH ROW EXECUTE FUNCTION {goods}()""")
    try:
        with Router(shared.dsn) as router:
            # psycopg's own copy() and the server wait for each other here for ever.
            rows = ((number, "y" * 3000) for number in range(1, 10_001))
            assert router.copy_to_table(goods, rows) == 0
    finally:
        shared.nodes[0].execute(f"DROP FUNCTION {goods} CASCADE")


def test_refusal_is_noticed_before_the_end_of_the_source(
    shared: LocalCluster, goods: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgroute._sync.copying.wire._DOUBT", 0.2)

    def endless() -> Iterator[bytes]:
        yield b"-1\ta\n"
        while True:
            yield b"1\ta\n" * 20_000

    with Router(shared.dsn, writer=ONE_CONNECTION) as router:
        pid = router.fetchval("SELECT pg_backend_pid()", role="writer")
        with pytest.raises(psycopg.errors.CheckViolation):
            router.copy_to_table(goods, endless())
        assert router.fetchval("SELECT pg_backend_pid()", role="writer") == pid


def resident() -> int:
    """Return the bytes of memory that this process uses."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the memory in use is read from /proc")
def test_memory_does_not_grow_with_the_source(shared: LocalCluster, goods: str) -> None:
    size, count = 64 * 1024, 1000
    most = 0

    def rows() -> Iterator[tuple[int, str]]:
        nonlocal most
        for number in range(1, count + 1):
            yield number, "x" * size
            most = max(most, resident())

    with Router(shared.dsn) as router:
        assert router.copy_to_table(goods, [(1, "x" * size)], where="false") == 0
        before = resident()
        assert router.copy_to_table(goods, rows(), where="false") == 0
        assert most - before < 16 * 2**20, "64 MB were copied"
        most = 0

        def take(data: bytes) -> None:
            nonlocal most
            most = max(most, resident())

        query = f"SELECT repeat('x', {size}) FROM generate_series(1, {count})"
        assert router.copy_from(query, take) == count
        assert most - before < 16 * 2**20


