"""What a console of rich writes to. Its own flags are for colours: FORCE_COLOR makes it take a pipe for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def on_terminal(console: Console) -> bool:
    """Return True if the console writes to a terminal, and no variable says to treat it as none."""
    isatty = getattr(console.file, "isatty", None)
    try:
        return console.is_terminal and isatty is not None and bool(isatty())
    except ValueError:  # closed
        return False


def can_redraw(console: Console) -> bool:
    """Return True if what was written can be drawn over: a terminal that is not dumb, on which rich draws nothing."""
    return on_terminal(console) and not console.is_dumb_terminal
