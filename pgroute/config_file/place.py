"""A key of a configuration file, for errors that name both, and the texts that they must not show."""

from __future__ import annotations

import re
from dataclasses import field
from typing import TYPE_CHECKING, Any, TypeVar

from pgroute.core.late_dataclass import dataclass
from pgroute.core.printable import printable
from pgroute.core.spelling import nearest
from pgroute.errors import LEAST_MASKED, ConfigError, holds_password, presentable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping
    from pathlib import Path

T = TypeVar("T")

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_HEAD = re.compile(r"[.\[]")


@dataclass(frozen=True, slots=True)
class Place:
    """A key of a file.

    Attributes:
        file: the file.
        key: with the tables around it, as in ``routers.shop.writer``; empty for the whole file.
        hidden: texts from variables and files, which no error shows; shared by all places of a file.
        parts: the parts of each text by its key, and of each part whether it is written in this file; shared likewise.
    """

    file: Path
    key: str = ""
    hidden: list[str] = field(default_factory=list, repr=False)
    parts: dict[str, list[tuple[str, bool]]] = field(default_factory=dict, repr=False)

    def below(self, name: str) -> Place:
        """Return the place of a key in this table."""
        # What is left of a DSN that is cut does not look like one.
        text = "***" if holds_password(name) else printable(name, 60)
        shown = name if _BARE.fullmatch(name) else f'"{text}"'
        return Place(self.file, f"{self.key}.{shown}" if self.key else shown, self.hidden, self.parts)

    def error(self, value: object, accepted: str, *, secret: bool = False) -> ConfigError:
        """Return the error for the value of this key. Tables and lists are named, not shown."""
        shown = value if isinstance(value, (str, int, float)) or value is None else type_name(value)
        return self._error(self.key, shown, accepted, secret=secret)

    def refusal(self, exc: ConfigError, given: Collection[str]) -> ConfigError:
        """Return the error of a constructor that was given this table, with the key that it is about.

        Args:
            exc: the error.
            given: the keys of the table; the parameter may also be a part of one, such as a port of the DSN.
        """
        known = _HEAD.split(exc.parameter)[0] in given
        key = f"{self.key}.{exc.parameter}" if known else f"{exc.parameter} of {self.key}"
        return self._error(key, exc.value, exc.accepted)

    def _error(self, key: str, value: object, accepted: str, *, secret: bool = False) -> ConfigError:
        text = str(presentable(value))
        secret = secret or any(part in text or text in part for part in self.hidden if part)
        for part in sorted(self.hidden, key=len, reverse=True):
            if len(part) >= LEAST_MASKED:
                accepted = accepted.replace(part, "***")
        return ConfigError(key or "configuration", value, f"{accepted} (in {self.file})", secret=secret)


def check_keys(
    place: Place,
    table: Iterable[str],
    known: Iterable[str],
    homes: Iterable[tuple[str, Collection[str]]] = (),
) -> None:
    """Raise ConfigError for the first key that is not known; it names the nearest one, or where the key belongs.

    Args:
        place: the table's.
        table: its keys.
        known: the keys that it may have.
        homes: other places with the keys that belong there.
    """
    known, homes = list(known), list(homes)
    for name in table:
        if name in known:
            continue
        shown = place.below(name)
        # Its value is not told: it may be a misspelt password.
        error = Place(place.file, "key", place.hidden).error
        if home := next((where for where, names in homes if name in names), ""):
            raise error(shown.key, f"it belongs in {home}")
        if near := nearest(name, known):
            raise error(shown.key, f"did you mean {near}?")
        for where, names in homes:
            if near := nearest(name, names):
                raise error(shown.key, f"did you mean {near}, which belongs in {where}?")
        raise error(shown.key, f"expected one of {', '.join(sorted(known))}")


def construct(place: Place, make: Callable[..., T], arguments: Mapping[str, Any]) -> T:
    """Call a constructor; its ConfigError names the file and the key.

    Raises:
        ConfigError: from the constructor.
    """
    try:
        return make(**arguments)
    except ConfigError as exc:
        refused = exc
    raise place.refusal(refused, arguments)


def table_at(place: Place, value: object) -> Mapping[str, Any]:
    """Return a table of the file; nothing, or "none", is an empty one.

    Raises:
        ConfigError: it is something else, or has keys that are not texts.
    """
    if value is None or value == "none":
        return {}
    if not isinstance(value, dict):
        # A text here may be a secret in the wrong place.
        raise place.error(None, f"expected a table of keys and values, not {type_name(value)}", secret=True)
    for key in value:
        if not isinstance(key, str):
            shown = "***" if holds_password(key) else presentable(key)
            raise place.error(None, f"expected keys that are texts (put {shown} in quotes)")
    return value


def type_name(value: object) -> str:
    """Return the type of a value in the words of a configuration file."""
    names = {dict: "a table", list: "a list", str: "a text", bool: "true or false", type(None): "nothing"}
    return names.get(type(value), type(value).__name__)
