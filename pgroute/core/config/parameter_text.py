"""The text of a libpq parameter that is given as a Python value."""

from __future__ import annotations

import os

from pgroute.core.config.libpq import is_secret
from pgroute.errors import ConfigError, presentable


def parameter_text(name: str, value: object) -> str:
    """Return the value of a libpq parameter as text; ConfigError for what has no text, or one that cannot be sent."""
    if isinstance(value, (str, int, float, os.PathLike)) and presentable(value) is value:
        text = str(value)
        if "\0" not in text and text == text.encode(errors="ignore").decode():
            return text
        accepted = "expected no NUL character and no lone surrogate"
    else:
        accepted = "expected a str, a number or a path"
    raise ConfigError(name, value, accepted, secret=is_secret(name))
