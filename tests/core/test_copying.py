"""What can be copied from and to, what can be begun again, and what is no row."""

from __future__ import annotations

import io
import os
import socket
import tempfile
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from psycopg import sql

from pgroute.core.copying import (
    Kind,
    check_block,
    check_progress,
    check_row,
    check_row_options,
    check_text_options,
    check_types,
    check_where,
    is_lasting,
    source_kind,
    target_kind,
    took,
)
from pgroute.errors import ConfigError


async def async_rows() -> AsyncGenerator[tuple[int], None]:
    yield (1,)


async def coroutine_function() -> list[tuple[int]]:
    return []


class OwnFile:
    def read(self, size: int) -> bytes:
        return b""

    def write(self, data: bytes) -> None: ...


class OwnContainer:
    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[tuple[int]]:
        return iter([(1,)])

    def __contains__(self, row: object) -> bool:
        return False


def name_of(given: object) -> str:
    """Return its repr without the address, which is another one in each process."""
    return repr(given).partition(" at 0x")[0]


SOURCES: list[tuple[Any, Kind]] = [
    ("data.csv", Kind.PATH),
    (Path("data.csv"), Kind.PATH),
    (io.BytesIO(), Kind.FILE),
    (OwnFile(), Kind.FILE),
    (io.StringIO(), Kind.TEXT_FILE),
    ([(1,)], Kind.ITEMS),
    ((), Kind.ITEMS),
    ({(1, 2)}, Kind.ITEMS),
    ((row for row in [(1,)]), Kind.ITEMS),
    ({}.items(), Kind.ITEMS),
    (map(tuple, "ab"), Kind.ITEMS),
    ([].copy, Kind.FUNCTION),
    (partial(list, ()), Kind.FUNCTION),
    (async_rows, Kind.FUNCTION),
    (coroutine_function, Kind.FUNCTION),
]


@pytest.mark.parametrize(("source", "kind"), SOURCES, ids=range(len(SOURCES)))
@pytest.mark.parametrize("asynchronous", [False, True])
def test_kind_of_a_source(source: Any, kind: Kind, asynchronous: bool) -> None:
    assert source_kind(source, asynchronous=asynchronous) is kind


async def test_asynchronous_source_is_for_an_asynchronous_router() -> None:
    rows = async_rows()
    assert source_kind(rows, asynchronous=True) is Kind.ASYNC_ITEMS
    with pytest.raises(ConfigError, match=r"invalid source 'async_generator'.*is for AsyncRouter"):
        source_kind(rows, asynchronous=False)
    await rows.aclose()


@pytest.mark.parametrize(
    ("source", "hint"),
    [
        (b"1\t2", r"io\.BytesIO"),
        (bytearray(b"1"), r"io\.BytesIO"),
        (memoryview(b"1"), r"io\.BytesIO"),
        ({"a": 1}, r"its \.items\(\)"),
        (None, "a path"),
        (5, "a path"),
        (object(), "a path"),
        (list, "a path"),
    ],
    ids=name_of,
)
def test_what_is_no_source_is_refused(source: Any, hint: str) -> None:
    with pytest.raises(ConfigError, match=rf"^invalid source '\w+': expected an iterable of rows.*{hint}"):
        source_kind(source, asynchronous=True)


def test_coroutine_is_refused_and_never_runs() -> None:
    with pytest.raises(ConfigError, match="await it"):
        source_kind(coroutine_function(), asynchronous=True)


TARGETS: list[tuple[Any, Kind]] = [
    ("data.csv", Kind.PATH),
    (Path("data.csv"), Kind.PATH),
    (io.BytesIO(), Kind.FILE),
    (OwnFile(), Kind.FILE),
    (io.StringIO(), Kind.TEXT_FILE),
    ([].append, Kind.FUNCTION),
    (coroutine_function, Kind.FUNCTION),
]


@pytest.mark.parametrize(("target", "kind"), TARGETS, ids=range(len(TARGETS)))
def test_kind_of_a_target(target: Any, kind: Kind) -> None:
    assert target_kind(target) is kind


@pytest.mark.parametrize("target", [None, 5, b"data.csv", [], list], ids=name_of)
def test_what_is_no_target_is_refused(target: Any) -> None:
    with pytest.raises(ConfigError, match=r"^invalid target '\w+': expected a path, a file"):
        target_kind(target)


class Collecting(io.RawIOBase):
    """A file whose write() does not tell how much it takes. Its file is not where the data go."""

    file = io.FileIO(os.devnull)
    file.close()

    def write(self, data: Any) -> Any: ...


