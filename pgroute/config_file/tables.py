"""The tables of a configuration file: which routers it names, and the arguments of each."""

from __future__ import annotations

import inspect
from dataclasses import field, fields
from typing import TYPE_CHECKING, Any, TypeVar

from pgroute._sync.router import Router
from pgroute.config_file.place import Place, check_keys, construct, table_at
from pgroute.config_file.retrying import RETRY_KEYS, read_retry
from pgroute.config_file.source import read_tables
from pgroute.config_file.values import Option, is_source, option_of, resolve
from pgroute.core.config.discovery import AuroraDiscovery, PatroniDiscovery
from pgroute.core.config.dsn import DSN_ONLY, PSYCOPG_ARGUMENTS
from pgroute.core.config.libpq import NUMBERS, is_secret, keywords
from pgroute.core.config.options import HostOptions, PoolOptions, ProbeOptions
from pgroute.core.config.settings import is_secret_setting
from pgroute.core.late_dataclass import dataclass
from pgroute.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

T = TypeVar("T")

KINDS = ("connection", "pool", "async_connection", "async_pool")
DEFAULT_KIND = "pool"
_ADVISERS: dict[str, type[PatroniDiscovery | AuroraDiscovery]] = {
    "patroni": PatroniDiscovery,
    "aurora": AuroraDiscovery,
}
_TOP = ("default", "routers")
_NOT_IN_FILES = ("name", "unknown")
_POOLS = ("writer", "reader")
_SYNONYMS = ("url", "uri", "conninfo", "hosts")
_ARGUMENTS = {
    "autocommit": Option(text=False),
    "prepare_threshold": Option(text=False, none=True),
    "context": Option(text=False, none=True, reference=True),
    "row_factory": Option(text=False, none=True, reference=True),
    "cursor_factory": Option(text=False, none=True, reference=True),
}


@dataclass(frozen=True, slots=True)
class Named:
    """A router of a configuration file.

    Attributes:
        name: its name.
        kind: the kind that the file gives it.
        place: its table, for errors.
        arguments: those of the router, but the name.
    """

    name: str
    kind: str
    place: Place
    arguments: Mapping[str, Any] = field(repr=False)


def read_router(file: Path, name: str | None) -> Named:
    """Return a router of a file.

    Args:
        file: the file.
        name: the router's name; None: the one that the file names as default, or its only one.

    Raises:
        ConfigError: the file, or what it says about this router, cannot be used.
    """
    top = Place(file)
    content = table_at(top, read_tables(file))
    check_keys(top, content, _TOP, [("a table [routers.NAME]", _parameters())])
    routers = table_at(top.below("routers"), content.get("routers"))
    if not routers:
        raise top.below("routers").error(None, "expected at least one table [routers.NAME]")
    chosen = _choose(top, name, content.get("default"), routers)
    place = top.below("routers").below(chosen)
    return _router(chosen, place, table_at(place, routers[chosen]))


def _choose(top: Place, name: str | None, default: object, routers: Mapping[str, object]) -> str:
    if default is not None and (not isinstance(default, str) or default not in routers):
        raise top.below("default").error(default, f"expected one of {', '.join(routers)}")
    if name is None:
        if isinstance(default, str):
            return default
        if len(routers) == 1:
            return next(iter(routers))
        accepted = f'expected one of {", ".join(routers)}, or `default = "NAME"` in {top.file}'
        raise ConfigError("name", None, accepted)
    if name not in routers:
        raise ConfigError("name", name, f"expected one of {', '.join(routers)} (in {top.file})")
    return name


def _parameters() -> dict[str, str]:
    """Return the annotations of the router's parameters that a file may give."""
    known = inspect.signature(Router).parameters
    return {name: str(known[name].annotation) for name in known if name not in _NOT_IN_FILES}


