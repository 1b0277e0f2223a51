"""The statements of the protocol: the job's row, its plan, the claim on a chunk, the way to the end.

A job is a row of pgroute.batch_job. Each chunk that is planned has a row of pgroute.batch_chunk, marked as done within
the very transaction that applies it, so both are committed or neither is. Rows of done chunks at the beginning are
deleted and counted in the job's watermark: chunks below it are done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from psycopg import sql

if TYPE_CHECKING:
    from pgroute.batch.source import Keyset

# As a number: psycopg does not read a timestamptz in every DateStyle.
_BEGUN = b"(extract(epoch FROM started_at) * 1000000)::bigint"

FIND = (
    b"""
SELECT source, chunk_size, %s, planned, complete, watermark, rows_total, rows_done, finished_at IS NOT NULL
  FROM pgroute.batch_job WHERE job = %%s
"""
    % _BEGUN
)

# What was found may be on this server alone yet: only a COMMIT that has written waits for the synchronous standby.
CONFIRM_JOB = b"UPDATE pgroute.batch_job SET watermark = watermark WHERE job = %s"

CREATE = b"""
INSERT INTO pgroute.batch_job (job, source, chunk_size) VALUES (%s, %s, %s)
ON CONFLICT (job) DO NOTHING
"""

DONE = b"""
SELECT count(*), coalesce(sum(row_count), 0)::bigint FROM pgroute.batch_chunk WHERE job = %s AND done_at IS NOT NULL
"""

REJECTED = b"""
SELECT count(*), coalesce(sum(row_count), 0)::bigint FROM pgroute.batch_reject WHERE job = %s
"""

WAIT_AT_MOST = b"SELECT set_config('lock_timeout', %s, true)"

SEE_JOB = (
    b"SELECT %s, planned, complete, watermark, rows_total FROM pgroute.batch_job WHERE job = %%s" % _BEGUN
)

LOCK_JOB = SEE_JOB + b" FOR NO KEY UPDATE"

PLAN_ITEMS = b"""
WITH planned AS (
    INSERT INTO pgroute.batch_chunk (job, chunk, row_count)
    SELECT %(job)s, number, %(size)s FROM generate_series(%(planned)s::bigint, %(until)s::bigint - 1) AS number
)
UPDATE pgroute.batch_job SET planned = %(until)s WHERE job = %(job)s
"""

# Blocks are planned before it is known where the items end.
COMPLETE_ITEMS = b"""
WITH beyond AS (DELETE FROM pgroute.batch_chunk WHERE job = %(job)s AND chunk >= %(chunks)s)
UPDATE pgroute.batch_job SET planned = %(chunks)s, complete = true, rows_total = %(rows)s WHERE job = %(job)s
"""

DONE_BEYOND = b"""
SELECT 1 FROM pgroute.batch_chunk
 WHERE job = %(job)s AND chunk >= %(chunks)s AND done_at IS NOT NULL LIMIT 1
"""

OPEN_CHUNKS = b"""
SELECT chunk FROM pgroute.batch_chunk
 WHERE job = %(job)s AND chunk >= %(start)s AND chunk < %(until)s AND done_at IS NULL ORDER BY chunk LIMIT %(most)s
"""

# One statement, so one round trip: the wait for another copy of the job is bounded, the body is not. Where no row is
# found, the bound stays until the transaction's end, which is near then.
_CLAIM = """
UPDATE pgroute.batch_chunk AS claimed SET done_at = clock_timestamp(){more}
  FROM (SELECT set_config('pgroute.lock_timeout', current_setting('lock_timeout'), true) AS had) AS aside,
       LATERAL (SELECT set_config('lock_timeout', %(wait)s, true) AS has WHERE aside.had IS NOT NULL) AS bound
 WHERE claimed.job = %(job)s AND claimed.chunk = %(chunk)s AND claimed.done_at IS NULL AND bound.has IS NOT NULL
RETURNING set_config('lock_timeout', current_setting('pgroute.lock_timeout'), true), claimed.row_count{columns}
"""

CLAIM = _CLAIM.format(more="", columns="").encode()
CLAIM_ITEMS = _CLAIM.format(more=", row_count = %(rows)s", columns="").encode()

LOOK = (
    b"""
