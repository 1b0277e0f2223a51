"""The command line: parses the arguments, runs one command, and turns its errors into a message and an exit status."""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING

from pgroute.cli.errors import CommandError, NotInTime
from pgroute.cli.parser import make_parser
from pgroute.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line *argv* (default: that of the process) and return the exit status."""
    args = make_parser().parse_args(argv)
    try:
        # Commands are imported when they run, so that --help is fast and does not need rich.
        status: int = importlib.import_module(f"pgroute.cli.{args.command}").run(args)
        sys.stdout.flush()
    except (CommandError, ConfigError, NotInTime) as exc:
        print(f"pgroute {args.command}: {exc}", file=sys.stderr)
        return 1 if isinstance(exc, NotInTime) else 2
    except BrokenPipeError:
        # The reader has closed the pipe (`pgroute watch | head`); the interpreter's own flush must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        return 130
    return status
