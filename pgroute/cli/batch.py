"""`pgroute batch`: lists the jobs of a database, shows one, or resets it."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import dict_row

from pgroute import AcquireTimeout
from pgroute._sync.router import manager_of
from pgroute._sync.schema_check import check_trust
from pgroute.cli.errors import CommandError
from pgroute.cli.subject import find_subject
from pgroute.cli.terminal import as_text, open_console, print_table, silence_libraries
from pgroute.core.config.checks import check_name
from pgroute.core.faults.classify import one_line
from pgroute.core.printable import printable
from pgroute.core.sql.schema import BATCH
from pgroute.core.sql.statements import qualify
from pgroute.core.transactions.once_keys import lock_timeout

if TYPE_CHECKING:
    import argparse

    from rich.console import Console

    from pgroute import Router
    from pgroute.core.sql.schema import Schema

Row = dict[str, Any]

_MOST_REJECTS = 20
_MOST_ERROR = 8192
"""Maximum length of a chunk's error in JSON."""
_MOST_CELL = 600
"""Maximum length of a table cell; the longest job name fits."""
_WIDE = 100
_WHOLE = ("state", "chunks", "rows", "chunk", "sqlstate", "started", "finished", "at")
"""The columns whose values are not folded."""

# Rejected chunks are counted apart. The server formats the times: Python cannot represent all of them.
_TIME = """pg_catalog.to_char({} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')"""
_JOBS = f"""
SELECT job, source, chunk_size, CASE WHEN finished_at IS NULL THEN 'open' ELSE 'finished' END AS state,
       CASE WHEN complete THEN planned END AS chunks,
       watermark `+` above.chunks `-` aside.chunks AS chunks_done,
       rows_total AS rows, rows_done `+` above.rows `-` aside.rows AS rows_done, aside.chunks AS rejected,
       {_TIME.format("started_at")} AS started_at, {_TIME.format("finished_at")} AS finished_at
  FROM {{schema}}.batch_job,
       LATERAL (SELECT pg_catalog.count(*) AS chunks, coalesce(pg_catalog.sum(row_count), 0)::bigint AS rows
                  FROM {{schema}}.batch_chunk
                 WHERE batch_chunk.job `=` batch_job.job AND done_at IS NOT NULL) AS above,
       LATERAL (SELECT pg_catalog.count(*) AS chunks, coalesce(pg_catalog.sum(row_count), 0)::bigint AS rows
                  FROM {{schema}}.batch_reject WHERE batch_reject.job `=` batch_job.job) AS aside
 WHERE %(job)s::pg_catalog.text IS NULL OR job `=` %(job)s ORDER BY batch_job.started_at, job
"""  # noqa: S608  (made of the constants above; the name of the schema is quoted)

_REJECTS = f"""
SELECT chunk, row_count AS rows, after, upto, sqlstate, error, {_TIME.format("at")} AS at
  FROM {{schema}}.batch_reject WHERE job `=` %(job)s ORDER BY chunk
"""  # noqa: S608  (likewise)

_RESET = "DELETE FROM {schema}.batch_job WHERE job `=` %(job)s"


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    if args.action != "list":
        check_name("job", args.job)
    silence_libraries()
    console = None if getattr(args, "json", True) else open_console()
    subject = find_subject(args)
    options = {"schema": args.schema, "schema_owner": args.schema_owner, "acquire_timeout": args.timeout}
    with subject.router(**options) as router:
        try:
            if args.action == "list":
                return _list(router, console)
            if args.action == "show":
                return _show(router, args.job, console)
            return _reset(router, args.job, args.timeout, sure=args.yes)
        except AcquireTimeout as exc:
            raise CommandError(f"no primary is available:\n{exc}") from None
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
            raise CommandError("this database has no tables of pgroute: run `pgroute install DSN`") from None
        except psycopg.Error as exc:
            raise CommandError(printable(str(exc))) from None


def _list(router: Router[Any], console: Console | None) -> int:
    jobs: list[Row] = router.run(_ask, manager_of(router).config.schema, _JOBS, None, read_only=True)
    if console is None:
        print(json.dumps(jobs, indent=2))
    elif jobs:
        rows = [_short(job) for job in jobs]
        if console.width < _WIDE:
            rows = [_narrow(row) for row in rows]
        _table(console, rows)
    else:
        console.print("no jobs")
    return 0


