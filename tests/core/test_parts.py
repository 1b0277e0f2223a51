"""Which statements may have committed a part of their work when they fail."""

from __future__ import annotations

import pytest

from pgroute.core.sql.parts import may_commit_parts


@pytest.mark.parametrize(
    "query",
    [
        "CALL p()",
        "call p()",
        "\n  -- a comment; SELECT\n  /* one /* in */ another */ ;Call p()",
        "DO $$ BEGIN COMMIT; END $$",
        "do$$ begin commit; end $$",
        "CREATE UNIQUE INDEX CONCURRENTLY ON t (a)",
        "reindex (verbose) table concurrently t",
        "DROP INDEX CONCURRENTLY i",
        "ALTER TABLE t DETACH PARTITION p CONCURRENTLY",
    ],
)
def test_may_commit_parts(query: str) -> None:
    assert may_commit_parts(query)


@pytest.mark.parametrize(
    "query",
    [
        "",
        "/* CALL p()",
        "-- CALL p()",
        "SELECT 1",
        "INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING",
        "UPDATE call SET concurrently = 1",
        "(SELECT 1)",
        "/* CALL */ DELETE FROM t",
        "CREATE INDEX ON t (a)",
        "DOMAIN",
    ],
)
def test_is_committed_as_a_whole(query: str) -> None:
    assert not may_commit_parts(query)
