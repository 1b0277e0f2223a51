"""Makes texts from servers and name servers safe to log and to print: one line without control characters."""

from __future__ import annotations

MOST = 1000
"""The most characters of a text: longer than any message of a server, and far less than a screen."""

_CUT = "..."


def printable(text: str | bytes, most: int = MOST) -> str:
    r"""Return a text as one line of printable characters.

    White space becomes a blank. Invisible characters (control characters, those that change the writing direction, lone
    surrogates) are escaped as in Python: ``\x1b``, ``\u202e``. The result of a result is the same.

    Args:
        text: any text; bytes are decoded as UTF-8.
        most: the most characters; three dots replace the rest.
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
