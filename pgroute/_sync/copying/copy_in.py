# Generated from pgroute/_async/copying/copy_in.py by .ci/unasync.py: edit that file, not this one.
"""COPY FROM: one copy over all of its attempts."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql
from psycopg.pq import ExecStatus

from pgroute._sync.alone import COMMITTED, NOTHING, UNKNOWN
from pgroute._sync.copying.rows import RowWriter
from pgroute._sync.copying.source import Source
from pgroute._sync.copying.wire import Wire
from pgroute._sync.statements import encoding_of
from pgroute.core.copying import (
    BLOCK,
    Kind,
    check_block,
    check_progress,
    check_row_options,
    check_text_options,
    check_types,
    check_where,
)
from pgroute.core.model.copying import CopyProgress
from pgroute.core.sql.copy_statement import copy_in, with_where
from pgroute.errors import ConfigError, SessionLost

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from psycopg.pq.abc import PGresult

    from pgroute._sync.checkout import Checkout

_END = object()


class CopyIn:
    """A copy into a table.

    Args:
        table, source, columns, where, types, progress: as in `copy_to_table`.
        options: of COPY.

    Attributes:
        source: the rows or bytes.
        verdict: what `copy_once` wants to be raised instead of its own error.

    Raises:
        ConfigError: an argument is invalid.
    """

    name = "copy"
    keeps_session = False

    def __init__(
        self,
        table: object,
        source: object,
        columns: object,
        options: dict[str, Any],
        *,
        where: str | sql.Composable | None,
        types: Sequence[str | int] | None,
        progress: Callable[[CopyProgress], object] | None,
    ) -> None:
        self.source = Source(source)
        check_progress(progress)
        check_types(types)
        copy_in(table, columns, options)
        check_where(where)
        if self.source.kind is Kind.TEXT_FILE:
            check_text_options("source", options)
        if types is not None:
            if self.source.kind in (Kind.PATH, Kind.FILE, Kind.TEXT_FILE):
                raise ConfigError(
                    "types", types, "expected None with a file as source; they are of values in rows"
                )
            check_row_options(options)
        self._target = table, columns
        self._options = options
        self._binary = options.get("format") == "binary"
        self._where = where
        self._types = types
        self._progress = progress
        self._attempt = self._told = 0
        self._wire: Wire | None = None
        self._done = False
        self._foreign: BaseException | None = None
        self._failed: psycopg.Error | None = None
        self.verdict: psycopg.Error | None = None

    def run(self, checkout: Checkout[Any]) -> int:
        """Copy, in a transaction of its own; return the number of rows."""
        rows = self.copy(checkout.conn)
        self._done = True
        return rows

    def copy_once(self, conn: psycopg.Connection[Any]) -> int:
        """Copy, as the body of a transaction that is applied once.

        That transaction is run again until its outcome is known. So what is to be raised without another attempt is
        kept as the verdict.

        Raises:
            psycopg.Error: the server's error, or the connection was lost.
            psycopg.Rollback: there is a verdict.
        """
        if why := self.source.why_not_again():
            verdict = self._failed
            if verdict is None or (self._wire is not None and self._wire.conn.closed):
                verdict = SessionLost("the connection was lost, nothing was committed", rerun_safe=True)
                verdict.__cause__ = self._failed
            verdict.add_note(f"pgroute: not run again: {why}")
            self.verdict = verdict
            raise psycopg.Rollback
        self._failed = None
        try:
            return self.copy(conn)
        except psycopg.Error as exc:
            if self.is_own(exc):
                self._failed = exc
                raise
            self.verdict = exc
        raise psycopg.Rollback

    def copy(self, conn: psycopg.Connection[Any]) -> int:
        """Copy, and return the number of rows.

        Raises:
            psycopg.Error: the server's error, or the connection was lost.
            ConfigError: an item of the source is neither a row nor bytes.
            BaseException: the source's own error; nothing was kept.
        """
        self._attempt += 1
        self._wire = None
        self._told = 0
        wire = Wire(conn)
        try:
            self.source.begin()
            statement = self._statement(conn)
            self._wire = wire
            result = wire.begin(statement, direction=ExecStatus.COPY_IN)
            rows = self._send(wire, result)
            self.source.check_end()
            self._tell(rows, end=True)
            count = wire.end()
        except BaseException as exc:
            if exc is not wire.failure:
                self._foreign = exc
            wire.close(exc)
            raise
        wire.close(None)
        return count

    def close(self) -> None:
        """Close what was opened for it, and the generator that is its source."""
        self.source.close()

    def outcome(self) -> str:
        """Return what was committed: nothing before the end of the data was sent."""
        wire = self._wire
        if self._done:
            return COMMITTED
        if wire is None or not wire.ending:
            return NOTHING
        return UNKNOWN if wire.failure is None or wire.conn.closed else NOTHING

    def is_own(self, exc: psycopg.Error) -> bool:
        """Return whether an error is not the source's or that of its values."""
        return exc is not self._foreign

    def why_not_again(self, exc: psycopg.Error) -> str:
        """Return why the source cannot be read again, empty if it can."""
        return self.source.why_not_again()

    def _statement(self, conn: psycopg.Connection[Any]) -> bytes:
        table, columns = self._target
        options = self._options
        if self.source.is_text:
            check_text_options("source", options)
            options = options | {"encoding": "UTF8"}
        statement = copy_in(table, columns, options)
        if self._where is not None:
            where = self._where if isinstance(self._where, str) else self._where.as_string(conn)
            statement = with_where(statement, where)
        return statement.encode(encoding_of(conn))

    def _send(self, wire: Wire, result: PGresult) -> int | None:
        """Send all of the source, and return how many rows that were, None if it is not known."""
        source = self.source
        if source.is_file:
            while block := source.read():
                source.taken += len(block)
                wire.put(block)
                self._tell(None)
            return None
        iterator = source.iterate()
        first = next(iterator, _END)
        if isinstance(first, (bytes, bytearray, memoryview)):
            self._send_block(wire, first)
            for block in iterator:
                self._send_block(wire, block)
            return None
        rows = self._row_writer(wire, result, first)
        try:
            for row in iterator if first is _END else chain((first,), iterator):
                if data := rows.add(row):
                    wire.put(data)
                    self._tell(rows.taken)
        finally:
            source.taken = rows.taken
        wire.put(rows.end())
        return rows.taken

    def _send_block(self, wire: Wire, block: object) -> None:
        self.source.taken += 1
        check_block(block, self.source.taken)
        wire.put(block.tobytes() if isinstance(block, memoryview) else block)  # type: ignore[arg-type]
        self._tell(None)

    def _row_writer(self, wire: Wire, result: PGresult, first: object) -> RowWriter:
        if first is not _END:  # of nothing it is not known whether it would have been rows
            check_row_options(self._options)
        return RowWriter(wire.conn, result, binary=self._binary, types=self._types)

    def _tell(self, rows: int | None, *, end: bool = False) -> None:
        """Tell the user how far the copy is, if that is a good deal farther than before."""
        wire = self._wire
        if self._progress is not None and wire is not None and (end or wire.bytes - self._told >= BLOCK):
            self._told = wire.bytes
            self._progress(CopyProgress(wire.bytes, rows, self._attempt))
