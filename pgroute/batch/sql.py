"""The statements of the protocol: the job's row, its plan, the claim on a chunk, the way to the end.

A job is a row of pgroute.batch_job. Each chunk that is planned has a row of pgroute.batch_chunk, marked as done within
the very transaction that applies it, so both are committed or neither is. Rows of done chunks at the beginning are
deleted and counted in the job's watermark: chunks below it are done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from psycopg import pq, sql
from psycopg.adapt import Transformer

from pgroute.core.sql.statements import qualify

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psycopg.abc import AdaptContext
    from psycopg.adapt import AdaptersMap

    from pgroute.batch.source import Keyset

# As a number, which no DateStyle changes.
_BEGUN = "(extract(epoch FROM started_at) `*` 1000000)::bigint"

FIND = qualify(f"""
SELECT source, chunk_size, {_BEGUN}, planned, complete, watermark, rows_total, rows_done, finished_at IS NOT NULL
  FROM %(schema)s.batch_job WHERE job `=` %(job)s
""")

# What was found may be on this server alone yet: only a COMMIT that has written waits for the synchronous standby.
CONFIRM_JOB = qualify("UPDATE %(schema)s.batch_job SET watermark = watermark WHERE job `=` %(job)s")

CREATE = b"""
INSERT INTO %(schema)s.batch_job (job, source, chunk_size) VALUES (%(job)s, %(source)s, %(size)s)
ON CONFLICT (job) DO NOTHING
"""

DONE = qualify("""
SELECT pg_catalog.count(*), coalesce(pg_catalog.sum(row_count), 0)::bigint
  FROM %(schema)s.batch_chunk WHERE job `=` %(job)s AND done_at IS NOT NULL
""")

REJECTED = qualify("""
SELECT pg_catalog.count(*), coalesce(pg_catalog.sum(row_count), 0)::bigint
  FROM %(schema)s.batch_reject WHERE job `=` %(job)s
""")

WAIT_AT_MOST = b"SELECT pg_catalog.set_config('lock_timeout', %(wait)s, true)"

SEE_JOB = qualify(
    f"SELECT {_BEGUN}, planned, complete, watermark, rows_total FROM %(schema)s.batch_job WHERE job `=` %(job)s"
)

LOCK_JOB = SEE_JOB + b" FOR NO KEY UPDATE"

PLAN_ITEMS = qualify("""
WITH planned AS (
    INSERT INTO %(schema)s.batch_chunk (job, chunk, row_count)
    SELECT %(job)s, number, %(size)s
      FROM pg_catalog.generate_series(%(planned)s::bigint, %(until)s::bigint `-` 1) AS number
)
UPDATE %(schema)s.batch_job SET planned = %(until)s WHERE job `=` %(job)s
""")

# Blocks are planned before it is known where the items end.
COMPLETE_ITEMS = qualify("""
WITH beyond AS (DELETE FROM %(schema)s.batch_chunk WHERE job `=` %(job)s AND chunk `>=` %(chunks)s)
UPDATE %(schema)s.batch_job SET planned = %(chunks)s, complete = true, rows_total = %(rows)s WHERE job `=` %(job)s
""")

# A chunk that is done and was another then, or that is not there now.
DONE_OTHERWISE = qualify("""
SELECT 1 FROM %(schema)s.batch_chunk
 WHERE job `=` %(job)s AND done_at IS NOT NULL
   AND (chunk `>=` %(chunks)s OR (chunk `=` (%(chunks)s `-` 1) AND row_count `<>` %(partial)s))
 UNION ALL
SELECT 1 FROM %(schema)s.batch_job
 WHERE job `=` %(job)s AND watermark `>=` %(chunks)s AND rows_done `<>` %(rows)s
""")

OPEN_CHUNKS = qualify("""
SELECT chunk FROM %(schema)s.batch_chunk
 WHERE job `=` %(job)s AND chunk `>=` %(start)s AND chunk `<` %(until)s AND done_at IS NULL
 ORDER BY chunk LIMIT %(most)s
