"""The commands with their arguments."""

from __future__ import annotations

import argparse
import math
import textwrap
from typing import Any

import pgroute
from pgroute.core.sql.schema import DEFAULT

from .arguments import PICTURES, Parser, count, picture, seconds
from .texts import (
    BATCH_HELP,
    CHECK_HELP,
    COMPLETION_HELP,
    DEMO_HELP,
    DSN_HELP,
    EPILOG,
    INIT_HELP,
    INSTALL_HELP,
    STATUS_HELP,
    WAIT_HELP,
    WATCH_HELP,
)

FAULTS = ("crash", "freeze", "switchover", "split-brain", "standby-loss")
SHELLS = ("bash", "zsh", "tcsh")
TEMPLATES = ("script", "flask", "fastapi", "django")

_COLUMNS = 78
_FILES = {"bash": "_shtab_compgen_files", "zsh": "_files", "tcsh": "f"}
"""Has a shell complete file names (shtab.FILE); shtab is an extra."""


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    parser = Parser(
        prog="pgroute",
        description=textwrap.fill(
            "Routes sessions to a PostgreSQL primary and its standbys, through failover.", _COLUMNS
        ),
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.example_command = "status"
    parser.add_argument("--version", action="version", version=f"pgroute {pgroute.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    _add_demo(commands)
    _add_status(commands)
    _add_watch(commands)
    _add_dsn(commands)
    _add_wait(commands)
    _add_check(commands)
    _add_init(commands)
    _add_install(commands)
    _add_batch(commands)
    completion = _add(
        commands,
        "completion",
        "print a completion script for a shell",
        "Print a script that completes the commands and options of pgroute in a shell.",
        COMPLETION_HELP,
    )
    completion.add_argument("shell", choices=SHELLS, help="the shell")
    return parser


def _add(
    commands: argparse._SubParsersAction[Parser],
    name: str,
    short: str,
    description: str,
    epilog: str,
) -> Parser:
    return commands.add_parser(
        name,
        help=short,
        description=textwrap.fill(description, _COLUMNS),
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _add_subject(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
    """Add what a command is about: see `find_subject`."""
    optional: dict[str, Any] = {} if required else {"nargs": "?", "default": ""}
    what = "libpq URI, keyword string, or a configuration file"
    action = parser.add_argument("dsn", metavar="DSN|FILE", help=what, **optional)
    action.complete = _FILES  # type: ignore[attr-defined]  # read by shtab
    parser.add_argument("--router", metavar="NAME", help="the router in the file (default: the file's)")
    parser.add_argument(
        "--resolver",
        choices=("system", "dns"),
        help="look names up by the system or over DNS (default: system)",
    )
    parser.add_argument(
        "--addresses",
        choices=("one-host", "expand"),
        help="expand: treat each address of a name as a host (default: one-host)",
    )
    parser.add_argument(
        "--srv-domain",
        action="append",
        dest="srv_domains",
        metavar="DOMAIN",
        help="accept SRV targets below this domain too; repeatable",
    )
    parser.add_argument(
        "--discovery",
        metavar="ADVISER",
        help="ask which members there are: patroni, URLs of its REST API with commas, or aurora",
    )


def _add_timeout(parser: argparse.ArgumentParser, default: float, what: str = "") -> None:
    parser.add_argument(
        "--timeout",
        type=seconds(0.1),
        default=default,
        metavar="S",
        help=f"wait at most S seconds{what} (default: {default:g})",
    )


def _add_schema(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--schema",
        metavar="NAME",
        help=f"the schema name, without quotes (default: the file's, or {DEFAULT})",
    )
    parser.add_argument(
        "--schema-owner",
        metavar="ROLE",
        help="also trust this owner of the schema (docs/transactions.md)",
    )


def _add_role(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--role",
        choices=("writer", "reader"),
        default="writer",
        help="writer: the primary; reader: a standby, or the primary without one (default: writer)",
    )


def _add_status(commands: argparse._SubParsersAction[Parser]) -> None:
    status = _add(
        commands,
        "status",
        "show the state of every host, and where writers and readers go",
        "Ask every host once. Show the state of each, and where writers and readers go.",
        STATUS_HELP,
    )
    _add_subject(status)
    status.add_argument("--json", action="store_true", help="print a JSON object (keys: docs/cli.md)")
    status.add_argument(
        "--watch", action="store_true", help="keep running, and print each change of the status"
    )
    _add_timeout(status, 5)


def _add_watch(commands: argparse._SubParsersAction[Parser]) -> None:
    watch = _add(
        commands,
        "watch",
        "show the hosts as they change",
        "Show the hosts as they change.",
        WATCH_HELP,
    )
    _add_subject(watch)
    watch.add_argument(
        "--duration", type=seconds(0.1), default=math.inf, metavar="S", help="end after S seconds"
    )


def _add_dsn(commands: argparse._SubParsersAction[Parser]) -> None:
    dsn = _add(
        commands,
        "dsn",
        "print the conninfo of the host that currently serves a role",
        "Print a libpq keyword string for the host that currently serves a role, with all other parameters of the DSN.",
        DSN_HELP,
    )
    _add_subject(dsn)
    _add_role(dsn)
    dsn.add_argument("--with-password", action="store_true", help="include the passwords of the DSN")
    _add_timeout(dsn, 10)


def _add_wait(commands: argparse._SubParsersAction[Parser]) -> None:
    wait = _add(
        commands,
        "wait",
        "wait until a role can be served",
        "Wait until a session for a role can be opened, for scripts that deploy or test.",
        WAIT_HELP,
    )
    _add_subject(wait)
    _add_role(wait)
    wait.add_argument("--quiet", action="store_true", help="print nothing on success")
    _add_timeout(wait, 60)


def _add_check(commands: argparse._SubParsersAction[Parser]) -> None:
    check = _add(
        commands,
        "check",
        "find problems that show only in a failover or under load",
        "Log in at every host, and compare what it says with what a router needs.",
        CHECK_HELP,
    )
    _add_subject(check)
    check.add_argument(
        "--processes",
        type=count(1, 100_000),
        default=1,
        metavar="N",
        help="processes that have such a router (default: 1)",
    )
    check.add_argument("--json", action="store_true", help="print a JSON object (keys: docs/cli.md)")
    _add_timeout(check, 5, " for each step")


def _add_init(commands: argparse._SubParsersAction[Parser]) -> None:
    init = _add(
        commands,
        "init",
        "write a configuration and a program to start from",
        "Write pgroute.toml, with comments, and a program that runs with it.",
        INIT_HELP,
    )
    init.add_argument("template", choices=TEMPLATES, help="what the program is")
    init.add_argument("--dir", default=".", metavar="DIR", help="the folder to write to (default: this one)")
    init.add_argument("--force", action="store_true", help="replace files that exist")


def _add_install(commands: argparse._SubParsersAction[Parser]) -> None:
    install = _add(
        commands,
        "install",
        "create the tables for exactly-once transactions and batch jobs",
        "Create the schema with the tables for run(once=) and batch jobs on the primary. Existing tables are "
        "left unchanged.",
        INSTALL_HELP,
    )
    _add_subject(install)
    install.add_argument("--sql", action="store_true", help="print the SQL without connecting")
    _add_schema(install)
    _add_timeout(install, 10)


def _add_batch(commands: argparse._SubParsersAction[Parser]) -> None:
    batch = _add(
        commands,
        "batch",
        "list batch jobs, show the progress of one, or reset it",
        "Show or reset the batch jobs (pgroute.batch) recorded in a database.",
        BATCH_HELP,
    )
    batch.example_command = "list"
    actions = batch.add_subparsers(dest="action", metavar="action", required=True)
    for name, text in (
        ("list", "list all jobs"),
        ("show", "show the progress of a job, and its rejected chunks"),
        ("reset", "delete the record of a job, so that its next run starts over"),
    ):
        action = _add(actions, name, text, f"{text[0].upper()}{text[1:]}.", BATCH_HELP)
        _add_subject(action, required=True)
        if name != "list":
            action.add_argument("job", metavar="JOB", help="the job's name")
        if name == "reset":
            action.add_argument("--yes", action="store_true", help="do not ask for confirmation")
        else:
            action.add_argument("--json", action="store_true", help="print JSON (keys: docs/cli.md)")
        _add_schema(action)
        _add_timeout(action, 10)


def _add_demo(commands: argparse._SubParsersAction[Parser]) -> None:
    demo = _add(
        commands,
        "demo",
        "break a throw-away cluster under load, and check every row",
        "Start a primary and two synchronous standbys on this machine, write and read through a router, cause a fault, "
        "repair it, and check that every acknowledged row is there.",
        DEMO_HELP,
    )
    demo.add_argument(
        "--fault",
        choices=FAULTS,
        default="crash",
        metavar="FAULT",
        help="the fault, see below (default: crash)",
    )
    demo.add_argument(
        "--duration", type=seconds(3), default=12.0, metavar="S", help="seconds of load (default: 12)"
    )
    demo.add_argument(
        "--writers", type=count(1), default=4, metavar="N", help="number of writers (default: 4)"
    )
    demo.add_argument(
        "--readers", type=count(0), default=4, metavar="N", help="number of readers (default: 4)"
    )
    demo.add_argument(
        "--async",
        dest="asynchronous",
        action="store_true",
        help="use tasks on an AsyncRouter instead of threads on a Router",
    )
    demo.add_argument(
        "--plot",
        type=picture,
        metavar="FILE",
        help=f"draw the run: {', '.join(PICTURES)} (needs the extra `plot`)",
    )
    demo.add_argument(
        "--pg-version", metavar="V", help="PostgreSQL to run: 16, 16.14 (default: the newest found)"
    )
