"""What a program writes to: a terminal, a pipe that its reader may close, or nothing at all."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def complain(text: str) -> None:
    """Write a line to stderr, if there is one and it can be written to."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            sys.stderr.write(f"{text}\n")
            sys.stderr.flush()


def drop_output() -> None:
    """Have the interpreter's own flush at its exit not fail again."""
    with contextlib.suppress(OSError, AttributeError):  # closed, or no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def on_terminal(console: Console) -> bool:
    """Return True if the console writes to a terminal, and no variable says to treat it as none.

    Its own flags are for colours: FORCE_COLOR makes it take a pipe for a terminal.
    """
    isatty = getattr(console.file, "isatty", None)
    try:
        return console.is_terminal and isatty is not None and bool(isatty())
    except ValueError:  # closed
        return False


def can_redraw(console: Console) -> bool:
    """Return True if what was written can be drawn over: a terminal that is not dumb, on which rich draws nothing."""
    return on_terminal(console) and not console.is_dumb_terminal
