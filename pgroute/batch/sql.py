"""The statements on the job tables: the job's row, its plan, the claim on a chunk, compaction and the end.

A job is a row of pgroute.batch_job. Each chunk that is planned has a row of pgroute.batch_chunk, marked as done within
the very transaction that applies it, so both are committed or neither is. Rows of done chunks at the beginning are
deleted and counted in the job's watermark: chunks below it are done.
"""

from __future__ import annotations

from pgroute.core.sql.statements import qualify

# As a number, which does not depend on DateStyle.
_STARTED = "(extract(epoch FROM started_at) `*` 1000000)::bigint"

FIND = qualify(f"""
SELECT source, chunk_size, {_STARTED}, planned, complete, watermark, rows_total, rows_done, finished_at IS NOT NULL
  FROM %(schema)s.batch_job WHERE job `=` %(job)s
""")

# The row may not be on the synchronous standby yet, and COMMIT waits for the standby only after a write.
CONFIRM_JOB = qualify("UPDATE %(schema)s.batch_job SET watermark = watermark WHERE job `=` %(job)s")

CREATE_JOB = b"""
INSERT INTO %(schema)s.batch_job (job, source, chunk_size) VALUES (%(job)s, %(source)s, %(size)s)
ON CONFLICT (job) DO NOTHING
"""

COUNT_DONE = qualify("""
SELECT pg_catalog.count(*), coalesce(pg_catalog.sum(row_count), 0)::bigint
  FROM %(schema)s.batch_chunk WHERE job `=` %(job)s AND done_at IS NOT NULL
""")

COUNT_REJECTED = qualify("""
SELECT pg_catalog.count(*), coalesce(pg_catalog.sum(row_count), 0)::bigint
  FROM %(schema)s.batch_reject WHERE job `=` %(job)s
""")

SET_LOCK_TIMEOUT = b"SELECT pg_catalog.set_config('lock_timeout', %(wait)s, true)"

READ_JOB = qualify(
    f"SELECT {_STARTED}, planned, complete, watermark, rows_total FROM %(schema)s.batch_job WHERE job `=` %(job)s"
)

LOCK_JOB = READ_JOB + b" FOR NO KEY UPDATE"

PLAN_ITEMS = qualify("""
WITH planned AS (
    INSERT INTO %(schema)s.batch_chunk (job, chunk, row_count)
    SELECT %(job)s, number, %(size)s
      FROM pg_catalog.generate_series(%(planned)s::bigint, %(until)s::bigint `-` 1) AS number
)
UPDATE %(schema)s.batch_job SET planned = %(until)s WHERE job `=` %(job)s
""")

# Chunks are planned ahead, so some may lie beyond the end of the items.
COMPLETE_ITEMS = qualify("""
WITH beyond AS (DELETE FROM %(schema)s.batch_chunk WHERE job `=` %(job)s AND chunk `>=` %(chunks)s)
UPDATE %(schema)s.batch_job SET planned = %(chunks)s, complete = true, rows_total = %(rows)s WHERE job `=` %(job)s
""")

# A done chunk that the items of this run contradict: it had another size, or lies beyond their end.
FIND_CONFLICT = qualify("""
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

# One statement and one round trip. lock_timeout bounds the wait for another copy of the job, but not the body. If no
# row is found, the bound stays until the end of the transaction, which follows at once. The job must still be the one
# that the run began with: after a reset, another of its name may have the same chunks of other rows.
_CLAIM = f"""
UPDATE %(schema)s.batch_chunk AS claimed SET done_at = pg_catalog.clock_timestamp(){{more}}
  FROM (SELECT pg_catalog.set_config('pgroute.lock_timeout', pg_catalog.current_setting('lock_timeout'), true) AS had
       ) AS aside,
       LATERAL (SELECT pg_catalog.set_config('lock_timeout', %(wait)s, true) AS has WHERE aside.had IS NOT NULL
       ) AS bound
 WHERE claimed.job `=` %(job)s AND claimed.chunk `=` %(chunk)s AND claimed.done_at IS NULL AND bound.has IS NOT NULL
   AND EXISTS (SELECT 1 FROM %(schema)s.batch_job WHERE job `=` %(job)s AND {_STARTED} `=` %(started)s)
RETURNING pg_catalog.set_config('lock_timeout', pg_catalog.current_setting('pgroute.lock_timeout'), true),
          claimed.row_count{{columns}}
"""

PLAN_KEYS = b"""
INSERT INTO %(schema)s.batch_chunk (job, chunk, after, upto, row_count)
SELECT %(job)s, chunk, after, upto, row_count
  FROM pg_catalog.jsonb_to_recordset(%(chunks)s::pg_catalog.jsonb)
    AS cut (chunk bigint, after pg_catalog.text[], upto pg_catalog.text[], row_count integer)
"""

COMPLETE_KEYS = qualify("""
UPDATE %(schema)s.batch_job SET complete = true, planned = %(chunks)s, rows_total = %(rows)s WHERE job `=` %(job)s
""")

CLAIM = qualify(_CLAIM.format(more="", columns=""))
CLAIM_KEYS = qualify(
    _CLAIM.format(more="", columns=", pg_catalog.to_json(claimed.after), pg_catalog.to_json(claimed.upto)")
)
CLAIM_ITEMS = qualify(_CLAIM.format(more=", row_count = %(rows)s", columns=""))

READ_CHUNK = qualify(f"""
SELECT {_STARTED}, planned, complete, watermark, rows_total, chunk IS NOT NULL, done_at IS NOT NULL, row_count
  FROM %(schema)s.batch_job
  LEFT JOIN %(schema)s.batch_chunk ON batch_chunk.job `=` %(job)s AND chunk `=` %(chunk)s
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

# Compaction need not be durable: it is repeated if it is lost.
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