def _router(name: str, place: Place, table: Mapping[str, object]) -> Named:
    parameters = _parameters()
    homes = [
        (" or ".join(place.below(role).key for role in _POOLS), _names(PoolOptions)),
        (place.below("probe").key, _names(ProbeOptions)),
        (place.below("discovery").key, _names(PatroniDiscovery)),
        (place.below("retry").key, RETRY_KEYS),
        ("the DSN", [*DSN_ONLY, *_SYNONYMS]),
        (place.below("kwargs").key, [*PSYCOPG_ARGUMENTS, *keywords()]),
    ]
    check_keys(place, table, ["kind", *parameters], homes)
    kind = resolve(place.below("kind"), table.get("kind", DEFAULT_KIND), Option())
    if kind not in KINDS:
        raise place.below("kind").error(kind, f"expected one of {', '.join(KINDS)}")
    arguments: dict[str, Any] = {}
    for key, value in table.items():
        if key != "kind":
            arguments[key] = _argument(place.below(key), key, value, parameters[key])
    return Named(name, str(kind), place, arguments)


def _argument(place: Place, key: str, value: object, annotation: str) -> object:
    if key in _POOLS:
        return _options(place, PoolOptions, value)
    match key:
        case "probe":
            return _options(place, ProbeOptions, value)
        case "retry":
            return read_retry(place, table_at(place, value))
        case "host_options":
            hosts = table_at(place, value)
            return {host: _options(place.below(host), HostOptions, hosts[host]) for host in hosts}
        case "kwargs":
            return _kwargs(place, table_at(place, value))
        case "discovery" if isinstance(value, dict) and not is_source(value):
            return _discovery(place, value)
        case _:
            return resolve(place, value, option_of(annotation))


def _discovery(place: Place, table: Mapping[str, object]) -> PatroniDiscovery | AuroraDiscovery:
    kind = resolve(place.below("kind"), table.get("kind", "patroni"), Option())
    if kind not in _ADVISERS:
        raise place.below("kind").error(kind, f"expected one of {', '.join(_ADVISERS)}")
    options = {key: value for key, value in table.items() if key != "kind"}
    return _options(place, _ADVISERS[str(kind)], options)


def _options(place: Place, cls: type[T], value: object) -> T:
    """Return the options that a table describes, which validate themselves."""
    table = table_at(place, value)
    annotations = _names(cls)
    check_keys(place, table, annotations, [(place.below("kwargs").key, [*PSYCOPG_ARGUMENTS, *keywords()])])
    arguments: dict[str, Any] = {}
    for key, given in table.items():
        inner = place.below(key)
        if key == "kwargs":
            arguments[key] = _kwargs(inner, table_at(inner, given))
        elif key == "hosts" and isinstance(given, dict) and not is_source(given):
            places = table_at(inner, given)
            arguments[key] = {name: resolve(inner.below(name), places[name], Option()) for name in places}
        elif key == "settings":
            arguments[key] = _settings(inner, table_at(inner, given))
        else:
            arguments[key] = resolve(inner, given, option_of(annotations[key]))
    return construct(place, cls, arguments)


def _kwargs(place: Place, table: Mapping[str, object]) -> dict[str, Any]:
    check_keys(place, table, [*PSYCOPG_ARGUMENTS, *keywords()])
    found: dict[str, Any] = {}
    for key, value in table.items():
        inner = place.below(key)
        option = _ARGUMENTS.get(key) or Option(secret=is_secret(key), only_text=key not in NUMBERS)
        found[key] = resolve(inner, value, option)
        if option.reference and isinstance(found[key], (str, bool, int, float)):
            raise inner.error(
                value, "expected 'module:name' of a Python object, such as psycopg.rows:dict_row"
            )
        if key == "autocommit" and not isinstance(found[key], bool):
            raise inner.error(value, "expected true or false")
    return found


def _settings(place: Place, table: Mapping[str, object]) -> dict[str, object]:
    return {
        name: resolve(place.below(name), value, Option(secret=is_secret_setting(name)))
        for name, value in table.items()
    }


def _names(cls: type[Any]) -> dict[str, str]:
    return {option.name: str(option.type) for option in fields(cls)}
