# Generated from pgroute/_async/copying/source.py by .ci/unasync.py: edit that file, not this one.
"""Where a copy takes its rows or bytes from, over all of its attempts."""

from __future__ import annotations

from pathlib import Path
from types import (
    GeneratorType,
)
from typing import TYPE_CHECKING, Any

from pgroute._acompat import Disk, settle
from pgroute.core.copying import BLOCK, Kind, is_lasting, is_spent, source_kind
from pgroute.errors import ConfigError

if TYPE_CHECKING:
    from psycopg.abc import Buffer

_ASYNCHRONOUS = False


class Source:
    """A source of COPY FROM: `open` it, `begin` each attempt, `close` it.

    Args:
        given: what the user has given.
        owned: nobody but this object can close it.

    Attributes:
        kind: what that is.
        taken: how many items or bytes the last attempt has taken.

    Raises:
        ConfigError: it is no source.
    """

    def __init__(self, given: Any, *, owned: bool = False) -> None:
        self.kind = source_kind(given, asynchronous=_ASYNCHRONOUS)
        self.taken = 0
        self._given = given
        self._owned = owned
        self._file: Any = None if self.kind is Kind.PATH else given
        self._disk: Disk | None = None
        self._start: Any = None
        self._made: Source | None = None
        self._returned: Any = None
        self._used = False
        self._iterator: Any = None

    @property
    def is_text(self) -> bool:
        """Whether this attempt reads a file of text."""
        return (self._made or self).kind is Kind.TEXT_FILE

    @property
    def is_file(self) -> bool:
        """Whether this attempt has to `read`."""
        return (self._made or self).kind in (Kind.PATH, Kind.FILE, Kind.TEXT_FILE)

    def iterate(self) -> Any:
        """Return an iterator of the rows or bytes of this attempt, which is no file."""
        if self._made is not None:
            return self._made.iterate()
        self._iterator = iter(self._given)
        return self._iterator

    def open(self) -> None:
        """Open a path, and find out whether a file can be read again.

        Raises:
            OSError: the path cannot be opened.
        """
        if self.kind is Kind.PATH:
            self._disk = Disk()
            self._disk.do(self._open_path)
        elif self.kind in (Kind.FILE, Kind.TEXT_FILE):
            self._start = self._position()

    def _open_path(self) -> None:
        # Kept here, as nobody receives the result of a call that was cancelled.
        self._file = Path(self._given).open("rb", buffering=0)  # noqa: SIM115
        if self._file.seekable():
            self._start = 0

    def _position(self) -> Any:
        """Return the position of a user's file; None: it cannot go back there."""
        try:
            if settle(self._file.seekable()):
                return settle(self._file.tell())
        except (AttributeError, OSError):
            pass
        return None

    def begin(self) -> None:
        """Begin an attempt, from the start if the one before has taken anything.

        Raises:
            OSError: the file cannot go back, or be opened.
            ConfigError: a function has returned no source.
        """
        again, self.taken = self.taken > 0, 0
        if self.kind is Kind.FUNCTION:
            self._close_made()
            given = settle(self._given())
            self._used = given is self._returned and (self._used or again)
            self._returned = given
            if self._used and is_spent(given):
                raise self._same_again()
            self._made = made = Source(given, owned=True)
            if made.kind is Kind.FUNCTION:
                raise ConfigError("source", "function", "expected a function that returns no other")
            made.open()
        elif again and self._disk is not None:
            self._disk.do(self._file.seek, 0)
        elif again and self.kind in (Kind.FILE, Kind.TEXT_FILE):
            settle(self._file.seek(self._start))

    def check_end(self) -> None:
        """At the end of an attempt's items or bytes: find out whether there was nothing as another had taken all.

        Raises:
            ConfigError: so it was.
        """
        if self._used and not self.taken:
            raise self._same_again()

    def _same_again(self) -> ConfigError:
        return ConfigError(
            "source",
            "function",
            "expected a function that makes a new source for each attempt, or rewinds it, not the same "
            f"{type(self._returned).__name__} at its end; nothing was committed",
        )

    def read(self) -> Buffer:
        """Return bytes of the file, none at its end.

        Raises:
            ConfigError: it does not give bytes.
            OSError: reading failed.
        """
        if self._made is not None:
            return self._made.read()
        file, disk = self._file, self._disk
        data = settle(file.read(BLOCK)) if disk is None else disk.do(file.read, BLOCK)
        if isinstance(data, str) and self.kind is Kind.TEXT_FILE:
            return data.encode()
        if isinstance(data, (bytes, bytearray, memoryview)):
            return data
        raise ConfigError(
            "source",
            f"{type(data).__name__} from its read()",
            "expected a file opened in binary mode, that blocks",
        )

    def why_not_again(self) -> str:
        """Return why there can be no further attempt, empty if there can."""
        if not self.taken or self.kind is Kind.FUNCTION:
            return ""
        if self.kind is Kind.ITEMS and is_lasting(self._given):
            return ""
        if self.kind in (Kind.PATH, Kind.FILE, Kind.TEXT_FILE):
            what = "bytes"
            if self._start is not None:
                return ""
        else:
            what = "items"
        name = type(self._given).__name__
        return f"the source ({name}) can be read only once, and {self.taken} {what} had been taken from it"

    def close(self) -> None:
        """Close what was opened here, and generators."""
        try:
            self._close()
        except BaseException:
            self._close()  # an interrupt may have come halfway
            raise

    def _close(self) -> None:
        try:
            self._close_made()
        finally:
            if self._disk is not None:
                self._disk.end(self._close_file)
                self._disk = None
            elif isinstance(self._iterator, GeneratorType):
                self._iterator.close()
            elif self._owned and self.is_file:
                settle(self._file.close())

    def _close_made(self) -> None:
        if self._made is not None:
            self._made.close()
            self._made = None

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
