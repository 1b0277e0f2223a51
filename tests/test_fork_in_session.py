"""A process forks within a session: the child leaves it in whatever way, the parent's transaction goes on."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from pgroute.testing import LocalCluster

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).parents[1]

SYNC = """
import os, sys
from pgroute import Router, RouterClosed

dsn, table = sys.argv[1:]

def leave(router, conn):
{leave}

child = None
with Router(dsn) as router:
    with router.writer() as conn:
        conn.execute(f"INSERT INTO {{table}} VALUES (1)")
        child = os.fork()
        if not child:
            leave(router, conn)
            raise SystemExit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        conn.execute(f"INSERT INTO {{table}} VALUES (2)")
    with router.writer() as conn:
        conn.execute(f"INSERT INTO {{table}} VALUES (3)")
"""

# The child ends at the first exit from a session: the loop is its parent's, too.
ASYNC = """
import asyncio, os, sys
from pgroute import AsyncRouter, RouterClosed

dsn, table = sys.argv[1:]

async def leave(router, conn):
{leave}

async def main():
    async with AsyncRouter(dsn) as router:
        child = None
        try:
            async with router.writer() as conn:
                await conn.execute(f"INSERT INTO {{table}} VALUES (1)")
                child = os.fork()
                if not child:
                    await leave(router, conn)
                    raise SystemExit(7)
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
                await conn.execute(f"INSERT INTO {{table}} VALUES (2)")
        except SystemExit as error:
            os._exit(8 if child else error.code)
        finally:
            if not child:
                os._exit(9)
        async with router.writer() as conn:
            await conn.execute(f"INSERT INTO {{table}} VALUES (3)")

asyncio.run(main())
"""

LEAVE = {
    "exit": "pass",
    "putconn": """
        try:
            await router.putconn(conn)
        except RouterClosed:
            pass
        else:
            raise AssertionError("it was taken back")
        """,
    "close": """
        await router.close()
        """,
}


@pytest.mark.parametrize("leave", LEAVE)
@pytest.mark.parametrize("face", ["sync", "async"])
def test_a_child_that_leaves_the_session_sends_nothing_to_the_parents_server(
    shared: LocalCluster, table: str, face: str, leave: str
) -> None:
    body = textwrap.indent(textwrap.dedent(LEAVE[leave]), "    ")
    script = ASYNC.format(leave=body) if face == "async" else SYNC.format(leave=body.replace("await ", ""))
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script, shared.dsn, table],
        capture_output=True,
        text=True,
        timeout=30,
        cwd=ROOT,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert shared.primary.execute(f"SELECT number FROM {table} ORDER BY 1") == [(1,), (2,), (3,)]
