"""The arguments of every command."""

from __future__ import annotations

import argparse
import math
import re
import textwrap
from typing import Any, NoReturn

import pgroute
from pgroute.core.sql.schema import DEFAULT

from .texts import (
    BATCH_HELP,
    COMPLETION_HELP,
    DEMO_HELP,
    DSN_HELP,
    EPILOG,
    INSTALL_HELP,
    STATUS_HELP,
    WAIT_HELP,
    WATCH_HELP,
)

FAULTS = ("crash", "freeze", "switchover", "split-brain", "standby-loss")
PICTURES = (".svg", ".png", ".pdf")
SHELLS = ("bash", "zsh", "tcsh")


_COLUMNS = 78
_QUOTED = re.compile(r"(?s)(['\"]).*\1")


class Parser(argparse.ArgumentParser):
    """A parser whose errors repeat no DSN, since it may hold a password.

    Attributes:
        first: what stands before the DSN, for who began with that.
    """

    first = ""

    def error(self, message: str) -> NoReturn:
        """Print what is wrong, and exit with status 2."""
        dsn = any(map(_like_a_dsn, message.split()))
        if dsn and self.first and "invalid choice" in message:
            super().error(f"expected a command before the DSN, as in `{self.prog} {self.first} DSN`")
        if dsn:
            message = _QUOTED.sub("***", message)  # with what stands behind a blank in it
        hidden = _not_an_option if message.startswith("unrecognized arguments: ") else _like_a_dsn
        head, colon, words = message.partition(": ")
        super().error(head + colon + " ".join("***" if hidden(word) else word for word in words.split()))


def _not_an_option(word: str) -> bool:
    # What stands behind an option that there is not, or is part of it, may be a password: `--password x`, `-Wx`.
    return not word.startswith("-") or "=" in word or (len(word) > 2 and not word.startswith("--"))


