"""What is copied from and to: which kinds there are, which can be begun again, and what a row is."""

from __future__ import annotations

import enum
import io
import os
import re
from collections.abc import (
    AsyncIterable,
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any, Protocol

from psycopg import sql

from pgroute.core.callables import is_coroutine_function
from pgroute.core.sql.copy_statement import is_plain
from pgroute.errors import ConfigError

BLOCK = 256 * 1024
"""Bytes that are read from a file at once."""

_SOURCES = (
    "expected an iterable of rows (sequences of values) or of bytes, a file opened in binary mode, a path, or a "
    "function without arguments that returns one of these"
)
_TARGETS = "expected a path, a file opened in binary mode, or a function of one argument (bytes)"
_ROW = "expected rows that are sequences of values, such as tuples, or nothing but bytes as the server reads them"
_MOST_OID = 2**32 - 1
_FOR_ROWS = ("format", "on_error", "reject_limit", "log_verbosity")
"""Options that apply to rows: what they look like on the way is not the user's business."""

_PAIR = re.compile(rb"[\x80-\xff](.)")
_PAIR_OF_SJIS = re.compile(rb"[\x80-\xa0\xe0-\xff](.)")  # its katakana are single bytes
_SJIS = frozenset({"shift_jis", "shift_jis_2004"})
_PAIRED = _SJIS | {"big5", "gb18030", "gbk", "johab"}
"""Codecs of client encodings with characters whose second byte is a backslash."""


class Kind(enum.Enum):
    """What a source or a target is."""

    PATH = "path"
    FILE = "file"
    TEXT_FILE = "text file"
    ITEMS = "items"
    ASYNC_ITEMS = "async items"
    FUNCTION = "function"


class Readable(Protocol):
    """A file to copy from."""

    def read(self, size: int, /) -> Any:
        """Return at most so many bytes, none at the end."""
        ...


class Writable(Protocol):
    """A file to copy to."""

    def write(self, data: Any, /) -> Any:
        """Write bytes."""
        ...


Path = str | os.PathLike[str]
Items = Iterable[Sequence[Any]] | Iterable[bytes]
AsyncItems = AsyncIterable[Sequence[Any]] | AsyncIterable[bytes]
CopySource = Items | Readable | Path | Callable[[], Any]
AsyncCopySource = AsyncItems | CopySource
CopyTarget = Writable | Path | Callable[[bytes], Any]


def source_kind(source: object, *, asynchronous: bool) -> Kind:
    """Return what a source is.

    Args:
        source: what the user has given.
        asynchronous: it is for an AsyncRouter.

    Raises:
        ConfigError: it is none.
    """
    shown = type(source).__name__
    if isinstance(source, CoroutineType):
        source.close()
        raise ConfigError("source", shown, f"{_SOURCES}; this is what a coroutine function returns: await it")
    if isinstance(source, (bytes, bytearray, memoryview)):
        raise ConfigError("source", shown, f"{_SOURCES}; data as such: io.BytesIO(data)")
    if isinstance(source, (str, os.PathLike)):
        _check_path("source", source)
        return Kind.PATH
    if _is_text(source):
        return Kind.TEXT_FILE
    if callable(getattr(source, "read", None)):
        return Kind.FILE
    if isinstance(source, AsyncIterable) and not isinstance(source, Iterable):
        if not asynchronous:
            raise ConfigError("source", shown, f"{_SOURCES}; one that is asynchronous is for AsyncRouter")
        return Kind.ASYNC_ITEMS
    if isinstance(source, Mapping):
        raise ConfigError("source", shown, f"{_SOURCES}; of a mapping, its .items() or .values()")
    if isinstance(source, Iterable) and not isinstance(source, type):
        return Kind.ITEMS
    if callable(source) and not isinstance(source, type):
        return Kind.FUNCTION
    raise ConfigError("source", shown, _SOURCES)


def target_kind(target: object) -> Kind:
    """Return what a target is.

    Raises:
        ConfigError: it is none.
    """
    if isinstance(target, (str, os.PathLike)):
        _check_path("target", target)
        return Kind.PATH
    if _is_text(target):
        return Kind.TEXT_FILE
    if callable(getattr(target, "write", None)):
        return Kind.FILE
    if callable(target) and not isinstance(target, type):
        return Kind.FUNCTION
    raise ConfigError("target", type(target).__name__, _TARGETS)


def took(target: object, count: object, size: int) -> int:
    """Return how much a target has taken; ConfigError if that is nothing.

    Args:
        target: a file.
        count: what its write() has returned. Another file than a raw one of Python that does not tell has taken all.
        size: what it was given, in bytes or characters.
    """
    if isinstance(count, int) and count > 0:
        return count
    if (count is None or count == 0) and _is_raw(target):
        raise ConfigError(
            "target", f"{count} from its write()", "expected a file that blocks until it takes some"
        )
    return size


def _is_raw(file: object) -> bool:
    """Return whether it is a raw file of Python, also as tempfile wraps it: its write() tells how much it takes."""
    if type(file).__module__ == "tempfile":
        file = getattr(file, "file", file)
    write = getattr(type(file), "write", None)
    return write is io.FileIO.write or getattr(write, "__module__", None) == "socket"


def _check_path(parameter: str, path: str | os.PathLike[str]) -> None:
    """Raise ConfigError for a path that no file can have."""
    try:
        name = os.fsencode(path)
    except UnicodeEncodeError:
        name = b"\0"
    if b"\0" in name:
        raise ConfigError(
            parameter, path, "expected a path without null characters, in the encoding of the system"
        )


def _is_text(file: object) -> bool:
    """Return whether it is a file of text. The wrappers of tempfile and codecs tell it by their encoding."""
    return isinstance(file, io.TextIOBase) or (
        (hasattr(file, "read") or hasattr(file, "write")) and isinstance(getattr(file, "encoding", None), str)
    )


def is_lasting(items: object) -> bool:
    """Return whether an iterable gives the same items each time: a container does, a generator does not."""
    return isinstance(items, Collection) and not isinstance(items, Iterator)


def is_spent(source: object) -> bool:
    """Return whether a source that an attempt has read and closed cannot be read again."""
    return isinstance(source, (GeneratorType, AsyncGeneratorType)) or getattr(source, "closed", False) is True


def check_text_options(parameter: str, options: Mapping[str, object]) -> None:
    """Raise ConfigError for options that do not go with a file of text, in either direction.

    Args:
        parameter: "source" or "target".
        options: as given by the user.
    """
    if options.get("format") == "binary":
        raise ConfigError("format", "binary", f"expected 'text' or 'csv' with a text file as {parameter}")
    if options.get("encoding") is not None:
        raise ConfigError(
            "encoding", options["encoding"], f"expected None with a text file as {parameter}: text has none"
        )


def check_row_options(options: Mapping[str, object]) -> None:
    """Raise ConfigError for options that do not go with rows."""
    for name, value in options.items():
        if name not in _FOR_ROWS and value is not None:
            raise ConfigError(
                name, value, "expected None with rows as source; it describes bytes that are made already"
            )
    if options.get("format") == "csv":
        raise ConfigError("format", "csv", "expected 'text' or 'binary' with rows as source")


def check_row(row: object, number: int) -> type:
    """Return the type of a row; ConfigError if it is no row.

    Args:
        row: an item of the source.
        number: which one, from 1.
    """
    if isinstance(row, (str, bytes, bytearray, memoryview, Mapping)) or not (
        hasattr(row, "__getitem__") and hasattr(row, "__len__")
    ):
        raise ConfigError("source", f"{type(row).__name__} as row {number}", _ROW)
    return type(row)


def has_half_backslashes(codec: str) -> bool:
    """Return whether a client encoding has characters of which half is a backslash."""
    return codec in _PAIRED


def check_halves(codec: str, data: bytes | bytearray, last: int | None = None) -> None:
    """Raise ConfigError if rows in the text format have a character of which half is a backslash.

    psycopg puts a backslash before each byte that is one, the server before each character that is one.

    Args:
        codec: of the client encoding, for which `has_half_backslashes` is true.
        data: rows as they are sent or were received.
        last: the number of the last of them, from 1.
    """
    if data.isascii() or b"\\" not in data:
        return
    for pair in _PAIR_OF_SJIS.finditer(data) if codec in _SJIS else _PAIR.finditer(data):
        if pair[1] == b"\\":
            exc = ConfigError(
                "client_encoding",
                codec,
                "expected another encoding for this row, such as UTF8, or format='binary' with types: half a "
                "character is a backslash",
            )
            if last is not None:
                after = data.count(b"\n", pair.end())  # a row's own are written as letters
                exc.add_note(f"in row {last + 1 - after} of the source")
            raise exc


def check_block(block: object, number: int) -> None:
    """Raise ConfigError if an item among bytes is something else; *number* is which one, from 1."""
    if not isinstance(block, (bytes, bytearray, memoryview)):
        raise ConfigError("source", f"{type(block).__name__} as item {number}", _ROW)


def check_types(types: object) -> None:
    """Raise ConfigError unless the types of columns are None, or names and oids."""
    if types is None:
        return
    good = isinstance(types, Sequence) and not isinstance(types, (str, bytes))
    if not good or not all(isinstance(t, str) or _is_oid(t) for t in types):  # type: ignore[attr-defined]
        raise ConfigError(
            "types", types, "expected a sequence of names of types or oids, one for each column, or None"
        )


def _is_oid(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST_OID


def check_progress(progress: object) -> None:
    """Raise ConfigError unless a function to be told the progress is None, or a plain function."""
    if progress is not None and (not callable(progress) or is_coroutine_function(progress)):
        raise ConfigError(
            "progress", progress, "expected a function of a CopyProgress, no coroutine function, or None"
        )


def check_where(where: object) -> None:
    """Raise ConfigError unless a condition is None, or SQL."""
    if where is not None and not (
        isinstance(where, sql.Composable) or (isinstance(where, str) and where.strip() and is_plain(where))
    ):
        raise ConfigError(
            "where", where, "expected an expression of SQL, as text or as composed by psycopg.sql"
        )
