"""A job's rows in the database: begun, planned, compacted and finished, each in a transaction that can be repeated."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg.rows import tuple_row

from pgroute._async.once import MISSING, missing
from pgroute.batch import sql
from pgroute.batch.options import check_columns, check_same
from pgroute.batch.source import Keyset, signature
from pgroute.batch.state import AHEAD, STEPS, Cuts, Job, Standing, gone, held, misread
from pgroute.core.once import lock_timeout
from pgroute.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable  # async-only

    # sync-only: from collections.abc import Callable
    from pgroute._async.router import AsyncRouter
    from pgroute.batch.options import JobOptions

    Cursor = psycopg.AsyncCursor[Any]


T = TypeVar("T")


class AsyncLedger:
    """The rows of one job.

    Args:
        router: leads to the primary.
        options: the job.
    """

    def __init__(self, router: AsyncRouter[Any], options: JobOptions) -> None:
        self._router = router
        self._options = options
        self._name = options.name
        self._begun: int | None = None
        self.sql: sql.KeysetSql

    def check(self, begun: int) -> None:
        """Raise BatchError unless a row is the one that the job was begun with."""
        if begun != self._begun:
            raise gone(self._name)

    async def start(self) -> Standing:
        """Begin the job, or find it begun.

        Raises:
            ConfigError: its tables are not there, its source cannot serve, or it was begun with another one.
        """
        return await self._transact(self._start, "repeatable read", "the row, or a table of the query,")

    async def plan(self, start: int, until: int) -> tuple[Job, set[int]]:
        """Plan items up to chunk *until*; return the job, and which chunks from *start* on are open."""

        async def work(cursor: Cursor) -> tuple[Job, set[int]]:
            job = await self._see(cursor, sql.LOCK_JOB)
            if not job.complete and job.planned < until:
                given = {
                    "job": self._name,
                    "size": self._options.chunk_size,
                    "planned": job.planned,
                    "until": until,
                }
                await cursor.execute(sql.PLAN_ITEMS, given)
            return job, set(await self._open(cursor, start, until, until - start))

        return await self._transact(work)

    async def complete(self, chunks: int, rows: int) -> None:
        """Take note of where the items end.

        Raises:
            BatchError: an earlier run came further.
        """

        async def work(cursor: Cursor) -> None:
            job = await self._see(cursor, sql.LOCK_JOB)
            if job.complete:
                if (job.planned, job.rows_total) != (chunks, rows):
                    raise misread(self._name, f"it gives {rows} items, and gave {job.rows_total}")
                return
            partial = rows - max(0, chunks - 1) * self._options.chunk_size
            given = {"job": self._name, "chunks": chunks, "rows": rows, "partial": partial}
            await cursor.execute(sql.DONE_OTHERWISE, given)
            if job.watermark > chunks or await cursor.fetchone() is not None:
                raise misread(self._name, f"it ends after {rows} items, and more of them are done")
            await cursor.execute(sql.COMPLETE_ITEMS, given)

        await self._transact(work)

    async def open_chunks(self, start: int) -> list[int]:
        """Return open chunks of a Keyset from *start* on, the first ones."""

        async def work(cursor: Cursor) -> list[int]:
            job = await self._see(cursor, sql.SEE_JOB)
            return await self._open(cursor, start, job.planned, AHEAD)

        return await self._transact(work)

    async def compact(self) -> None:
        """Delete the rows of the done chunks at the beginning, unless another copy is at it."""

        async def work(cursor: Cursor) -> None:
            await cursor.execute(sql.LOCK_TO_COMPACT, [self._name])
            if cursor.rowcount:
                await cursor.execute(sql.COMPACT, {"job": self._name})

        await self._transact(work)

    async def finish(self) -> Standing:
        """Finish the job if the database says that all of it is done.

        The COMMIT of it, once the synchronous standby has confirmed it, stands for those of all chunks.
        """

        async def work(cursor: Cursor) -> Standing:
            await self._see(cursor, sql.LOCK_JOB)
            await cursor.execute(sql.COMPACT, {"job": self._name})
            row = await cursor.fetchone()
            assert row is not None
            planned, complete, watermark, rows_total, rows_done = row
            finished = complete and watermark == planned
            if finished:
                await cursor.execute(sql.FINISH, [self._name])
            return await self._standing(
                cursor, (planned, watermark, rows_total, rows_done), finished=finished
            )

        return await self._transact(work)

    async def _transact(
        self,
        work: Callable[[Cursor], Awaitable[T]],  # async-only
        # sync-only: work: Callable[[Cursor], T],
        isolation: str = "read committed",
        locked: str = "the row",
    ) -> T:
        """Run what finds out by itself whether it was committed before, or may be done again."""
        request = self._router._request("writer", isolation=isolation, decidable=True)
        result: Any = None
        async for attempt in self._router._attempts(request, self._options.retry, None):
            async with attempt as conn:
                seconds = attempt.left
                cursor = psycopg.AsyncCursor(conn, row_factory=tuple_row)
                try:
                    await cursor.execute(sql.WAIT_AT_MOST, [lock_timeout(seconds)])
                    result = await work(cursor)
                except psycopg.errors.LockNotAvailable as exc:
                    raise held(self._name, locked, seconds) from exc
        return result  # type: ignore[no-any-return]

    async def _see(self, cursor: Cursor, statement: bytes) -> Job:
        await cursor.execute(statement, [self._name])
        row = await cursor.fetchone()
        if row is None:
            raise gone(self._name)
        self.check(row[0])
        return Job(*row)

    async def _open(self, cursor: Cursor, start: int, until: int, most: int) -> list[int]:
        given = {"job": self._name, "start": start, "until": until, "most": most}
        await cursor.execute(sql.OPEN_CHUNKS, given)
        return [number for (number,) in await cursor.fetchall()]

    async def _start(self, cursor: Cursor) -> Standing:
        row = await self._find(cursor)
        types = await self._types(cursor)
        if row is None:
            await self._create(cursor, types)
            row = await self._find(cursor)
            assert row is not None
        source, chunk_size, self._begun, planned, _, watermark, rows_total, rows_done, finished = row
        check_same(self._options, types, source, chunk_size)
        if finished:
            await cursor.execute(sql.CONFIRM_JOB, [self._name])
        return await self._standing(cursor, (planned, watermark, rows_total, rows_done), finished=finished)

    async def _find(self, cursor: Cursor) -> Any:
        try:
            await cursor.execute(sql.FIND, [self._name])
        except MISSING as exc:
            raise missing("job", self._name, exc) from None
        return await cursor.fetchone()

    async def _types(self, cursor: Cursor) -> list[str]:
        """Return the types of the key columns, and have the statements on them made."""
        keyset = self._options.source
        if not isinstance(keyset, Keyset):
            return []
        await cursor.execute(*sql.KeysetSql(keyset).describe(), prepare=False)
        columns = cursor.description or []
        check_columns(keyset, [column.name for column in columns])
        codes = {column.name: column.type_code for column in columns}
        oids = [codes[name] for name in keyset.keys]
        await cursor.execute(sql.NO_PATH)
        await cursor.execute(sql.TYPES, [oids])
        types = [name for (name,) in await cursor.fetchall()]
        await cursor.execute(sql.OLD_PATH)
        self.sql = sql.KeysetSql(keyset, types, oids)
        return types

    async def _create(self, cursor: Cursor, types: list[str]) -> None:
        name, source, size = self._name, self._options.source, self._options.chunk_size
        if isinstance(source, Keyset):
            await cursor.execute(*self.sql.find_null())
            if await cursor.fetchone() is not None:
                raise ConfigError(
                    "key", source.key, "expected keys that are never NULL; the query gives some"
                )
        await cursor.execute(sql.CREATE, [name, signature(source, types), size])
        if isinstance(source, Keyset):
            await self._cut(cursor)

    async def _cut(self, cursor: Cursor) -> None:
        """Plan all chunks of a Keyset: at every so many rows in the order of the keys, and at the last.

        Rows of equal keys are never cut apart, for a chunk is what is between two keys; where a cut falls among them,
        its chunk has more rows than are counted for it, and the next one fewer.
        """
        size = self._options.chunk_size
        await cursor.execute(sql.PLAIN_TEXTS)
        await cursor.execute(*self.sql.declare())
        cuts = Cuts()
        while not cuts.ended:
            await cursor.execute(sql.walk(size, STEPS))
            while not cuts.ended:
                if size > 1:
                    cuts.moved(cursor.rowcount)
                    cursor.nextset()
                cuts.fetched(_texts(cursor))
                if not cursor.nextset():
                    break
            if chunks := cuts.take():
                await cursor.execute(sql.PLAN_KEYS, [self._name, json.dumps(chunks)])
        if cuts.beyond:
            await cursor.execute(sql.LAST_KEY)
            cuts.last(_texts(cursor))
            if chunks := cuts.take():
                await cursor.execute(sql.PLAN_KEYS, [self._name, json.dumps(chunks)])
        await cursor.execute(sql.CLOSE_PLAN)
        await cursor.execute(sql.COMPLETE_KEYS, [cuts.count, cuts.rows, self._name])

    async def _standing(self, cursor: Cursor, found: tuple[Any, ...], *, finished: bool) -> Standing:
        planned, watermark, rows_total, rows_done = found
        await cursor.execute(sql.DONE, [self._name])
        above, above_rows = await cursor.fetchone() or (0, 0)
        await cursor.execute(sql.REJECTED, [self._name])
        rejected, rejected_rows = await cursor.fetchone() or (0, 0)
        return Standing(
            planned=planned,
            watermark=watermark,
            chunks_done=watermark + above,
            rows_done=rows_done + above_rows,
            rows_total=rows_total,
            rejected=rejected,
            rejected_rows=rejected_rows,
            finished=finished,
        )


def _texts(cursor: Cursor) -> list[str] | None:
    """Return the values of a row as the server wrote them, None if there is none."""
    result = cursor.pgresult
    if result is None or not result.ntuples:
        return None
    encoding = cursor.connection.info.encoding
    return [(result.get_value(0, column) or b"").decode(encoding) for column in range(result.nfields)]
