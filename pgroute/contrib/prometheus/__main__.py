"""Prints what is shipped with the collector: ``python -m pgroute.contrib.prometheus alerts|dashboard``."""

from __future__ import annotations

import sys
from importlib.resources import files

from pgroute.runtime.console import complain, drop

_FILES = {"alerts": "alerts.yml", "dashboard": "dashboard.json"}


def main(arguments: list[str]) -> int:
    """Print a file, and return the exit status."""
    if len(arguments) != 1 or arguments[0] not in _FILES:
        complain(f"usage: python -m pgroute.contrib.prometheus {'|'.join(_FILES)}")
        return 2
    text = (files("pgroute.contrib.prometheus") / _FILES[arguments[0]]).read_text("utf-8")
    try:
        if sys.stdout is not None:
            sys.stdout.write(text)
            sys.stdout.flush()
    except OSError as exc:
        drop(sys.stdout)
        if isinstance(exc, BrokenPipeError):
            return 141
        complain(f"pgroute.contrib.prometheus: {exc}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