""")

# One statement, so one round trip: the wait for another copy of the job is bounded, the body is not. Where no row is
# found, the bound stays until the transaction's end, which is near then.
_CLAIM = """
UPDATE %(schema)s.batch_chunk AS claimed SET done_at = pg_catalog.clock_timestamp(){more}
  FROM (SELECT pg_catalog.set_config('pgroute.lock_timeout', pg_catalog.current_setting('lock_timeout'), true) AS had
       ) AS aside,
       LATERAL (SELECT pg_catalog.set_config('lock_timeout', %(wait)s, true) AS has WHERE aside.had IS NOT NULL
       ) AS bound
 WHERE claimed.job `=` %(job)s AND claimed.chunk `=` %(chunk)s AND claimed.done_at IS NULL AND bound.has IS NOT NULL
RETURNING pg_catalog.set_config('lock_timeout', pg_catalog.current_setting('pgroute.lock_timeout'), true),
          claimed.row_count{columns}
"""

# Keys are kept as the texts that any session reads alike, whatever its own settings.
PLAIN_TEXTS = b"""
SELECT pg_catalog.set_config('datestyle', 'ISO', true), pg_catalog.set_config('intervalstyle', 'postgres', true),
       pg_catalog.set_config('extra_float_digits', '3', true), pg_catalog.set_config('bytea_output', 'hex', true)
"""

# From behind the end, so no other evaluation of the query.
LAST_KEY = b"FETCH BACKWARD 1 FROM pgroute_plan"

CLOSE_PLAN = b"CLOSE pgroute_plan"

PLAN_KEYS = b"""
INSERT INTO %(schema)s.batch_chunk (job, chunk, after, upto, row_count)
SELECT %(job)s, chunk, after, upto, row_count
  FROM pg_catalog.jsonb_to_recordset(%(chunks)s::pg_catalog.jsonb)
    AS cut (chunk bigint, after pg_catalog.text[], upto pg_catalog.text[], row_count integer)
"""

COMPLETE_KEYS = qualify("""
UPDATE %(schema)s.batch_job SET complete = true, planned = %(chunks)s, rows_total = %(rows)s WHERE job `=` %(job)s
""")


def walk(size: int, steps: int) -> bytes:
    """Return what goes so many chunks further in the plan's cursor: for each a MOVE, and the FETCH of its last key."""
    move = f"MOVE FORWARD {size - 1} FROM pgroute_plan; " if size > 1 else ""
    return (f"{move}FETCH FORWARD 1 FROM pgroute_plan; " * steps).encode()


CLAIM = qualify(_CLAIM.format(more="", columns=""))
CLAIM_KEYS = qualify(
    _CLAIM.format(more="", columns=", pg_catalog.to_json(claimed.after), pg_catalog.to_json(claimed.upto)")
)
CLAIM_ITEMS = qualify(_CLAIM.format(more=", row_count = %(rows)s", columns=""))

LOOK = qualify(f"""
SELECT {_BEGUN}, planned, complete, watermark, rows_total, chunk IS NOT NULL, done_at IS NOT NULL, row_count
  FROM %(schema)s.batch_job
  LEFT JOIN %(schema)s.batch_chunk ON batch_chunk.job `=` batch_job.job AND chunk `=` %(chunk)s
 WHERE batch_job.job `=` %(job)s
""")

CONFIRM_CHUNK = qualify("""
UPDATE %(schema)s.batch_chunk SET done_at = done_at WHERE job `=` %(job)s AND chunk `=` %(chunk)s
""")

REJECT = qualify("""
INSERT INTO %(schema)s.batch_reject (job, chunk, after, upto, row_count, sqlstate, error)
SELECT job, chunk, after, upto, row_count, %(state)s, %(error)s
  FROM %(schema)s.batch_chunk WHERE job `=` %(job)s AND chunk `=` %(chunk)s
ON CONFLICT (job, chunk) DO NOTHING
""")

