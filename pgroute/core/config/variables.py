"""Replaces ``${NAME}`` and ``${NAME:-default}`` in a text by variables."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pgroute.core.late_pattern import LatePattern
from pgroute.errors import holds_password

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_REFERENCE = LatePattern(r"\$\$\{|\$\{(?P<inside>[^}]*)\}|\$\{", re.DOTALL)
_INSIDE = LatePattern(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<default>:-.*)?", re.DOTALL)
_ESCAPE = "$${"


def expand(text: str, variables: Mapping[str, str], *, secret: bool = False) -> Iterator[tuple[str, bool]]:
    """Yield the parts of the text with its variables replaced, and of each whether it is written in the text.

    What comes from a variable is not expanded again. As in a shell, ``:-`` gives the value of a variable that is not
    set or empty. ``$${`` gives ``${``.

    Args:
        text: the text.
        variables: their values by name.
        secret: the text is a secret, so no default is accepted.

    Raises:
        ValueError: a reference is malformed or its variable is not set. The message shows no value.
    """
    end = 0
    for match in _REFERENCE.finditer(text):
        yield text[end : match.start()], True
        end = match.end()
        if match[0] == _ESCAPE:
            yield "${", True
        elif match["inside"] is None:
            raise ValueError("a '${' without '}' (write '$${' for the characters themselves)")
        else:
            yield _value(match["inside"], variables, secret=secret)
    yield text[end:], True


def _value(inside: str, variables: Mapping[str, str], *, secret: bool) -> tuple[str, bool]:
    parts = _INSIDE.fullmatch(inside)
    if parts is None:
        raise ValueError("expected ${NAME} or ${NAME:-default}, the name of letters, digits and '_'")
    name, default = parts["name"], parts["default"]
    if default is None:
        if name not in variables:
            raise ValueError(f"the environment variable {name} is not set")
        return variables[name], False
    default = default.removeprefix(":-")
    if "${" in default:
        raise ValueError(f"the default of {name} holds another variable, which is not expanded")
    if secret or holds_password(default):
        raise ValueError(f"a secret has no default: write ${{{name}}}, and set the variable")
    value = variables.get(name)
    return (value, False) if value else (default, True)
