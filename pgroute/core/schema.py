"""The schema ``pgroute``, in which a database remembers what was applied: its definition and the rights to use it."""

from __future__ import annotations

# Two that install at once take turns.
LOCK = b"SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtext('pgroute.install'))"

# Without the right to create one, an existing schema would be refused too.
PRESENT = b"""
SELECT pg_catalog.bool_and(pg_catalog.to_regclass(name) IS NOT NULL)
  FROM pg_catalog.unnest(
         '{pgroute.once,pgroute.batch_job,pgroute.batch_chunk,pgroute.batch_reject}'::pg_catalog.text[]) AS name
"""

# For the transaction, which is the router's own: types, operators and functions below are PostgreSQL's.
SAFE_PATH = b"SET LOCAL search_path = pg_catalog, pg_temp;\n"

DEFINITION = """\
CREATE SCHEMA IF NOT EXISTS pgroute;

CREATE TABLE IF NOT EXISTS pgroute.once (
    key text PRIMARY KEY CHECK (octet_length(key) BETWEEN 1 AND 512),
    result jsonb,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE pgroute.once IS 'transactions that were applied, by the key of run(once=)';

CREATE TABLE IF NOT EXISTS pgroute.batch_job (
    job text PRIMARY KEY CHECK (octet_length(job) BETWEEN 1 AND 512),
    source text NOT NULL,
    chunk_size integer NOT NULL CHECK (chunk_size > 0),
    planned bigint NOT NULL DEFAULT 0,
    complete boolean NOT NULL DEFAULT false,
    watermark bigint NOT NULL DEFAULT 0 CHECK (watermark BETWEEN 0 AND planned),
    rows_total bigint,
    rows_done bigint NOT NULL DEFAULT 0,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at timestamptz
);
COMMENT ON TABLE pgroute.batch_job IS 'jobs; every chunk below the watermark was applied or set aside';

CREATE TABLE IF NOT EXISTS pgroute.batch_chunk (
    job text NOT NULL REFERENCES pgroute.batch_job ON DELETE CASCADE,
    chunk bigint NOT NULL,
    after text[],
    upto text[],
    row_count integer NOT NULL,
    done_at timestamptz,
    PRIMARY KEY (job, chunk)
) WITH (fillfactor = 50);
COMMENT ON TABLE pgroute.batch_chunk IS 'chunks at or above the watermark; each marked as done by its own transaction';

CREATE TABLE IF NOT EXISTS pgroute.batch_reject (
    job text NOT NULL REFERENCES pgroute.batch_job ON DELETE CASCADE,
    chunk bigint NOT NULL,
    after text[],
    upto text[],
    row_count integer NOT NULL,
    sqlstate text,
    error text NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (job, chunk)
);
COMMENT ON TABLE pgroute.batch_reject IS 'chunks that were set aside because their work failed';
"""

RIGHTS = """\
GRANT USAGE ON SCHEMA pgroute TO {role};
GRANT SELECT, INSERT, UPDATE ON pgroute.once TO {role};
GRANT SELECT, INSERT, UPDATE, DELETE ON pgroute.batch_job TO {role};
GRANT SELECT, INSERT, UPDATE, DELETE ON pgroute.batch_chunk TO {role};
GRANT SELECT, INSERT, DELETE ON pgroute.batch_reject TO {role};
-- and only for whoever calls once_purge():
GRANT DELETE ON pgroute.once TO {role};
"""
"""What a role needs; *role* is an identifier, quoted where it has to be."""