# Nothing depends on when it becomes durable: it is done again if it was lost.
LOCK_TO_COMPACT = qualify("""
SELECT pg_catalog.set_config('synchronous_commit', 'off', true) FROM %(schema)s.batch_job WHERE job `=` %(job)s
   FOR NO KEY UPDATE SKIP LOCKED
""")

COMPACT = qualify("""
WITH first AS (
    SELECT coalesce(
        (SELECT chunk FROM %(schema)s.batch_chunk WHERE job `=` %(job)s AND done_at IS NULL ORDER BY chunk LIMIT 1),
        planned
    ) AS open FROM %(schema)s.batch_job WHERE job `=` %(job)s
), gone AS (
    DELETE FROM %(schema)s.batch_chunk USING first WHERE job `=` %(job)s AND chunk `<` open RETURNING row_count
)
UPDATE %(schema)s.batch_job
   SET watermark = open, rows_done = rows_done `+` (SELECT coalesce(pg_catalog.sum(row_count), 0) FROM gone)
  FROM first WHERE job `=` %(job)s
RETURNING planned, complete, watermark, rows_total, rows_done
""")

FINISH = qualify("""
UPDATE %(schema)s.batch_job SET finished_at = coalesce(finished_at, pg_catalog.clock_timestamp()) WHERE job `=` %(job)s
""")

# Names of types as any session finds them, whatever its search_path: ahead of TYPES, and after it.
NO_PATH = b"""
SELECT pg_catalog.set_config('pgroute.path', pg_catalog.current_setting('search_path'), true),
       pg_catalog.set_config('search_path', '', true)
"""
OLD_PATH = b"SELECT pg_catalog.set_config('search_path', pg_catalog.current_setting('pgroute.path'), true)"

TYPES = qualify("""
SELECT pg_catalog.format_type(given.oid, -1), nspname, typname, (
    WITH RECURSIVE based (oid, base) AS (
        SELECT oid, typbasetype FROM pg_catalog.pg_type WHERE oid `=` given.oid
         UNION ALL
        SELECT type.oid, typbasetype FROM pg_catalog.pg_type AS type, based WHERE type.oid `=` based.base
    )
    SELECT nspname
      FROM based, pg_catalog.pg_opclass, pg_catalog.pg_am AS method, pg_catalog.pg_amop, pg_catalog.pg_operator AS sign,
           pg_catalog.pg_namespace AS home
     WHERE opcintype `=` based.oid AND opcdefault AND opcmethod `=` method.oid AND amname `=` 'btree'
       AND amopfamily `=` opcfamily AND amoplefttype `=` opcintype AND amoprighttype `=` opcintype
       AND amopstrategy `=` 5 AND amopopr `=` sign.oid AND oprnamespace `=` home.oid
     LIMIT 1)
  FROM pg_catalog.unnest(%(oids)s::pg_catalog.oid[]) WITH ORDINALITY AS given (oid, n),
       pg_catalog.pg_type AS type, pg_catalog.pg_namespace AS home
 WHERE type.oid `=` given.oid AND typnamespace `=` home.oid
 ORDER BY n
""")
"""Of each key: its type for people, and as the job knows it again (of a typmod, -1: with none at all, `character` would
come back); schema and name of its type; the schema of the operator `>` by which an index on it is in order (strategy
5), NULL where the type has none of its own."""


class Key(NamedTuple):
    """What is known of a key column.

    Attributes:
        type: for people.
        oid: of its type.
        cast: its type in a statement.
        home: the schema of its operators.
    """

    type: str
    oid: int
    cast: str
    home: str


def quoted(name: str) -> str:
    """Return an identifier for a statement with placeholders or without, where a per cent sign would be one."""
    name = name.replace('"', '""')
    if "%" not in name:
        return f'"{name}"'
    return 'U&"' + name.replace("\\", "\\\\").replace("%", "\\0025") + '"'


def literal(text: str, *, raw: bool = False) -> str:
    """Return a string constant, likewise without a per cent sign; *raw*: what is not ASCII as bytes, for SQL_ASCII."""
    escaped = text.replace("\\", "\\\\").replace("'", "''").replace("%", "\\x25")
    if raw:
        data = escaped.encode("utf-8", "surrogateescape")
        escaped = "".join(chr(byte) if byte < 128 else f"\\x{byte:02x}" for byte in data)
    return f"E'{escaped}'"


