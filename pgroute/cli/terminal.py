"""The screen or the pipe that a command writes to, and the quiet of the libraries meanwhile."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pgroute.cli.errors import CommandError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_ENDLESS = 10_000
"""The width of a pipe: nothing is wrapped or cut there."""


def open_console() -> Console:
    """Return the console for stdout: colours on a terminal, plain whole lines in a pipe.

    Raises:
        CommandError: rich is not installed.
    """
    try:
        from rich.console import Console
    except ModuleNotFoundError:
        raise CommandError(
            'this needs the package rich: pip install rich (the extra "cli" brings it)'
        ) from None
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=False)
    if not console.is_terminal:
        console.width = _ENDLESS
    return console


def print_table(console: Console, table: Table) -> None:
    """Print a table; in a pipe without the blanks that fill up its last column."""
    if console.is_terminal:
        console.print(table)
        return
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        print(line.rstrip(), file=console.file)


def silence_libraries() -> None:
    """Keep warnings of the pools and the router off the terminal: what they say, the command shows in its own way."""
    for name in ("pgroute", "psycopg"):
        logger = logging.getLogger(name)
        if not any(isinstance(handler, logging.NullHandler) for handler in logger.handlers):
            logger.addHandler(logging.NullHandler())
