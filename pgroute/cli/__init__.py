"""The command line: parses the arguments, runs one command, and turns its errors into a message and an exit status."""

from __future__ import annotations

import contextlib
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
        if sys.stdout is not None:
            sys.stdout.flush()
    except (CommandError, ConfigError, NotInTime) as exc:
        print(f"pgroute {args.command}: {exc}", file=sys.stderr)
        return 1 if isinstance(exc, NotInTime) else 2
    except BrokenPipeError:
        _drop_output()  # the reader has closed the pipe (`pgroute watch | head`)
        return 141
    except (OSError, UnicodeError) as exc:
        print(f"pgroute {args.command}: {exc}", file=sys.stderr)
        try:
            print(end="", flush=True)
        except OSError:  # such as a full disk
            _drop_output()
        return 2
    except KeyboardInterrupt:
        return 130
    return status


def _drop_output() -> None:
    """Have the interpreter's own flush at its exit not fail again."""
    with contextlib.suppress(OSError, AttributeError):  # closed, or no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
