"""Whether a value is one of the known names, and which of them somebody may have meant who misspelt one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def is_one_of(value: object, *known: str) -> bool:
    """Return True for a text that is one of the known ones. Other objects are not compared: their ``==`` may raise."""
    return isinstance(value, str) and value in known


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is most like the given one, None if none is."""
    import difflib  # for mistakes alone

    return next(iter(difflib.get_close_matches(name, known, n=1)), None)
