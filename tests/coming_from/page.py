"""Reads docs/coming-from.md: the rows of its tables, and the blocks that show the smallest move."""

from __future__ import annotations

import ast
import inspect
import re
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "coming-from.md"

KINDS = ("argument", "call", "connection", "error", "setting", "command", "elsewhere")
"""What a table's marker, a comment above it, says of its rows."""

_SECTION = re.compile(r"(?m)^## (.+)$")
_TABLE = re.compile(r"<!-- (\w+)s: (\w+) -->\n\n?((?:\|.*\n)+)")
_MOVE = re.compile(r"<!-- (before|after): (\w+) -->\n```python\n((?s:.*?))```")
_CODE = re.compile(r"`([^`]+)`")

NOT_NEEDED = "not needed"


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        library: whose.
        kind: one of KINDS.
        theirs: the pieces of code in the first cell.
        ours: the code in the second cell, empty if nothing is needed; None: there is nothing to run.
        note: the third cell.
    """

    library: str
    kind: str
    theirs: tuple[str, ...]
    ours: str | None
    note: str

    def __str__(self) -> str:
        return f"{self.library}: {', '.join(self.theirs)}"

    @property
    def names(self) -> set[str]:
        """What the first cell uses: names of arguments, "pool.method", "method(argument)", classes."""
        found: set[str] = set()
        for code in self.theirs:
            found |= _names(f"f({code})" if self.kind == "argument" and not _is_call(code) else code)
        return found - {"f"}


def _is_call(code: str) -> bool:
    return re.match(r"[\w.]+\(", code) is not None


def _names(code: str) -> set[str]:
    found = set()
    try:
        tree = compile(code, "<cell>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST)
    except SyntaxError:
        return set(re.findall(r"[\w.-]+", code))
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id=owner), attr=name):
                found.add(f"{owner}.{name}")
            case (
                ast.Call(func=ast.Name(id=name), keywords=keywords)
                | ast.Call(func=ast.Attribute(attr=name), keywords=keywords)
            ):
                found |= {keyword.arg for keyword in keywords if keyword.arg}
                found |= {f"{name}({keyword.arg})" for keyword in keywords if keyword.arg}
            case ast.Name(id=name):
                found.add(name)
    return found


def _cells(line: str) -> list[str]:
    return [cell.strip().replace(r"\|", "|") for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]


def _row(library: str, kind: str, line: str) -> Row:
    theirs, ours, note = _cells(line)
    code: str | None = None
    if ours == NOT_NEEDED:
        code = "" if kind in ("argument", "setting") else None
    elif match := re.fullmatch(r"`([^`]+)`", ours):
        code = match[1]
    elif ours != "none":
        raise ValueError(
            f"{library}: the second cell of {line!r} is neither code, nor {NOT_NEEDED!r}, nor 'none'"
        )
    return Row(library, kind, tuple(_CODE.findall(theirs)), code, note)


def read_rows() -> list[Row]:
    """Return the rows of all tables in the page."""
    return [
        _row(library, kind, line)
        for kind, library, table in _TABLE.findall(PAGE.read_text("utf-8"))
        for line in table.splitlines()[2:]
    ]


def read_moves() -> dict[str, dict[str, str]]:
    """Return the blocks that show the smallest move: by library, by "before" and "after"."""
    moves: dict[str, dict[str, str]] = {}
    for which, library, code in _MOVE.findall(PAGE.read_text("utf-8")):
        moves.setdefault(library, {})[which] = inspect.cleandoc(code)
    return moves


def read_policy() -> dict[str, object]:
    """Return what the policy in the page defines."""
    [code] = re.findall(r"<!-- policy: hasql -->\n```python\n((?s:.*?))```", PAGE.read_text("utf-8"))
    names: dict[str, object] = {}
    exec(code, names)
    return names
