"""A process that increments the counter under a key, as soon as it gets a lock, and prints what came of it."""

from __future__ import annotations

import asyncio  # async-only
import sys
from typing import Any

import psycopg

from pgroute import AsyncRouter
from tests.aio.counting import Increment


async def body(conn: psycopg.AsyncConnection[Any]) -> int:
    await conn.execute("SELECT pg_advisory_xact_lock(1)")
    return await Increment()(conn)


async def main() -> None:
    async with AsyncRouter(sys.argv[1]) as router:
        print(await router.run(body, once=sys.argv[2]))


asyncio.run(main())  # async-only
# sync-only: main()