SELECT %s, planned, complete, watermark, rows_total, chunk IS NOT NULL, done_at IS NOT NULL, row_count
  FROM pgroute.batch_job LEFT JOIN pgroute.batch_chunk ON batch_chunk.job = batch_job.job AND chunk = %%s
 WHERE batch_job.job = %%s
"""
    % _BEGUN
)

CONFIRM_CHUNK = b"UPDATE pgroute.batch_chunk SET done_at = done_at WHERE job = %s AND chunk = %s"

REJECT = b"""
INSERT INTO pgroute.batch_reject (job, chunk, after, upto, row_count, sqlstate, error)
SELECT job, chunk, after, upto, row_count, %s, %s FROM pgroute.batch_chunk WHERE job = %s AND chunk = %s
ON CONFLICT (job, chunk) DO NOTHING
"""

# Nothing depends on when it becomes durable: it is done again if it was lost.
LOCK_TO_COMPACT = b"""
SELECT set_config('synchronous_commit', 'off', true) FROM pgroute.batch_job WHERE job = %s
   FOR NO KEY UPDATE SKIP LOCKED
"""

COMPACT = b"""
WITH first AS (
    SELECT coalesce(
        (SELECT chunk FROM pgroute.batch_chunk WHERE job = %(job)s AND done_at IS NULL ORDER BY chunk LIMIT 1), planned
    ) AS open FROM pgroute.batch_job WHERE job = %(job)s
), gone AS (
    DELETE FROM pgroute.batch_chunk USING first WHERE job = %(job)s AND chunk < open RETURNING row_count
)
UPDATE pgroute.batch_job
   SET watermark = open, rows_done = rows_done + (SELECT coalesce(sum(row_count), 0) FROM gone)
  FROM first WHERE job = %(job)s
