"""SIGTERM and SIGHUP end a command as Ctrl-C does: it closes what it has opened, and gives the terminal back."""

from __future__ import annotations

import functools
import signal
import termios
import threading
from typing import TYPE_CHECKING, ParamSpec

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class Ended(KeyboardInterrupt):
    """A signal ends the command; like Ctrl-C, so that the same is cleared away."""


def ended_by_signals(command: Callable[P, int]) -> Callable[P, int]:
    """Have a command that these signals end clear away, and return 143 or 129.

    Signals that are ignored, as under nohup, stay so. So do the handlers of a program that calls the command.
    """

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> int:
        came: list[int] = []

        def end(number: int, _frame: object) -> None:
            if not came:  # a second one, as `timeout` sends it, must not interrupt the clearing away
                came.append(number)
                raise Ended

        ours = []
        if threading.current_thread() is threading.main_thread():
            ours = [number for number in _SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
        for number in ours:
            signal.signal(number, end)
        try:
            status = command(*args, **kwargs)
        except (KeyboardInterrupt, OSError, termios.error):
            if not came:
                raise
            status = 0  # the terminal may be gone
        finally:
            for number in ours:
                signal.signal(number, signal.SIG_DFL)
        return 128 + came[0] if came else status

    return run
