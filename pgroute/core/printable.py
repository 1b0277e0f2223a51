"""Texts of others, as one line that a log and a terminal show and do not obey."""

from __future__ import annotations

MOST = 1000
"""Characters of a text, at most: more than any server's own message, and little beside a page of them."""

_CUT = "..."


def printable(text: str | bytes, most: int = MOST) -> str:
    r"""Return what a server, a name server or a table says, as one line without characters that do something.

    White space of any kind is a blank. What cannot be seen (control characters, those that turn the direction of
    writing, lone surrogates) stands there as Python writes it: ``\x1b``, ``\u202e``. Doing it twice changes nothing.

    Args:
        text: any text; bytes are taken for UTF-8.
        most: characters, at most; the rest is left out, however long it is, and three dots stand for it.
    """
    if isinstance(text, bytes):
        text = text[: 4 * (most + 1)].decode("utf-8", "replace")
    line = text[: most + 1]
    if not line.isprintable():
        line = "".join(map(_shown, line))
    return line.strip() if len(line) <= most else line[: most - len(_CUT)].strip() + _CUT


def _shown(character: str) -> str:
    if character.isprintable():
        return character
    return " " if character.isspace() else character.encode("unicode_escape", "surrogatepass").decode()
