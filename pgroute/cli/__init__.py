"""The command line: reads the arguments, runs one command, turns what it raises into a line and an exit status."""

from __future__ import annotations

import argparse
import importlib
import math
import sys
from typing import TYPE_CHECKING

import pgroute
from pgroute.cli.errors import CommandError
from pgroute.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

STATUS_HELP = """\
exit status:
  0  writable and readable, and every listed host is up
  1  degraded: only one of writable and readable, or a listed host is not up
  2  neither writable nor readable, or the DSN cannot be used

Without a DSN the PG* environment counts, as for psql. Other users of the machine can read a command line:
keep the password in PGPASSWORD or in ~/.pgpass.
"""
INSTALL_HELP = """\
exit status:
  0  the schema is in place; the rights that a role needs to use it are printed
  2  it is not: no primary, no right to create a schema, or the DSN cannot be used

Run it once for each database, as a role that may create schemas there. With --sql a database administrator can do it.
"""
BATCH_HELP = """\
exit status:
  0  done; of show: the job is finished, and no chunk was set aside
  1  of show: it is not finished, or chunks were set aside; of reset: not confirmed, nothing was changed
  2  no such job, no tables of pgroute's, no primary, or the DSN cannot be used

With '' for a DSN the PG* environment counts, as for psql.
"""
DEMO_HELP = """\
exit status:
  0  every acknowledged row was found, once, and no row that nobody can account for
  1  rows are missing, doubled or unaccounted for, or no write went through after the promotion
  2  the cluster could not be started (no PostgreSQL server programs?) or be repaired
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line *argv* (default: the process's own) and return the exit status."""
    args = _parser().parse_args(argv)
    try:
        # A command is imported when it is run, so that --help is quick and needs no rich.
        status: int = importlib.import_module(f"pgroute.cli.{args.command}").run(args)
    except (CommandError, ConfigError) as exc:
        print(f"pgroute {args.command}: {exc}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pgroute",
        description="Routes sessions to a PostgreSQL primary and its standbys, through failover.",
    )
    parser.add_argument("--version", action="version", version=f"pgroute {pgroute.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    status = commands.add_parser(
        "status",
        help="say what every host of a DSN is, and where writers and readers would go",
        description="Ask every host of a DSN once, and say what it is and where writers and readers would go.",
        epilog=STATUS_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    status.add_argument("dsn", nargs="?", default="", metavar="DSN", help="libpq URI or keyword string")
    status.add_argument("--json", action="store_true", help="print one JSON object (keys: docs/cli.md)")
    status.add_argument(
        "--timeout", type=_seconds(0.1), default=5.0, metavar="S", help="wait at most S seconds (default: 5)"
    )
    install = commands.add_parser(
        "install",
        help="create the tables for exactly-once transactions and batch jobs",
        description="Create the schema pgroute, with the tables for run(once=) and batch jobs, on the primary. What "
        "is there stays as it is.",
        epilog=INSTALL_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    install.add_argument("dsn", nargs="?", default="", metavar="DSN", help="libpq URI or keyword string")
    install.add_argument("--sql", action="store_true", help="print the SQL and contact nobody")
    install.add_argument(
        "--timeout",
        type=_seconds(0.1),
        default=10.0,
        metavar="S",
        help="wait at most S seconds (default: 10)",
    )
    _add_batch(commands)
    demo = commands.add_parser(
        "demo",
        help="kill the primary of a throw-away cluster under load, and count the rows",
        description="Start a primary and two synchronous standbys on this machine, write and read through a router, "
        "kill the primary, promote a standby, bring the old primary back, and count the rows.",
        epilog=DEMO_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    demo.add_argument(
        "--duration", type=_seconds(3), default=12.0, metavar="S", help="seconds of load (default: 12)"
    )
    demo.add_argument("--writers", type=_count(1), default=4, metavar="N", help="writer threads (default: 4)")
    demo.add_argument("--readers", type=_count(0), default=4, metavar="N", help="reader threads (default: 4)")
    demo.add_argument(
        "--pg-version", metavar="V", help="PostgreSQL to run: 16, 16.14 (default: the newest found)"
    )
    return parser


def _add_batch(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    batch = commands.add_parser(
        "batch",
        help="list batch jobs, show how far one is, or have it forgotten",
        description="Ask the primary of a DSN for the batch jobs that it knows (pgroute.batch).",
        epilog=BATCH_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = batch.add_subparsers(dest="action", metavar="action", required=True)
    for name, text in (
        ("list", "list all jobs"),
        ("show", "show how far a job is, and its chunks that were set aside"),
        ("reset", "forget what a job has done, so that it begins anew when it is run again"),
    ):
        action = actions.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=BATCH_HELP,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        action.add_argument("dsn", metavar="DSN", help="libpq URI or keyword string")
        if name != "list":
            action.add_argument("job", metavar="JOB", help="the job's name")
        if name == "reset":
            action.add_argument("--yes", action="store_true", help="do not ask")
        else:
            action.add_argument("--json", action="store_true", help="print JSON (keys: docs/cli.md)")
        action.add_argument(
            "--timeout",
            type=_seconds(0.1),
            default=10.0,
            metavar="S",
            help="wait at most S seconds (default: 10)",
        )


class _seconds:  # noqa: N801  (argparse shows the name of a type)
    def __init__(self, least: float) -> None:
        self._least = least

    def __call__(self, text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not self._least <= value <= 1e6:
            raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds of at least {self._least:g}")
        return value


class _count:  # noqa: N801
    def __init__(self, least: int) -> None:
        self._least = least

    def __call__(self, text: str) -> int:
        if not text.isdecimal() or not self._least <= int(text) <= 200:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {self._least} to 200")
        return int(text)
