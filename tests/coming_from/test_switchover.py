"""docs/coming-from.md: our code does the same on both faces, before and after a switchover."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from pgroute.testing import LocalCluster
from tests.coming_from.ours import Ours, OursSync
from tests.coming_from.page import Row, read_rows
from tests.coming_from.rows import AROUND_CALLS
from tests.coming_from.sides import Place
from tests.coming_from.snippets import run_code
from tests.support import within

pytestmark = pytest.mark.cluster

APART = (".close(", "from_config(", "asyncio.", '["pool_size"]', '["pool_available"]')
"""In code that ends a router, has one of its own, is for one face, or tells of the moment."""

CALLS = [
    row
    for row in read_rows()
    if row.kind == "call" and row.ours is not None and not any(text in row.ours for text in APART)
]


def code_of(row: Row) -> str:
    return AROUND_CALLS[row.library].get(row.theirs[0], ("{}",))[-1].format(row.ours)


async def run_all(side: Ours, expected: dict[Row, Any]) -> dict[Row, Any]:
    """Return what each row gives; one that gives something else than expected is run again for a while."""
    found: dict[Row, Any] = {}
    loop = asyncio.get_running_loop()
    until = loop.time() + within(10)
    for row in CALLS:
        while True:
            found[row] = await run_code(code_of(row), side.names, "async" if side.is_async else "sync")
            if found[row] == expected.get(row, found[row]) or loop.time() > until:
                break
            await asyncio.sleep(0.02)
    return found


def switch_over(cluster: LocalCluster) -> None:
    old = cluster.primary
    old.stop("fast")
    old.rejoin(cluster.promote())


def test_our_code_goes_on_after_a_switchover(any_cluster: LocalCluster, tmp_path: Path) -> None:
    place = Place(any_cluster, lambda node, sql: node.execute(sql), tmp_path)
    any_cluster.primary.execute("CREATE TABLE items (number int)")
    any_cluster.catch_up()

    async def main() -> None:
        async with Ours(place) as one, OursSync(place) as other:
            before = [await run_all(side, {}) for side in (one, other)]
            await asyncio.to_thread(switch_over, any_cluster)
            for side, there in zip((one, other), before, strict=True):
                here = await run_all(side, there)
                assert [(row.ours, there[row], here[row]) for row in CALLS if here[row] != there[row]] == []

    asyncio.run(main())


def test_it_is_the_code_of_these_libraries() -> None:
    assert len(CALLS) > 45
    assert {row.library for row in CALLS} == {"psycopg_pool", "asyncpg", "psqlpy", "psycopg2", "hasql"}