def _show(router: Router[Any], name: str, console: Console | None) -> int:
    job = _find(router, name)
    rejects: list[Row] = router.run(_ask, manager_of(router).config.schema, _REJECTS, name, read_only=True)
    if console is None:
        whole = [{**reject, "error": printable(reject["error"], _MOST_ERROR)} for reject in rejects]
        print(json.dumps({**job, "rejects": whole}, indent=2))
    else:
        for key, value in job.items():
            console.print(
                f"{key.replace('_', ' '):<13} {'-' if value is None else printable(str(value))}",
                soft_wrap=True,
            )
        if rejects:
            console.print()
            _table(console, [_short_reject(reject) for reject in rejects[:_MOST_REJECTS]])
        if len(rejects) > _MOST_REJECTS:
            console.print(f"and {len(rejects) - _MOST_REJECTS} more: --json prints all")
    return int(job["state"] != "finished" or bool(rejects))


def _reset(router: Router[Any], name: str, timeout: float, *, sure: bool) -> int:
    job = _find(router, name)
    if not sure:
        done = f"{job['chunks_done']} chunks ({job['rows_done']} rows) are done"
        print(f"{name!r} is {job['state']}, {done}. Reset it, so that they are done again?", end=" ")
        print("[y/N] ", end="", flush=True)
        answer = "" if sys.stdin is None else sys.stdin.readline()
        if answer.strip().lower() not in ("y", "yes"):
            print("nothing was changed")
            return 1
    try:
        deleted = router.run(_delete, manager_of(router).config.schema, name, timeout)
    except psycopg.errors.LockNotAvailable:
        raise CommandError(
            f"a chunk of {name!r} is still being processed after {timeout:g} s: stop the job, or try again later"
        ) from None
    if not deleted:
        raise CommandError(f"the job {name!r} was removed in the meantime")
    print(f"{name!r} was reset")
    return 0


def _find(router: Router[Any], name: str) -> Row:
    jobs: list[Row] = router.run(_ask, manager_of(router).config.schema, _JOBS, name, read_only=True)
    if not jobs:
        raise CommandError(f"no job {name!r}: see `pgroute batch list DSN`")
    return jobs[0]


def _ask(conn: psycopg.Connection[Any], schema: Schema, statement: str, job: str | None) -> list[Row]:
    check_trust(conn, schema, BATCH)
    with conn.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(_of_schema(statement, schema), {"job": job}).fetchall()
    return [{name: _decoded(value) for name, value in row.items()} for row in rows]


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    return as_text(value) if isinstance(value, bytes) else value


def _delete(conn: psycopg.Connection[Any], schema: Schema, job: str, timeout: float) -> int:
    check_trust(conn, schema, BATCH)
    conn.execute("SELECT pg_catalog.set_config('lock_timeout', %s, true)", [lock_timeout(timeout)])
    return conn.execute(_of_schema(_RESET, schema), {"job": job}).rowcount


def _of_schema(statement: str, schema: Schema) -> bytes:
    return qualify(statement).decode().format(schema=schema.sql.decode()).encode()


def _short(job: Row) -> Row:
    """Return the table row of a job."""
    return {
        "job": job["job"],
        "state": job["state"],
        "chunks": _of(job["chunks_done"], job["chunks"]),
        "rows": _of(job["rows_done"], job["rows"]),
        "rejected": job["rejected"],
        "started": job["started_at"],
        "finished": job["finished_at"] or "-",
    }


def _narrow(row: Row) -> Row:
    """Return a table row for 80 columns, without the end time; the state says whether a job is finished."""
    return {name: value for name, value in row.items() if name != "finished"}


def _of(done: int, total: int | None) -> str:
    return f"{done} of {'?' if total is None else total}"


def _short_reject(reject: Row) -> Row:
    """Return the table row of a rejected chunk."""
    after, upto = (", ".join(reject[name] or ()) or "-" for name in ("after", "upto"))
    error = one_line(reject["error"])
    return {**reject, "after": after, "upto": upto, "sqlstate": reject["sqlstate"] or "-", "error": error}


def _table(console: Console, rows: list[Row]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in rows[0]:
        table.add_column(name, overflow="fold", no_wrap=name in _WHOLE)
    for row in rows:
        table.add_row(*(printable(str(value), _MOST_CELL) for value in row.values()))
    print_table(console, table)
