"""What the encoding of stdout lacks is written as an escape."""

from __future__ import annotations

import io
import sys

_FAILING = ("strict", "surrogateescape")


def escape_output() -> None:
    r"""Have stdout show a character that its encoding lacks as `\u0438`, unless the user has chosen otherwise."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors in _FAILING:
        sys.stdout.reconfigure(errors="backslashreplace")
