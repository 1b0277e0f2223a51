"""A regular expression that is compiled when it is first used: most are for what goes wrong, or for few callers."""

from __future__ import annotations

import re
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


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

    def search(self, text: str, start: int = 0) -> re.Match[str] | None:
        """Return the first match anywhere behind the start."""
        return self.compiled.search(text, start)

    def match(self, text: str, start: int = 0) -> re.Match[str] | None:
        """Return the match that begins at the start."""
        return self.compiled.match(text, start)

    def fullmatch(self, text: str) -> re.Match[str] | None:
        """Return the match of the whole text."""
        return self.compiled.fullmatch(text)

    def finditer(self, text: str, start: int = 0) -> Iterator[re.Match[str]]:
        """Return an iterator over all matches behind the start."""
        return self.compiled.finditer(text, start)

    def findall(self, text: str) -> list[str]:
        """Return all matches."""
        return self.compiled.findall(text)

    def sub(self, replacement: str | Callable[[re.Match[str]], str], text: str) -> str:
        """Return the text with all matches replaced."""
        return self.compiled.sub(replacement, text)
