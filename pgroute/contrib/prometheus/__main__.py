"""Prints what is shipped with the collector: ``python -m pgroute.contrib.prometheus alerts|dashboard``."""

from __future__ import annotations

import contextlib
import os
import sys
from importlib.resources import files

_FILES = {"alerts": "alerts.yml", "dashboard": "dashboard.json"}


def main(arguments: list[str]) -> int:
    """Print a file, and return the exit status."""
    if len(arguments) != 1 or arguments[0] not in _FILES:
        _complain(f"usage: python -m pgroute.contrib.prometheus {'|'.join(_FILES)}")
        return 2
    text = (files("pgroute.contrib.prometheus") / _FILES[arguments[0]]).read_text("utf-8")
    try:
        if sys.stdout is not None:
            sys.stdout.write(text)
            sys.stdout.flush()
    except OSError as exc:
        with contextlib.suppress(OSError, AttributeError):  # the interpreter flushes once more at its exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(exc, BrokenPipeError):
            return 141
        _complain(f"pgroute.contrib.prometheus: {exc}")
        return 2
    return 0


def _complain(text: str) -> None:
    if sys.stderr is not None:
        sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
