"""Where a copy takes its rows or bytes from, over all of its attempts."""

from __future__ import annotations

from pathlib import Path
from types import (
    AsyncGeneratorType,  # async-only
    GeneratorType,
)
from typing import TYPE_CHECKING, Any

from pgroute._acompat import AsyncDisk, async_settle
from pgroute.core.copying import BLOCK, Kind, is_lasting, is_spent, source_kind
from pgroute.errors import ConfigError

if TYPE_CHECKING:
    from psycopg.abc import Buffer

_ASYNCHRONOUS = True  # async-only
# sync-only: _ASYNCHRONOUS = False


class AsyncSource:
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
        self._disk: AsyncDisk | None = None
        self._start: Any = None
        self._made: AsyncSource | None = None
        self._returned: Any = None
        self._used = False
        self._iterator: Any = None

    @property
    def is_text(self) -> bool:
        """Whether this attempt reads a file of text."""
        return (self._made or self).kind is Kind.TEXT_FILE

    # async-only: begin
    @property
    def is_async(self) -> bool:
        """Whether the items of this attempt come asynchronously."""
        return (self._made or self).kind is Kind.ASYNC_ITEMS

    # async-only: end
    @property
    def is_file(self) -> bool:
        """Whether this attempt has to `read`."""
        return (self._made or self).kind in (Kind.PATH, Kind.FILE, Kind.TEXT_FILE)

    def iterate(self) -> Any:
        """Return an iterator of the rows or bytes of this attempt, which is no file."""
        if self._made is not None:
            return self._made.iterate()
        # async-only: begin
        if self.is_async:
            self._iterator = aiter(self._given)
            return self._iterator
        # async-only: end
        self._iterator = iter(self._given)
        return self._iterator

    async def open(self) -> None:
        """Open a path, and find out whether a file can be read again.

        Raises:
            OSError: the path cannot be opened.
        """
        if self.kind is Kind.PATH:
            self._disk = AsyncDisk()
            await self._disk.do(self._open_path)
        elif self.kind in (Kind.FILE, Kind.TEXT_FILE):
            self._start = await self._position()

    def _open_path(self) -> None:
        # Kept here, as nobody receives the result of a call that was cancelled.
        self._file = Path(self._given).open("rb", buffering=0)  # noqa: SIM115
        if self._file.seekable():
            self._start = 0

    async def _position(self) -> Any:
        """Return the position of a user's file; None: it cannot go back there."""
        try:
            if await async_settle(self._file.seekable()):
                return await async_settle(self._file.tell())
        except (AttributeError, OSError):
            pass
        return None

    async def begin(self) -> None:
        """Begin an attempt, from the start if the one before has taken anything.

        Raises:
            OSError: the file cannot go back, or be opened.
            ConfigError: a function has returned no source.
        """
        again, self.taken = self.taken > 0, 0
        if self.kind is Kind.FUNCTION:
            await self._close_made()
            given = await async_settle(self._given())
            self._used = given is self._returned and (self._used or again)
            self._returned = given
            if self._used and is_spent(given):
                raise self._same_again()
            self._made = made = AsyncSource(given, owned=True)
            if made.kind is Kind.FUNCTION:
                raise ConfigError("source", "function", "expected a function that returns no other")
            await made.open()
        elif again and self._disk is not None:
            await self._disk.do(self._file.seek, 0)
        elif again and self.kind in (Kind.FILE, Kind.TEXT_FILE):
            await async_settle(self._file.seek(self._start))

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

    async def read(self) -> Buffer:
        """Return bytes of the file, none at its end.

        Raises:
            ConfigError: it does not give bytes.
            OSError: reading failed.
        """
        if self._made is not None:
            return await self._made.read()
        file, disk = self._file, self._disk
        data = await async_settle(file.read(BLOCK)) if disk is None else await disk.do(file.read, BLOCK)
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

    async def close(self) -> None:
        """Close what was opened here, and generators."""
        try:
            await self._close()
        except BaseException:
            await self._close()  # an interrupt may have come halfway
            raise

    async def _close(self) -> None:
        try:
            await self._close_made()
        finally:
            if self._disk is not None:
                await self._disk.end(self._close_file)
                self._disk = None
            elif isinstance(self._iterator, GeneratorType):
                self._iterator.close()
            # async-only: begin
            elif isinstance(self._iterator, AsyncGeneratorType):
                await self._iterator.aclose()
            # async-only: end
            elif self._owned and self.is_file:
                await async_settle(self._file.close())

    async def _close_made(self) -> None:
        if self._made is not None:
            await self._made.close()
            self._made = None

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
