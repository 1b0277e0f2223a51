"""A regular expression that is compiled when it is first used: most are for what goes wrong, or for few callers."""

from __future__ import annotations

import re
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class LatePattern:
    """Has the methods of a compiled expression that are in use here.

    Args:
        text: the expression.
        flags: as for `re.compile`.
    """

    def __init__(self, text: str, flags: int = 0) -> None:
        self._text = text
        self._flags = flags

    @cached_property
    def compiled(self) -> re.Pattern[str]:
        """The compiled expression."""
        return re.compile(self._text, self._flags)

    def search(self, text: str) -> re.Match[str] | None:
        """Return the first match anywhere."""
        return self.compiled.search(text)

    def fullmatch(self, text: str) -> re.Match[str] | None:
        """Return the match of the whole text."""
        return self.compiled.fullmatch(text)

    def findall(self, text: str) -> list[str]:
        """Return all matches."""
        return self.compiled.findall(text)

    def sub(self, replacement: str | Callable[[re.Match[str]], str], text: str) -> str:
        """Return the text with all matches replaced."""
        return self.compiled.sub(replacement, text)
