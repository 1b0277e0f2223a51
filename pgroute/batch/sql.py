"""The statements of the protocol: the job's row, its plan, the claim on a chunk, the way to the end.

A job is a row of pgroute.batch_job. Each chunk that is planned has a row of pgroute.batch_chunk, marked as done within
the very transaction that applies it, so both are committed or neither is. Rows of done chunks at the beginning are
deleted and counted in the job's watermark: chunks below it are done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from psycopg import pq, sql
from psycopg.adapt import Transformer

if TYPE_CHECKING:
    from psycopg.abc import AdaptContext
    from psycopg.adapt import AdaptersMap

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

# A chunk that is done and was another then, or that is not there now.
DONE_OTHERWISE = b"""
SELECT 1 FROM pgroute.batch_chunk
 WHERE job = %(job)s AND done_at IS NOT NULL
   AND (chunk >= %(chunks)s OR (chunk = %(chunks)s - 1 AND row_count <> %(partial)s))
 UNION ALL
SELECT 1 FROM pgroute.batch_job WHERE job = %(job)s AND watermark >= %(chunks)s AND rows_done <> %(rows)s
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

# Keys are kept as the texts that any session reads alike, whatever its own settings.
PLAIN_TEXTS = b"""
SELECT set_config('datestyle', 'ISO', true), set_config('intervalstyle', 'postgres', true),
       set_config('extra_float_digits', '3', true), set_config('bytea_output', 'hex', true)
"""

# From behind the end, so no other evaluation of the query.
LAST_KEY = b"FETCH BACKWARD 1 FROM pgroute_plan"

CLOSE_PLAN = b"CLOSE pgroute_plan"

PLAN_KEYS = b"""
INSERT INTO pgroute.batch_chunk (job, chunk, after, upto, row_count)
SELECT %s, chunk, after, upto, row_count
  FROM jsonb_to_recordset(%s::jsonb) AS cut (chunk bigint, after text[], upto text[], row_count integer)
"""

COMPLETE_KEYS = b"UPDATE pgroute.batch_job SET complete = true, planned = %s, rows_total = %s WHERE job = %s"


def walk(size: int, steps: int) -> bytes:
    """Return what goes so many chunks further in the plan's cursor: for each a MOVE, and the FETCH of its last key."""
    move = f"MOVE FORWARD {size - 1} FROM pgroute_plan; " if size > 1 else ""
    return (f"{move}FETCH FORWARD 1 FROM pgroute_plan; " * steps).encode()


CLAIM = _CLAIM.format(more="", columns="").encode()
CLAIM_KEYS = _CLAIM.format(more="", columns=", claimed.after, claimed.upto").encode()
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

# Names of types as any session finds them, whatever its search_path.
NO_PATH = b"""
SELECT set_config('pgroute.path', current_setting('search_path'), true), set_config('search_path', '', true)
"""
OLD_PATH = b"SELECT set_config('search_path', current_setting('pgroute.path'), true)"

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
        oids: likewise.
    """

    def __init__(self, keyset: Keyset, types: Sequence[str] = (), oids: Sequence[int] = ()) -> None:
        self._keyset = keyset
        self._oids = oids
        self._types = [kind.replace("%", "%%") for kind in types]
        self._casts = types
        text = keyset.query.rstrip(" \t\r\n;")
        if keyset.params is None:
            text = text.replace("%", "%%")
        # A comment may end the query.
        self._rows = f"(\n{text}\n) AS source"
        self._columns = ", ".join(map(quoted, keyset.keys))
        if types:
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

    def declare(self) -> tuple[bytes, Any]:
        """Return what opens a cursor on all keys in their order."""
        query = f"SELECT {self._columns} FROM {self._rows} ORDER BY {self._columns}"
        return f"DECLARE pgroute_plan SCROLL CURSOR FOR {query}".encode(), self._arguments()

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

    def range(self, context: AdaptContext, after: Sequence[str] | None, upto: Sequence[str]) -> Range:
        """Return the keys of a chunk; *context* has the adapters by which they are read."""
        return Range(self, context.adapters, after, upto)

    def load(self, adapters: AdaptersMap, texts: Sequence[str]) -> Any:
        """Return the value of a key, a tuple of several."""
        # Without the connection, whose DateStyle is not that of these texts.
        transformer = Transformer(adapters)
        values = [
            transformer.get_loader(oid, pq.Format.TEXT).load(text.encode())
            for oid, text in zip(self._oids, texts, strict=True)
        ]
        return values[0] if isinstance(self._keyset.key, str) else tuple(values)

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


class Range:
    """The keys of a chunk, above one and up to another; values are made when they are asked for."""

    def __init__(
        self, statements: KeysetSql, adapters: AdaptersMap, after: Sequence[str] | None, upto: Sequence[str]
    ) -> None:
        self._sql = statements
        self._adapters = adapters
        self._after = after
        self._upto = upto

    @property
    def after(self) -> Any:
        return None if self._after is None else self._sql.load(self._adapters, self._after)

    @property
    def upto(self) -> Any:
        return self._sql.load(self._adapters, self._upto)

    @property
    def where(self) -> sql.SQL:
        return self._sql.where(self._after, self._upto)
