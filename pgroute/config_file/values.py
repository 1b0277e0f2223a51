"""The values of a configuration file: variables, secrets from elsewhere, and references to Python objects."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
from collections.abc import Iterator, Mapping

from pgroute.config_file.place import Place, check_keys, type_name
from pgroute.config_file.source import read_secret
from pgroute.core.config.variables import expand
from pgroute.core.late_dataclass import dataclass
from pgroute.core.printable import printable
from pgroute.errors import ConfigError, holds_password

_SOURCES = ("from_env", "from_file")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OBJECT = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_WORDS = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Option:
    """What may be written for an option.

    Attributes:
        text: it accepts a text as such.
        none: it accepts None.
        reference: it accepts a Python object, written as "module:name".
        many: it is a list.
        secret: its value is a secret.
        only_text: a number would not be what was written: `012` and `1_0` are other numbers, `yes` is true.
    """

    text: bool = True
    none: bool = False
    reference: bool = False
    many: bool = False
    secret: bool = False
    only_text: bool = False


class _Noting(Mapping[str, str]):
    """The environment, which notes what was taken from it."""

    def __init__(self, noted: list[str]) -> None:
        self._noted = noted

    def __getitem__(self, name: str) -> str:
        value = os.environ[name]
        self._noted.append(value)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(os.environ)

    def __len__(self) -> int:
        return len(os.environ)


def option_of(annotation: str) -> Option:
    """Return what the annotation of a parameter allows."""
    words = set(_WORDS.findall(annotation))
    return Option(
        text=bool(words & {"str", "Literal"}),
        none="None" in words,
        reference=bool(words & {"Callable", "type", "Policy", "BaseResolver", "RowFactory"}),
        many="Collection" in words,
    )


def is_source(value: Mapping[str, object]) -> bool:
    """Return True for a table that says where a text comes from."""
    return bool(set(value) & set(_SOURCES))


def resolve(place: Place, value: object, option: Option) -> object:
    """Return the value of an option for Python.

    Raises:
        ConfigError: a variable, a file or a reference is not there, or the value is not one that a file may hold.
    """
    if option.many and isinstance(value, list):
        one = Option(text=option.text)
        return [resolve(place.below(str(number)), each, one) for number, each in enumerate(value, 1)]
    if value is None:
        if not option.none:
            raise place.error(None, "expected a value")
        return None
    if isinstance(value, (bool, int, float)):
        if option.only_text:
            raise place.error(value, "expected a text: put it in quotes", secret=option.secret)
        return value
    if isinstance(value, dict):
        text, given = _from_elsewhere(place, value), True
        place.hidden.append(text)
        place.parts[place.key] = [(text, False)]
    elif isinstance(value, str):
        text, given = _expanded(place, value, secret=option.secret), "${" in value
    else:
        raise place.error(value, f"expected a text, a number, true or false, not {type_name(value)}")
    if option.none and text == "none":
        return None
    if option.reference and ":" in text:
        return _object(place, text)
    if not option.text and not option.reference:
        return _number(place, text) if given else text
    return text


def _expanded(place: Place, text: str, *, secret: bool) -> str:
    try:
        place.parts[place.key] = parts = list(expand(text, _Noting(place.hidden), secret=secret))
        return "".join(part for part, _ in parts)
    except ValueError as exc:
        reason = printable(str(exc))
    raise place.error(None, reason, secret=True)


def _from_elsewhere(place: Place, source: Mapping[object, object]) -> str:
    names = [str(name) for name in source]
    if not set(names) & set(_SOURCES) and any(name not in _SOURCES for name in names):
        check_keys(place, names, _SOURCES)
    if len(names) != 1 or names[0] not in _SOURCES:
        raise place.error(None, 'expected either {from_env = "NAME"} or {from_file = "PATH"}', secret=True)
    [name] = names
    where = source[name]
    if not isinstance(where, str) or not where:
        raise place.below(name).error(where, "expected a text", secret=True)
    if name == "from_env":
        if text := os.environ.get(where, ""):
            return text
        # What is no name may be the secret itself.
        strange = _NAME.fullmatch(where) is None
        raise place.below(name).error(where, "the environment variable is not set, or empty", secret=strange)
    given = _expanded(place.below(name), where, secret=False)
    try:
        return read_secret(place.file.parent / given)
    except ConfigError as exc:
        refused, accepted = exc.value, exc.accepted
    # The path that a DSN leads to has lost a slash, by which its password would be found.
    raise place.below(name).error(refused, accepted, secret=holds_password(given))


def _number(place: Place, text: str) -> object:
    """Return what a text from a variable means for an option that is not a text, by the rules of TOML."""
    import tomllib

    line = text.strip()
    # No TOML, a number of too many digits, or too many brackets within each other.
    with contextlib.suppress(ValueError, RecursionError):
        # What follows a comment or a line would not be looked at.
        value = None if "#" in line or "\n" in line else tomllib.loads(f"value = {line}")["value"]
        if isinstance(value, (bool, int, float)):
            return value
    raise place.error(text, "expected a number, true or false from the variable or file")


def _object(place: Place, text: str) -> object:
    if not _OBJECT.fullmatch(text):
        raise place.error(text, "expected 'module:name' of a Python object")
    module, _, path = text.partition(":")
    try:
        found: object = importlib.import_module(module)
        for name in path.split("."):
            found = getattr(found, name)
    except Exception as exc:  # noqa: BLE001  (whatever the module raises, told with the file and the key)
        reason = f"{type(exc).__name__}: {printable(str(exc))}"
    else:
        return found
    raise place.error(text, f"cannot be imported: {reason}")
