"""Where a copy puts its bytes, over all of its attempts."""

from __future__ import annotations

import codecs
import os
from contextlib import suppress
from typing import Any

from pgroute._acompat import AsyncDisk, async_settle
from pgroute.core.copying import Kind, target_kind, took
from pgroute.runtime.replacing import ReplacingFile


class AsyncTarget:
    """A target of COPY TO. `open` it, `begin` each attempt, `keep` what the last has written, `close` it.

    Args:
        given: what the user has given.

    Attributes:
        kind: what that is.
        written: bytes that this attempt has written.

    Raises:
        ConfigError: it is no target.
    """

    def __init__(self, given: Any) -> None:
        self.kind = target_kind(given)
        self.written = 0
        self._lasting = False
        self._given = given
        self._start: Any = None
        self._decoder: Any = None
        self._disk = AsyncDisk()
        self._beside = ReplacingFile(given) if self.kind is Kind.PATH else None

    async def open(self) -> None:
        """Open a path, and find out whether what is written can be taken back.

        Raises:
            OSError: the path cannot be written.
        """
        if self._beside is not None:
            await self._disk.do(self._beside.open)
        elif self.kind is not Kind.FUNCTION:
            self._start = await self._end_of_file()

    async def _end_of_file(self) -> Any:
        """Return the position of a user's file if it is the end; None: it cannot go back without a loss."""
        file = self._given
        try:
            if not hasattr(file, "truncate") or not await async_settle(file.seekable()):
                return None
            start = await async_settle(file.tell())
            await async_settle(file.seek(0, os.SEEK_END))
            end = await async_settle(file.tell())
            await async_settle(file.seek(start))
        except (AttributeError, OSError, ValueError):  # ValueError: gzip knows no seek from the end
            return None
        return start if start == end else None

    async def begin(self) -> None:
        """Begin an attempt; what the one before has written is taken back.

        Raises:
            OSError: the file cannot go back.
        """
        self.let_go()
        if self.written:
            await self._take_back()
        if self.kind is Kind.TEXT_FILE:
            self._decoder = codecs.getincrementaldecoder("utf-8")()

    async def write(self, data: bytes) -> None:
        """Write bytes of this attempt.

        Raises:
            OSError: the file cannot be written.
            Exception: the function's own.
        """
        self.written += len(data)
        if self._beside is not None:
            await self._disk.do(self._beside.write, data)
        elif self.kind is Kind.FUNCTION:
            await async_settle(self._given(data))
        else:
            rest: bytes | str = data if self._decoder is None else self._decoder.decode(data)
            while rest:
                rest = rest[took(self._given, await async_settle(self._given.write(rest)), len(rest)) :]

    def why_not_again(self) -> str:
        """Return why there can be no further attempt, empty if there can."""
        if (
            not self.written
            or self._start is not None
            or (self._beside is not None and self._beside.replaces)
        ):
            return ""
        name = type(self._given).__name__
        return f"the target ({name}) has got {self.written} bytes, and cannot give them back"

    async def save(self) -> None:
        """Make what this attempt has written outlast this process, so far as that is known here.

        Raises:
            OSError: it cannot be written.
        """
        if self._beside is not None:
            await self._disk.do(self._beside.save)
        elif hasattr(self._given, "flush"):
            await async_settle(self._given.flush())

    def hold(self) -> None:
        """From now on what this attempt has written may be nowhere else: it is not removed in the end."""
        self._lasting = True
        if self._beside is not None:
            self._beside.lasting = True

    def let_go(self) -> None:
        """Undo `hold`."""
        self._lasting = False
        if self._beside is not None:
            self._beside.lasting = False

    def where(self) -> str:
        """Return the path at which the data are until they are kept; empty: they are in the target itself."""
        return str(self._beside.beside) if self._beside is not None and self._beside.replaces else ""

    async def keep(self) -> None:
        """Keep what this attempt has written: from now on a path leads to it.

        Raises:
            OSError: it cannot be kept.
        """
        self._lasting = True
        if self._beside is not None:
            await self._disk.do(self._beside.keep)

    async def take_back(self) -> None:
        """After the last attempt: take back what a user's file has got, if it can give it back."""
        if self.written and self._start is not None and not self._lasting:
            with suppress(OSError, ValueError):  # ValueError: it was closed
                await self._take_back()

    async def _take_back(self) -> None:
        self.written = 0
        if self._beside is not None:
            await self._disk.do(self._beside.rewind)
        else:
            await async_settle(self._given.seek(self._start))
            await async_settle(self._given.truncate())

    async def close(self) -> None:
        """Close what was opened here; of a path, what was neither kept nor is held is gone."""
        beside = self._beside
        if beside is not None:
            try:
                await self._disk.end(beside.close, must=beside.replaces)
            except BaseException:
                await self._disk.end(beside.close, must=beside.replaces)  # an interrupt may have come halfway
                raise
