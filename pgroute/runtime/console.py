"""What a program writes to: a terminal, a pipe that its reader may close, or nothing at all."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console


def complain(text: str) -> None:
    """Write a line to stderr, if there is one and it can be written to."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            sys.stderr.write(f"{text}\n")
    flush_errors()


def flush_errors() -> None:
    """Write out what stderr holds, or drop it: the interpreter's own flush would change the exit status."""
    if sys.stderr is not None:
        try:
            sys.stderr.flush()
        except OSError:
            drop(sys.stderr)


def drop(stream: TextIO) -> None:
    """Have the interpreter's own flush at its exit not fail again."""
    # Closed, no file, or None.
    with contextlib.suppress(OSError, AttributeError), Path(os.devnull).open("wb") as nothing:
        os.dup2(nothing.fileno(), stream.fileno())


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
