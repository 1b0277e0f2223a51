"""Makes the routers of configuration files."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgroute._async.router import AsyncRouter
from pgroute._sync.router import Router
from pgroute.config_file.place import construct
from pgroute.config_file.shared import shared
from pgroute.config_file.tables import KINDS, Named, read_router
from pgroute.core.config.checks import check_callable
from pgroute.core.config.options import PoolOptions
from pgroute.core.spelling import is_one_of, nearest
from pgroute.errors import ConfigError
from pgroute.faces import manager_behind

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable


def shared_router(
    path: str | os.PathLike[str], name: str | None, kind: str | None, row_factory: Any = None
) -> Router[Any] | AsyncRouter[Any]:
    """Return the router that a file describes, the one that this process has already if there is one.

    Raises:
        ConfigError: an argument is invalid, the file cannot be used, or that router makes other rows.
    """
    check_callable("row_factory", row_factory)
    given: object = kind
    if given is not None and not is_one_of(given, *KINDS):
        near = nearest(given, KINDS) if isinstance(given, str) else None
        guess = f"; did you mean {near!r}?" if near else ""
        raise ConfigError("kind", given, f"expected one of {', '.join(KINDS)}, or None{guess}")
    given = name
    if not (given is None or isinstance(given, str)):
        raise ConfigError("name", name, "expected the name of a router in the file, or None")
    file = find_file(path)
    # Threads that ask for the same file wait for the first one.
    router = shared.find_or_make((file, name, kind), lambda: _read(file, name, kind, row_factory))
    if row_factory is not None:
        used = manager_behind(router).config.writer.arguments.get("row_factory")
        if used != row_factory:
            accepted = f"expected {used!r}, with which this process uses the router of {file} already"
            raise ConfigError("row_factory", row_factory, accepted)
    return router


def _read(
    file: Path, name: str | None, kind: str | None, row_factory: Any
) -> tuple[Hashable, Callable[[], Router[Any] | AsyncRouter[Any]]]:
    named = read_router(file, name)
    kind = kind or named.kind
    return (file, named.name, kind), lambda: make_router(named, kind, row_factory)


def find_file(path: str | os.PathLike[str]) -> Path:
    """Return the file that a path leads to now.

    Raises:
        ConfigError: it is no path.
    """
    try:
        # The path that a DSN leads to has lost a slash, by which its password would be found.
        if "://" not in str(os.fspath(path)):
            return Path(os.path.realpath(os.fspath(path)))
    except (TypeError, ValueError, AttributeError):
        pass
    raise ConfigError("path", path, "expected the path of a file")


def make_router(named: Named, kind: str, row_factory: Any) -> Router[Any] | AsyncRouter[Any]:
    """Make a router of a file, of one of the kinds.

    Raises:
        ConfigError: its arguments are invalid, or the file has another row_factory.
    """
    arguments = {**named.arguments, "name": named.name}
    if row_factory is not None:
        if arguments.get("row_factory") not in (None, row_factory):
            raise named.place.below("row_factory").error(row_factory, "expected the one of the file")
        arguments["row_factory"] = row_factory
    arguments |= pools_of(named, kind)
    cls: Any = AsyncRouter if kind.startswith("async_") else Router
    made: Router[Any] | AsyncRouter[Any] = construct(named.place, cls, arguments)
    return made


def pools_of(named: Named, kind: str) -> dict[str, PoolOptions]:
    """Return the options of the roles' pools that are not the defaults, in a router of this kind."""
    given: dict[str, PoolOptions] = {
        role: named.arguments[role] for role in ("writer", "reader") if role in named.arguments
    }
    if not kind.endswith("connection"):
        return given
    return {
        role: replace(given.get(role) or PoolOptions(), min_size=0, max_size=1, max_size_on_primary=None)
        for role in ("writer", "reader")
    }
