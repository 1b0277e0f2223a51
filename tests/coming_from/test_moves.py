"""docs/coming-from.md: the blocks that show the smallest move, and what stands for things that are not run."""

from __future__ import annotations

import asyncio
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from psycopg_pool.base import BasePool

import pgroute
from pgroute.cli.parser import make_parser
from pgroute.core.model.stats import MEASURES
from pgroute.core.routing.pool_counts import COUNTED
from tests.coming_from.ours import Ours, OursSync
from tests.coming_from.page import Row, read_moves, read_rows
from tests.coming_from.sides import OF_PGROUTE, Place
from tests.coming_from.snippets import run_code
from tests.coming_from.theirs import SIDES, sides_of

pytestmark = [
    pytest.mark.cluster,
    # pgmonkey makes its pool so.
    pytest.mark.filterwarnings("ignore:the default for the ConnectionPool 'open':DeprecationWarning"),
]


def rows(kind: str) -> pytest.MarkDecorator:
    found = [row for row in read_rows() if row.kind == kind and row.ours is not None]
    return pytest.mark.parametrize("row", found, ids=str)


@rows("elsewhere")
def test_a_router_takes_what_stands_for_theirs(row: Row) -> None:
    assert row.ours is not None
    arguments = row.ours if row.ours.startswith('"') else f'"postgresql://db1,db2/shop", {row.ours}'
    assert isinstance(eval(f"Router({arguments})", {**OF_PGROUTE}), pgroute.Router)


@rows("command")
def test_a_command_is_one_of_ours(row: Row) -> None:
    assert row.ours is not None
    program, *arguments = row.ours.split()
    assert program == "pgroute"
    assert make_parser().parse_args(arguments).command in ("init", "check")


@pytest.mark.parametrize("library", SIDES)
def test_the_smallest_move_prints_the_same(
    library: str, place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, ours = sides_of(library)
    printed = []
    for kind, which in ((theirs, "before"), (ours, "after")):
        side: Any = kind(place)
        code = re.sub(r"postgresql://app@[\w,]+/shop", side.make_dsn(), read_moves()[library][which])
        if library == "pgmonkey":
            code = re.sub(r"\w+\.yaml", side.write({}), code)
        names: dict[str, Any] = {}
        exec(code, names)
        if "main" in names:
            asyncio.run(names["main"]())
        if "manager" in names:
            names["manager"].clear_cache()
        printed.append(re.sub(r"\D", "", capsys.readouterr().out))
    assert printed == ["42", "42"]


def test_counters_have_the_names_of_psycopg_pool() -> None:
    """The row of get_stats() says so; counters that are zero are left out on both sides."""
    texts = {name: value for name, value in vars(BasePool).items() if isinstance(value, str)}
    theirs = {value for name, value in texts.items() if not name.startswith("__")}
    assert theirs == {*COUNTED, *MEASURES}


def test_a_raw_cursor_keeps_dollar_placeholders(place: Place) -> None:
    async def main() -> None:
        async with Ours(place, 'kwargs={"cursor_factory": psycopg.AsyncRawCursor}') as side:
            assert await side.pool.fetchval("SELECT $1::int + 40", [2]) == 42

    asyncio.run(main())


def test_each_thread_keeps_its_connection(place: Place) -> None:
    """As in psycopg2's PersistentConnectionPool, which is gone."""

    def mine() -> Any:
        return router.getconn("writer", key=threading.get_ident())

    with pgroute.Router(OursSync(place).make_dsn()) as router, ThreadPoolExecutor(1) as thread:
        first, other = mine(), thread.submit(mine).result()
        assert mine() is first
        assert thread.submit(mine).result() is other is not first
        for conn in (first, other):
            router.putconn(conn)


BLOCKS = [row for row in read_rows() if row.library == "pgmonkey" and "work(conn)" in row.theirs[0]]


@pytest.mark.parametrize("row", BLOCKS, ids=str)
def test_blocks_commit_and_roll_back_as_those_of_pgmonkey(row: Row, place: Place) -> None:
    def count() -> int:
        [(number,)] = place.execute(place.cluster.nodes[0], "SELECT count(*) FROM items")
        return int(number)

    async def main() -> None:
        for kind, code in zip(sides_of("pgmonkey"), (row.theirs[0], row.ours), strict=True):
            async with kind(place) as side:
                before = count()
                names = {**side.names, "work": insert}
                await run_code(code or "", names)
                assert count() == before + 1
                with pytest.raises(ZeroDivisionError):
                    await run_code((code or "").replace("work(conn)", "work(conn); 1 / 0"), names)
                assert count() == before + 1

    asyncio.run(main())


def insert(conn: Any) -> Any:
    """Insert a row, whatever the connection is."""
    cursor = conn.cursor()
    if hasattr(cursor, "__aenter__"):
        return _insert(cursor)
    with cursor:
        cursor.execute("INSERT INTO items VALUES (1)")
        return True


async def _insert(entered: Any) -> bool:
    async with entered as cursor:
        await cursor.execute("INSERT INTO items VALUES (1)")
        return True
