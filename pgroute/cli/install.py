"""`pgroute install`: create the schema in which exactly-once transactions and batch jobs keep account."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg

from pgroute import AcquireTimeout, Router
from pgroute.cli.errors import CommandError
from pgroute.cli.terminal import silence_libraries
from pgroute.core.printable import printable
from pgroute.core.schema import DEFINITION, RIGHTS

if TYPE_CHECKING:
    import argparse


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    if args.sql:
        print(DEFINITION)
        print(rights("your_role"), end="")
        return 0
    silence_libraries()
    with Router(args.dsn, acquire_timeout=args.timeout) as router:
        try:
            router.install()
            where = router.run(_where, read_only=True)
        except AcquireTimeout as exc:
            raise CommandError(f"no primary can be written to:\n{exc}") from None
        except psycopg.errors.InsufficientPrivilege as exc:
            text = "a database administrator can run what `pgroute install --sql` prints"
            raise CommandError(f"{printable(str(exc))}\n{text}") from None
        except psycopg.Error as exc:
            raise CommandError(printable(str(exc))) from None
    print(f"The schema pgroute is in place in {where}.\nA role needs, to use it:\n")
    print(rights("your_role"), end="")
    return 0


def rights(role: str) -> str:
    """Return the statements that give a role what it needs."""
    return RIGHTS.format(role=role)


def _where(conn: psycopg.Connection[tuple[str]]) -> str:
    row = conn.execute("SELECT format('database %I', current_database())").fetchone()
    assert row is not None
    return f"{printable(row[0])} at {conn.info.host}:{conn.info.port}"
