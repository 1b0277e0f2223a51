"""Prints what is shipped with the collector: ``python -m pgroute.contrib.prometheus alerts|dashboard``."""

from __future__ import annotations

import sys
from importlib.resources import files

_FILES = {"alerts": "alerts.yml", "dashboard": "dashboard.json"}


def main(arguments: list[str]) -> int:
    """Print a file, and return the exit status."""
    if len(arguments) != 1 or arguments[0] not in _FILES:
        sys.stderr.write(f"usage: python -m pgroute.contrib.prometheus {'|'.join(_FILES)}\n")
        return 2
    sys.stdout.write((files("pgroute.contrib.prometheus") / _FILES[arguments[0]]).read_text("utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