class KeysetSql:
    """The statements on the rows of a Keyset, in which its query is a subquery, its parameters ahead of ours.

    Args:
        keyset: the source.
        keys: the key columns, once known.
        raw: the database has no encoding (SQL_ASCII).
    """

    def __init__(
        self,
        keyset: Keyset,
        keys: Sequence[Key] = (),
        *,
        raw: bool = False,
    ) -> None:
        self._keyset = keyset
        self._keys = keys
        self._raw = raw
        text = keyset.query.rstrip(" \t\r\n;")
        if keyset.params is None:
            text = text.replace("%", "%%")
        # A comment may end the query.
        self._rows = f"(\n{text}\n) AS source"
        self._columns = ", ".join(map(quoted, keyset.keys))
        # Of several keys with operators in different schemas none can be named; but then only those will do by which an
        # index is in order, and they take a superuser to make.
        homes = {key.home for key in keys}
        home = homes.pop() if len(homes) == 1 else None
        self._above, self._within = (f"OPERATOR({home}.{sign})" if home else sign for sign in (">", "<="))

    @property
    def _arguments(self) -> Any:
        # Not None, for which a per cent sign would stand for itself.
        return self._keyset.params or ()

    def describe(self) -> tuple[str, Any]:
        """Return what gives the columns of the query, and no row."""
        return f"SELECT * FROM {self._rows} LIMIT 0", self._arguments

    def find_null(self) -> tuple[str, Any]:
        """Return what gives a row if a key is NULL."""
        test = " OR ".join(f"{quoted(name)} IS NULL" for name in self._keyset.keys)
        return f"SELECT 1 FROM {self._rows} WHERE {test} LIMIT 1", self._arguments

    def declare(self) -> tuple[str, Any]:
        """Return what opens a cursor on all keys in their order."""
        query = f"SELECT {self._columns} FROM {self._rows} ORDER BY {self._columns}"
        return f"DECLARE pgroute_plan SCROLL CURSOR FOR {query}", self._arguments

    def fetch(self, after: Sequence[str] | None, upto: Sequence[str]) -> tuple[str, Any]:
        """Return what gives the rows of a chunk."""
        test = self._test(after, upto).replace("%", "%%")
        return f"SELECT * FROM {self._rows} WHERE {test} ORDER BY {self._columns}", self._arguments

    def range(self, context: AdaptContext, after: Sequence[str] | None, upto: Sequence[str]) -> Range:
        """Return the keys of a chunk; *context* has the adapters by which they are read."""
        return Range(self, context.adapters, after, upto)

    def load(self, adapters: AdaptersMap, texts: Sequence[str]) -> Any:
        """Return the value of a key, a tuple of several."""
        # Without the connection, whose DateStyle is not that of these texts.
        transformer = Transformer(adapters)
        values = [
            transformer.get_loader(key.oid, pq.Format.TEXT).load(text.encode("utf-8", "surrogateescape"))
            for key, text in zip(self._keys, texts, strict=True)
        ]
        return values[0] if isinstance(self._keyset.key, str) else tuple(values)

    def where(self, after: Sequence[str] | None, upto: Sequence[str]) -> sql.SQL:
        """Return the condition that a row is in a chunk, as it can stand in a statement of the user's."""
        return sql.SQL(f"({self._test(after, upto)})")

    def _test(self, after: Sequence[str] | None, upto: Sequence[str]) -> str:
        return " AND ".join(
            f"({self._columns}) {sign} ({', '.join(self._constants(bound))})"
            for sign, bound in ((self._above, after), (self._within, upto))
            if bound is not None
        )

    def _constants(self, bound: Sequence[str]) -> list[str]:
        return [
            f"{literal(text, raw=self._raw)}::{key.cast}" for text, key in zip(bound, self._keys, strict=True)
        ]


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