RETURNING planned, complete, watermark, rows_total, rows_done
"""

FINISH = b"""
UPDATE pgroute.batch_job SET finished_at = coalesce(finished_at, clock_timestamp()) WHERE job = %s
"""

TYPES = b"SELECT format_type(oid, -1) FROM unnest(%s::oid[]) WITH ORDINALITY AS given (oid, n) ORDER BY n"
"""Of a typmod, -1: with none at all, `character` would come back, which is a single one in a cast."""


def quoted(name: str) -> str:
    """Return an identifier for a statement with placeholders or without, where a per cent sign would be one."""
    name = name.replace('"', '""')
    if "%" not in name:
        return f'"{name}"'
    return 'U&"' + name.replace("\\", "\\\\").replace("%", "\\0025") + '"'


def literal(text: str) -> str:
    """Return a string constant, likewise without a per cent sign."""
    escaped = text.replace("\\", "\\\\").replace("'", "''").replace("%", "\\x25")
    return f"E'{escaped}'"


class KeysetSql:
    """The statements on the rows of a Keyset, in which its query is a subquery, its parameters ahead of ours.

    Args:
        keyset: the source.
        types: those of the key columns, once known.
    """

    def __init__(self, keyset: Keyset, types: Sequence[str] = ()) -> None:
        self._keyset = keyset
        self._types = [kind.replace("%", "%%") for kind in types]
        self._casts = types
        text = keyset.query.rstrip(" \t\r\n;")
        if keyset.params is None:
            text = text.replace("%", "%%")
        # A comment may end the query.
        self._rows = f"(\n{text}\n) AS source"
        self._columns = ", ".join(map(quoted, keyset.keys))
        if types:
            self.claim = _CLAIM.format(more="", columns=self._bounds()).encode()
            self._first, self._later = self._fetch(after=False), self._fetch(after=True)

    def _mark(self, number: int) -> str:
        return f"%(pgroute_{number})s" if isinstance(self._keyset.params, Mapping) else "%s"

    def _arguments(self, *ours: object) -> Any:
        params = self._keyset.params
        if isinstance(params, Mapping):
            return {**params, **{f"pgroute_{number}": value for number, value in enumerate(ours)}}
        return [*(params or ()), *ours]

    def describe(self) -> tuple[bytes, Any]:
        """Return what gives the columns of the query, and no row."""
        return f"SELECT * FROM {self._rows} LIMIT 0".encode(), self._arguments()

    def find_null(self) -> tuple[bytes, Any]:
        """Return what gives a row if a key is NULL."""
        test = " OR ".join(f"{quoted(name)} IS NULL" for name in self._keyset.keys)
        return f"SELECT 1 FROM {self._rows} WHERE {test} LIMIT 1".encode(), self._arguments()

    def plan(self, job: str, size: int) -> tuple[bytes, Any]:
        """Return what cuts all rows into chunks, at every so many rows and at the last.

        Rows of equal keys are never cut apart, for a chunk is what is between two keys; where a cut falls among them,
        the chunk has more rows than are counted for it, and the next one fewer.
        """
        last = ", ".join(f"{quoted(name)} DESC" for name in self._keyset.keys)
        texts = ", ".join(f"to_jsonb({quoted(name)}) #>> '{{}}'" for name in self._keyset.keys)
        statement = f"""
            WITH pgroute_cut AS (
                SELECT {self._columns}, pgroute_number
                  FROM (SELECT {self._columns}, row_number() OVER (ORDER BY {self._columns}) AS pgroute_number
                          FROM {self._rows}) AS numbered
                 WHERE pgroute_number %% {self._mark(0)}::bigint = 0
                 UNION ALL
                (SELECT {self._columns}, (SELECT count(*) FROM {self._rows}) FROM {self._rows} ORDER BY {last} LIMIT 1)
            ), bound AS (
                SELECT DISTINCT ON ({self._columns}) pgroute_number AS count, ARRAY[{texts}]::text[] AS upto
                  FROM pgroute_cut ORDER BY {self._columns}, pgroute_number DESC
            ), planned AS (
                INSERT INTO pgroute.batch_chunk (job, chunk, after, upto, row_count)
                SELECT {self._mark(1)}::text, row_number() OVER bounds - 1, lag(upto) OVER bounds, upto,
                       count - coalesce(lag(count) OVER bounds, 0)
                  FROM bound WINDOW bounds AS (ORDER BY count)
                RETURNING row_count
            )
            UPDATE pgroute.batch_job SET complete = true, planned = counted.chunks, rows_total = counted.rows
              FROM (SELECT count(*) AS chunks, coalesce(sum(row_count), 0) AS rows FROM planned) AS counted
             WHERE job = {self._mark(2)}
        """
        params = self._keyset.params
        if isinstance(params, Mapping):
            return statement.encode(), self._arguments(size, job, job)
        theirs = params or ()
        return statement.encode(), [*theirs, size, *theirs, *theirs, job, job]

    def _bounds(self) -> str:
        values = [
            f"claimed.{bound}[{place}]::{kind}"
            for bound in ("after", "upto")
            for place, kind in enumerate(self._types, 1)
        ]
        return ", ".join(["", "claimed.after", "claimed.upto", *values])

    def _fetch(self, *, after: bool) -> bytes:
        width = len(self._types)
        marks = [f"{self._mark(n)}::{self._types[n % width]}" for n in range(2 * width)]
        upper = marks[width:] if after else marks[:width]
        test = f"({self._columns}) <= ({', '.join(upper)})"
        if after:
            test = f"({self._columns}) > ({', '.join(marks[:width])}) AND {test}"
        return f"SELECT * FROM {self._rows} WHERE {test} ORDER BY {self._columns}".encode()

    def fetch(self, after: Sequence[str] | None, upto: Sequence[str]) -> tuple[bytes, Any]:
        """Return what gives the rows of a chunk."""
        if after is None:
            return self._first, self._arguments(*upto)
        return self._later, self._arguments(*after, *upto)

    def where(self, after: Sequence[str] | None, upto: Sequence[str]) -> sql.SQL:
        """Return the condition that a row is in a chunk, as it can stand in a statement of the user's."""
        tests = [
            f"({self._columns}) {sign} ({', '.join(self._constants(bound))})"
            for sign, bound in ((">", after), ("<=", upto))
            if bound is not None
        ]
        return sql.SQL(f"({' AND '.join(tests)})")

    def _constants(self, bound: Sequence[str]) -> list[str]:
        return [f"{literal(text)}::{kind}" for text, kind in zip(bound, self._casts, strict=True)]
