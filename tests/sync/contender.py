# Generated from tests/aio/contender.py by .ci/unasync.py: edit that file, not this one.
"""A process that increments the counter under a key, as soon as it gets a lock, and prints what came of it."""

from __future__ import annotations

import sys
from typing import Any

import psycopg

from pgroute import Router
from tests.sync.counting import Increment


def body(conn: psycopg.Connection[Any]) -> int:
    conn.execute("SELECT pg_advisory_xact_lock(1)")
    return Increment()(conn)


def main() -> None:
    with Router(sys.argv[1]) as router:
        print(router.run(body, once=sys.argv[2]))


main()
