"""The argument parser that repeats no DSN in its errors, and the types of arguments."""

from __future__ import annotations

import argparse
import math
import re
import sys
from typing import TYPE_CHECKING, NoReturn

from pgroute.errors import holds_password

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

PICTURES = (".svg", ".png", ".pdf")
_QUOTED = re.compile(r"(?s)(['\"]).*\1")


class Parser(argparse.ArgumentParser):
    """A parser whose errors repeat no DSN, since it may hold a password.

    Attributes:
        example_command: a command to suggest to a user who began with the DSN.
    """

    example_command = ""

    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        # Unlike argparse's, help that nobody reads is an error: without a buffer it shows only here.
        if file is not None and file is sys.stdout:
            file.write(message)
        else:
            super()._print_message(message, file)

    def error(self, message: str) -> NoReturn:
        """Print the error and exit with status 2."""
        if sys.stderr is None:  # argparse would print the usage to stdout
            self.exit(2)
        dsn = any(map(_like_a_dsn, message.split()))
        if dsn and self.example_command and "invalid choice" in message:
            super().error(
                f"expected a command before the DSN, as in `{self.prog} {self.example_command} DSN`"
            )
        if dsn:
            message = _QUOTED.sub("***", message)  # a quoted DSN may contain blanks
        hidden = _not_an_option if message.startswith("unrecognized arguments: ") else _like_a_dsn
        head, colon, words = message.partition(": ")
        super().error(head + colon + " ".join("***" if hidden(word) else word for word in words.split()))


def _not_an_option(word: str) -> bool:
    # The value of an unknown option may be a password: `--password x`, `-Wx`.
    return not word.startswith("-") or "=" in word or (len(word) > 2 and not word.startswith("--"))


def _like_a_dsn(word: str) -> bool:
    return "://" in word or "=" in word.lstrip("-'\"") or holds_password(word)


class seconds:  # noqa: N801  (argparse shows the name of the type)
    """Reads a number of seconds."""

    def __init__(self, least: float) -> None:
        self._least = least

    def __call__(self, text: str) -> float:
        """Return the number, or raise the error that argparse shows."""
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not self._least <= value <= 1e6:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a number of seconds of at least {self._least:g}"
            )
        return value


class count:  # noqa: N801
    """Reads a number of threads, tasks or processes."""

    def __init__(self, least: int, most: int = 200) -> None:
        self._least = least
        self._most = most

    def __call__(self, text: str) -> int:
        """Return the number, or raise the error that argparse shows."""
        if not (text.isdecimal() and len(text) < 10 and self._least <= int(text) <= self._most):
            raise argparse.ArgumentTypeError(f"{text!r} is not an integer from {self._least} to {self._most}")
        return int(text)


def picture(text: str) -> str:
    """Return a file name that ends in one of `PICTURES`, or raise the error that argparse shows."""
    if not text.lower().endswith(PICTURES):
        raise argparse.ArgumentTypeError(f"{text!r} does not end in one of {', '.join(PICTURES)}")
    return text