class OwnDisk(io.FileIO):
    def write(self, data: Any) -> Any:
        super().write(data)


def test_what_a_target_has_taken() -> None:
    with OwnDisk(os.devnull, "w") as disk:
        for target in (OwnFile(), Collecting(), disk, io.BytesIO()):
            assert took(target, None, 5) == took(target, 0, 5) == 5
            assert took(target, 3, 5) == 3


def test_raw_file_that_has_taken_nothing_is_refused() -> None:
    ours, other = socket.socketpair()
    with (
        ours,
        other,
        ours.makefile("wb", buffering=0) as net,
        io.FileIO(os.devnull, "w") as disk,
        tempfile.NamedTemporaryFile(buffering=0) as wrapped,
    ):
        for target in (net, disk, wrapped):
            assert took(target, 3, 5) == 3
            for count in (None, 0):
                with pytest.raises(ConfigError, match=rf"^invalid target '{count} from its write"):
                    took(target, count, 5)


def test_containers_last_and_iterators_do_not() -> None:
    containers: list[Any] = [[], (), {1}, {}.items(), range(3), deque(), OwnContainer()]
    for lasting in containers:
        assert is_lasting(lasting), lasting
    iterators: list[Iterable[Any]] = [
        iter([]),
        (x for x in ""),
        map(str, []),
        zip((), strict=False),
        enumerate([]),
    ]
    for passing in iterators:
        assert not is_lasting(passing), passing


class OwnRow:
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        return 1


@pytest.mark.parametrize("row", [(), (1,), [1], deque([1]), range(2), OwnRow()], ids=name_of)
def test_row_is_a_sequence(row: Any) -> None:
    assert check_row(row, 1) is type(row)


@pytest.mark.parametrize(
    "row", [{"a": 1}, "ab", b"ab", bytearray(), 5, None, {1}, object(), iter([])], ids=name_of
)
def test_what_is_no_row_is_refused_without_being_shown(row: Any) -> None:
    with pytest.raises(
        ConfigError, match=rf"^invalid source '{type(row).__name__} as row 7': expected rows that"
    ):
        check_row(row, 7)


def test_bytes_stay_bytes() -> None:
    check_block(b"", 1)
    check_block(bytearray(), 1)
    check_block(memoryview(b""), 1)
    for block in ("a", (1,), None):
        with pytest.raises(ConfigError, match="as item 3"):
            check_block(block, 3)


def test_options_that_do_not_go_with_rows() -> None:
    check_row_options({"format": "binary", "on_error": "ignore", "null": None})
    for name in ("delimiter", "null", "header", "encoding", "default"):
        with pytest.raises(ConfigError, match=f"invalid {name} '': expected None with rows"):
            check_row_options({name: ""})
    with pytest.raises(ConfigError, match="expected 'text' or 'binary' with rows"):
        check_row_options({"format": "csv"})


def test_options_that_do_not_go_with_text() -> None:
    check_text_options("source", {"format": "csv", "encoding": None})
    with pytest.raises(ConfigError, match=r"invalid format 'binary'.*text file as target"):
        check_text_options("target", {"format": "binary"})
    with pytest.raises(ConfigError, match=r"invalid encoding 'UTF8'.*text file as source"):
        check_text_options("source", {"encoding": "UTF8"})


def test_types() -> None:
    check_types(None)
    check_types(["int4", 25])
    check_types([0, 2**32 - 1])
    for types in ("int4", [None], {"int4"}, 5, [True], [-1], [2**32], [10**5000]):
        with pytest.raises(ConfigError, match="invalid types"):
            check_types(types)


@pytest.mark.parametrize("path", ["a\0b", Path("a\0b"), "a\ud800"])
def test_a_path_that_no_file_can_have_is_refused(path: Any) -> None:
    with pytest.raises(ConfigError, match="invalid source"):
        source_kind(path, asynchronous=False)
    with pytest.raises(ConfigError, match="invalid target"):
        target_kind(path)
    assert source_kind("a\udcff", asynchronous=False) is target_kind("a\udcff") is Kind.PATH


def test_progress() -> None:
    check_progress(None)
    check_progress(print)
    for progress in (5, coroutine_function):
        with pytest.raises(ConfigError, match="invalid progress"):
            check_progress(progress)


def test_where() -> None:
    for where in (None, "a > 1", sql.SQL("a > {}").format(1)):
        check_where(where)
    for bad in ("", " ", b"a", 5, "a\0", "\udc80"):
        with pytest.raises(ConfigError, match="invalid where"):
            check_where(bad)
