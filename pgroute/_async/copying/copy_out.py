"""COPY TO: one copy over all of its attempts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql
from psycopg.pq import ExecStatus

from pgroute._async.alone import COMMITTED, NOTHING, UNKNOWN, check_end
from pgroute._async.copying.target import AsyncTarget
from pgroute._async.copying.wire import AsyncWire
from pgroute._async.statements import encoding_of
from pgroute.core.copying import BLOCK, Kind, check_progress, check_text_options
from pgroute.core.faults.classify import one_line
from pgroute.core.model.copying import CopyProgress
from pgroute.core.sql.copy_statement import copy_query_out, copy_table_out, is_table
from pgroute.core.sql.queries import check_query
from pgroute.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgroute._async.checkout import AsyncCheckout


class AsyncExtract:
    """What is copied out: a table or a query, with the options of COPY.

    Args:
        source: the table or query.
        params: the values of the query's placeholders; None: it has none.
        columns: of the table; None: all.
        options: of COPY.

    Attributes:
        may_write: it is a query, which may have data-modifying parts.
        header: the first line is one of names.
        binary: the format is the binary one.

    Raises:
        ConfigError: an argument is invalid.
    """

    def __init__(self, source: Any, params: Any, columns: object, options: dict[str, Any]) -> None:
        self.may_write: bool = not is_table(source)
        self._source = source
        self._params = params
        self._columns = columns
        self._options = options
        if self.may_write:
            self._check_query()
        else:
            copy_table_out(source, columns, options, "query_or_table")
            if params is not None:
                raise ConfigError("params", type(params).__name__, "expected None with a table")
        self.binary: bool = options.get("format") == "binary"
        self.header: bool = bool(options.get("header"))

    def _check_query(self) -> None:
        source = self._source
        blank = isinstance(source, (str, bytes)) and not source.strip()
        if blank or not isinstance(source, (str, bytes, sql.SQL, sql.Composed)):
            shown = source if blank else type(source).__name__
            raise ConfigError(
                "query_or_table", shown, "expected a query, or a table as its name, tuple or Identifier"
            )
        check_query(source, self._params)
        if self._columns is not None:
            raise ConfigError(
                "columns", self._columns, "expected None with a query, which selects its columns itself"
            )
        copy_query_out(self._options)

    def statement(self, conn: psycopg.AsyncConnection[Any], *, text: bool = False) -> bytes:
        """Return the statement for a connection.

        Args:
            conn: whose adapters and encoding are used.
            text: the data are to be UTF-8.

        Raises:
            psycopg.Error: a value cannot be adapted.
        """
        options = self._options | {"encoding": "UTF8"} if text else self._options
        encoding = encoding_of(conn)
        if not self.may_write:
            return copy_table_out(self._source, self._columns, options, "query_or_table").encode(encoding)
        before, after = (part.encode(encoding) for part in copy_query_out(options))
        return before + self._query(conn, encoding).rstrip(b"; \t\r\n") + after

    def _query(self, conn: psycopg.AsyncConnection[Any], encoding: str) -> bytes:
        source = self._source
        if self._params is not None:
            return psycopg.AsyncClientCursor(conn).mogrify(source, self._params).encode(encoding)
        if isinstance(source, bytes):
            return source
        return source.encode(encoding) if isinstance(source, str) else source.as_bytes(conn)


class AsyncCopyOut:
    """A copy of a table or query to a target.

    Args:
        extract: what is copied.
        target, progress: as in `copy_from`.

    Raises:
        ConfigError: an argument is invalid.
    """

    name = "copy"
    keeps_session = False

    def __init__(
        self,
        extract: AsyncExtract,
        target: object,
        options: dict[str, Any],
        progress: Callable[[CopyProgress], object] | None,
    ) -> None:
        self.target = AsyncTarget(target)
        check_progress(progress)
        if self.target.kind is Kind.TEXT_FILE:
            check_text_options("target", options)
        self._extract = extract
        self._progress = progress
        self._in_block = False
        self._attempt = 0
        self._wire: AsyncWire | None = None
        self._done = False
        self._foreign: BaseException | None = None

    async def run(self, checkout: AsyncCheckout[Any]) -> int:
        """Copy, in a transaction of its own; return the number of rows.

        Raises:
            psycopg.Error: the server's error, or the connection was lost.
            BaseException: the target's own error.
        """
        self._attempt += 1
        self._wire = wire = AsyncWire(checkout.conn)
        # What a query has removed must not be gone before the target has it.
        self._in_block = self._extract.may_write and not checkout.lease.read_only
        try:
            try:
                rows = await self._copy(wire)
            except BaseException as exc:
                if exc is not wire.failure:
                    self._foreign = exc
                await wire.close(exc)
                raise
            check_end(checkout)
            self._done = True
            await self.target.keep()
        except BaseException as exc:
            if self.outcome() is NOTHING:
                self.target.let_go()
            else:
                await self._keep_anyway(exc)
            raise
        return rows

    async def _copy(self, wire: AsyncWire) -> int:
        target = self.target
        await target.begin()
        statement = self._extract.statement(wire.conn, text=target.kind is Kind.TEXT_FILE)
        await wire.begin(statement, direction=ExecStatus.COPY_OUT, block=self._in_block)
        rows = await self._receive(wire)
        if self._in_block:
            await target.save()
            target.hold()
            await wire.commit()
        return rows

    async def _keep_anyway(self, exc: BaseException) -> None:
        """Keep the data, which are all there: if it was committed, they may be nowhere else."""
        target = self.target
        try:
            await target.keep()
        except OSError as failure:
            exc.add_note(f"the rows are in {target.where()}: {one_line(str(failure))}")
        except BaseException as failure:
            failure.add_note(f"the rows are in {target.where()} if they are not in the target")
            raise

    async def _receive(self, wire: AsyncWire) -> int:
        rows, told = -1 if self._extract.header else 0, 0
        while True:
            data = bytearray()
            items, total = await wire.receive(data.extend)
            if data:
                rows += items
                await self.target.write(bytes(data))
            end = total is not None
            if self._progress is not None and (end or wire.bytes - told >= BLOCK):
                told = wire.bytes
                self._progress(CopyProgress(told, total if end else max(0, rows), self._attempt))
            if total is not None:
                return total

    def outcome(self) -> str:
        """Return what was committed: nothing before COMMIT was sent."""
        wire = self._wire
        if not self._in_block or wire is None or not wire.ending:
            return NOTHING
        if self._done:
            return COMMITTED
        return UNKNOWN if wire.failure is None or wire.conn.closed else NOTHING

    def is_own(self, exc: psycopg.Error) -> bool:
        """Return whether an error is not the target's, or that of a parameter."""
        return exc is not self._foreign

    def why_not_again(self, exc: psycopg.Error) -> str:
        """Return why the target cannot be written again, empty if it can."""
        return self.target.why_not_again()
