"""The command line: parses the arguments, runs one command, and turns its errors into a message and an exit status."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

from pgroute.cli.encoding import escape_output
from pgroute.cli.errors import CommandError, NotInTime
from pgroute.cli.parser import make_parser
from pgroute.cli.signals import ended_by_signals
from pgroute.errors import ConfigError
from pgroute.runtime.console import complain, drop, flush_errors

if TYPE_CHECKING:
    from collections.abc import Sequence

_FOR_PROGRAMS = ("completion", "dsn", "install")
"""Their output must be exact, or fail."""


@ended_by_signals
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line *argv* (default: that of the process) and return the exit status."""
    name = "pgroute"
    try:
        try:
            args = make_parser().parse_args(argv)
        finally:
            _flush()  # --help and wrong arguments end the process
        name = f"pgroute {args.command}"
        if args.command not in _FOR_PROGRAMS:
            escape_output()
        # Commands are imported when they run, so that --help is fast and does not need rich.
        status: int = importlib.import_module(f"pgroute.cli.{args.command}").run(args)
        _flush()
    except (CommandError, ConfigError, NotInTime) as exc:
        complain(f"{name}: {exc}")
        return 1 if isinstance(exc, NotInTime) else 2
    except BrokenPipeError:
        drop(sys.stdout)  # the reader has closed the pipe (`pgroute watch | head`)
        return 141
    except (OSError, UnicodeError) as exc:
        complain(f"{name}: {exc}")
        try:
            print(end="", flush=True)
        except OSError:  # such as a full disk
            drop(sys.stdout)
        return 2
    except KeyboardInterrupt:
        return 130
    return status


def _flush() -> None:
    flush_errors()
    if sys.stdout is not None:
        sys.stdout.flush()