def _like_a_dsn(word: str) -> bool:
    return "://" in word or "=" in word.lstrip("-'\"")


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
    parser.first = "status"
    parser.add_argument("--version", action="version", version=f"pgroute {pgroute.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    _add_demo(commands)
    _add_status(commands)
    _add_watch(commands)
    _add_dsn(commands)
    _add_wait(commands)
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


def _add_dsn_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dsn", nargs="?", default="", metavar="DSN", help="libpq URI or keyword string")


def _add_names(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--resolver",
        choices=("system", "dns"),
        default="system",
        help="what names are looked up with (default: system)",
    )
    parser.add_argument(
        "--addresses",
        choices=("one-host", "expand"),
        default="one-host",
        help="expand: each address of a name is a host of its own (default: one-host)",
    )
    parser.add_argument(
        "--srv-domain",
        action="append",
        dest="srv_domains",
        metavar="DOMAIN",
        help="SRV records may lead below this domain too; may be repeated",
    )


def names(args: argparse.Namespace) -> dict[str, Any]:
    """Return what the arguments say about names, as a router takes it."""
    return {name: getattr(args, name) for name in ("resolver", "addresses", "srv_domains")}


def _add_timeout(parser: argparse.ArgumentParser, default: float) -> None:
    parser.add_argument(
        "--timeout",
        type=seconds(0.1),
        default=default,
        metavar="S",
        help=f"wait at most S seconds (default: {default:g})",
    )


def _add_schema(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--schema",
        default=DEFAULT,
        metavar="NAME",
        help=f"the schema, as it is, without quotes (default: {DEFAULT})",
    )
    parser.add_argument(
        "--schema-owner",
        metavar="ROLE",
        help="trust this role too with the schema (docs/transactions.md)",
    )


def _add_role(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--role",
        choices=("writer", "reader"),
        default="writer",
        help="writer: the primary; reader: a standby, the primary if there is none (default: writer)",
    )


def _add_status(commands: argparse._SubParsersAction[Parser]) -> None:
    status = _add(
        commands,
        "status",
        "say what every host of a DSN is, and where writers and readers would go",
        "Ask every host of a DSN once, and say what it is and where writers and readers would go.",
        STATUS_HELP,
    )
    _add_dsn_argument(status)
    _add_names(status)
    status.add_argument("--json", action="store_true", help="print a JSON object (keys: docs/cli.md)")
    status.add_argument("--watch", action="store_true", help="go on, and tell it again when it changes")
    _add_timeout(status, 5)


def _add_watch(commands: argparse._SubParsersAction[Parser]) -> None:
    watch = _add(
        commands,
        "watch",
        "show the hosts of a DSN as they change",
        "Show the hosts of a DSN as they change.",
        WATCH_HELP,
    )
    _add_dsn_argument(watch)
    _add_names(watch)
    watch.add_argument(
        "--duration", type=seconds(0.1), default=math.inf, metavar="S", help="end after S seconds"
    )


def _add_dsn(commands: argparse._SubParsersAction[Parser]) -> None:
    dsn = _add(
        commands,
        "dsn",
        "print the conninfo of the one host that holds a role now",
        "Print a libpq keyword string for the one host that holds a role now, with all else as in the DSN.",
        DSN_HELP,
    )
    _add_dsn_argument(dsn)
    _add_names(dsn)
    _add_role(dsn)
    dsn.add_argument(
        "--with-password", action="store_true", help="print passwords too, where the DSN has them"
    )
    _add_timeout(dsn, 10)


def _add_wait(commands: argparse._SubParsersAction[Parser]) -> None:
    wait = _add(
        commands,
        "wait",
        "return once a role can be served",
        "Return once a session for a role can be had: for scripts that deploy or test.",
        WAIT_HELP,
    )
    _add_dsn_argument(wait)
    _add_names(wait)
    _add_role(wait)
    wait.add_argument("--quiet", action="store_true", help="print nothing when it comes about")
    _add_timeout(wait, 60)


def _add_install(commands: argparse._SubParsersAction[Parser]) -> None:
    install = _add(
        commands,
        "install",
        "create the tables for exactly-once transactions and batch jobs",
        "Create the schema, with the tables for run(once=) and batch jobs, on the primary. What is there stays "
        "as it is.",
        INSTALL_HELP,
    )
    _add_dsn_argument(install)
    install.add_argument("--sql", action="store_true", help="print the SQL and contact nobody")
    _add_schema(install)
    _add_names(install)
    _add_timeout(install, 10)


def _add_batch(commands: argparse._SubParsersAction[Parser]) -> None:
    batch = _add(
        commands,
        "batch",
        "list batch jobs, show how far one is, or have it forgotten",
        "Ask the primary of a DSN for the batch jobs that it knows (pgroute.batch).",
        BATCH_HELP,
    )
    batch.first = "list"
    actions = batch.add_subparsers(dest="action", metavar="action", required=True)
    for name, text in (
        ("list", "list all jobs"),
        ("show", "show how far a job is, and its chunks that were set aside"),
        ("reset", "forget what a job has done, so that it begins anew when it is run again"),
    ):
        action = _add(actions, name, text, f"{text[0].upper()}{text[1:]}.", BATCH_HELP)
        action.add_argument("dsn", metavar="DSN", help="libpq URI or keyword string")
        if name != "list":
            action.add_argument("job", metavar="JOB", help="the job's name")
        if name == "reset":
            action.add_argument("--yes", action="store_true", help="do not ask")
        else:
            action.add_argument("--json", action="store_true", help="print JSON (keys: docs/cli.md)")
        _add_schema(action)
        _add_names(action)
        _add_timeout(action, 10)


def _add_demo(commands: argparse._SubParsersAction[Parser]) -> None:
    demo = _add(
        commands,
        "demo",
        "break a throw-away cluster under load, and count the rows",
        "Start a primary and two synchronous standbys on this machine, write and read through a router, cause a fault, "
        "mend it, and look for every row that was acknowledged.",
        DEMO_HELP,
    )
    demo.add_argument(
        "--fault", choices=FAULTS, default="crash", metavar="FAULT", help="what happens (default: crash)"
    )
    demo.add_argument(
        "--duration", type=seconds(3), default=12.0, metavar="S", help="seconds of load (default: 12)"
    )
    demo.add_argument("--writers", type=count(1), default=4, metavar="N", help="writers (default: 4)")
    demo.add_argument("--readers", type=count(0), default=4, metavar="N", help="readers (default: 4)")
    demo.add_argument(
        "--async",
        dest="asynchronous",
        action="store_true",
        help="tasks on an AsyncRouter, not threads on a Router",
    )
    demo.add_argument(
        "--plot",
        type=picture,
        metavar="FILE",
        help=f"draw what happened: {', '.join(PICTURES)} (needs the extra `plot`)",
    )
    demo.add_argument(
        "--pg-version", metavar="V", help="PostgreSQL to run: 16, 16.14 (default: the newest found)"
    )


class seconds:  # noqa: N801  (argparse shows the name of a type)
    """Reads a number of seconds."""

    def __init__(self, least: float) -> None:
        self._least = least

    def __call__(self, text: str) -> float:
        """Return the number, or raise what argparse shows."""
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not self._least <= value <= 1e6:
            raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds of at least {self._least:g}")
        return value


class count:  # noqa: N801
    """Reads a number of threads or tasks."""

    def __init__(self, least: int) -> None:
        self._least = least

    def __call__(self, text: str) -> int:
        """Return the number, or raise what argparse shows."""
        if not text.isdecimal() or not self._least <= int(text) <= 200:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {self._least} to 200")
        return int(text)


def picture(text: str) -> str:
    """Return a file name if its ending is that of a picture which can be drawn, or raise what argparse shows."""
    if not text.lower().endswith(PICTURES):
        raise argparse.ArgumentTypeError(f"{text!r} does not end in one of {', '.join(PICTURES)}")
    return text
