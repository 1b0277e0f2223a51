"""`pgroute install`: creates the schema with the tables for exactly-once transactions and batch jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg

from pgroute import AcquireTimeout
from pgroute.cli.errors import CommandError
from pgroute.cli.subject import find_subject
from pgroute.cli.terminal import as_text, silence_libraries
from pgroute.core.printable import printable
from pgroute.core.sql.schema import DEFAULT, check_schema, definition, rights

if TYPE_CHECKING:
    import argparse

_ROLE = "your_role"


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    silence_libraries()
    subject = find_subject(args)
    schema = subject.arguments.get("schema", DEFAULT) if args.schema is None else args.schema
    if args.sql:
        check_schema(schema, args.schema_owner)
        # Fails if the schema exists: it may belong to another role.
        print(definition(schema).replace(" IF NOT EXISTS", ""))
        print(rights(_ROLE, schema), end="")
        return 0
    options = {"schema": schema, "schema_owner": args.schema_owner, "acquire_timeout": args.timeout}
    with subject.router(**options) as router:
        try:
            router.install()
            where = router.run(_where, read_only=True)
        except AcquireTimeout as exc:
            raise CommandError(f"no primary is available:\n{exc}") from None
        except psycopg.errors.InsufficientPrivilege as exc:
            text = "a database administrator can run the output of `pgroute install --sql`"
            raise CommandError(f"{printable(str(exc))}\n{text}") from None
        except psycopg.Error as exc:
            raise CommandError(printable(str(exc))) from None
    print(f"The schema {schema} exists in {where}.\nA role needs these grants to use it:\n")
    print(rights(_ROLE, schema), end="")
    return 0


def _where(conn: psycopg.Connection[tuple[str | bytes]]) -> str:
    row = conn.execute("SELECT pg_catalog.quote_ident(pg_catalog.current_database())").fetchone()
    assert row is not None
    return f"database {printable(as_text(row[0]))} at {conn.info.host}:{conn.info.port}"
