"""The terminal or pipe that a command writes to, and the log output of libraries, which is suppressed."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import sys
import termios
import time
import tty
from typing import TYPE_CHECKING

from pgroute.cli.errors import CommandError
from pgroute.runtime.console import on_terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console
    from rich.table import Table

_ENDLESS = 10_000
"""The width of a pipe: lines are not wrapped or cut."""
_LINES = 25


def open_console() -> Console:
    """Return the console for stdout: with colours on a terminal, plain whole lines in a pipe.

    Raises:
        CommandError: rich is not installed.
    """
    try:
        from rich.console import Console
    except ModuleNotFoundError:
        raise CommandError(
            'this needs the package rich: pip install rich (the extra "cli" brings it)'
        ) from None

    class PipedConsole(Console):
        def on_broken_pipe(self) -> None:
            raise  # noqa: PLE0704  (for `main`; rich would end the process with status 1)

    console = PipedConsole(highlight=False, markup=False, emoji=False, soft_wrap=False)
    if not on_terminal(console):
        console.size = (_ENDLESS, _LINES)  # both: rich takes a dumb terminal to have 80 columns otherwise
    return console


def as_text(value: str | bytes) -> str:
    """Return text of the server as str: psycopg gives bytes if the database has no encoding (SQL_ASCII)."""
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value


def print_table(console: Console, table: Table) -> None:
    """Print a table; in a pipe without trailing blanks."""
    if on_terminal(console):
        console.print(table)
        return
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        print(line.rstrip(), file=console.file)


@contextlib.contextmanager
def quit_key() -> Iterator[Callable[[float], bool]]:
    """Give a function that waits for a number of seconds, and returns True as soon as q is pressed.

    Without a terminal to read from, or in the background, it only waits. Ctrl-C works as usual.
    """
    if sys.stdin is None or not sys.stdin.isatty() or _in_background():
        yield _only_wait
        return
    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)

    def wait(seconds: float) -> bool:
        ready, _, _ = select.select([keyboard], [], [], seconds)
        pressed = os.read(keyboard, 1024) if ready else b""
        if ready and not pressed:  # end of file
            time.sleep(seconds)
        return b"q" in pressed.lower()

    tty.setcbreak(keyboard)
    try:
        yield wait
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


def _in_background() -> bool:
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) != os.getpgrp()
    except OSError:
        return False  # no controlling terminal


def _only_wait(seconds: float) -> bool:
    time.sleep(seconds)
    return False


def silence_libraries() -> None:
    """Keep log messages of the pools and the router off the terminal: the command shows their content itself."""
    for name in ("pgroute", "psycopg"):
        logger = logging.getLogger(name)
        if not any(isinstance(handler, logging.NullHandler) for handler in logger.handlers):
            logger.addHandler(logging.NullHandler())
