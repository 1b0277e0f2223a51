"""`from_config`: a router from a configuration file."""

from __future__ import annotations

import difflib
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from pgroute._async.router import AsyncRouter
from pgroute._sync.router import Router
from pgroute.config_file.place import construct
from pgroute.config_file.shared import shared
from pgroute.config_file.tables import KINDS, Named, read_router
from pgroute.core.config.discreet import discreet
from pgroute.core.config.options import PoolOptions
from pgroute.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from psycopg import AsyncConnection, Connection
    from psycopg.rows import TupleRow


@overload
def from_config(
    path: str | os.PathLike[str], name: str | None = None, *, kind: Literal["connection", "pool"]
) -> Router[Connection[TupleRow]]: ...


@overload
def from_config(
    path: str | os.PathLike[str], name: str | None = None, *, kind: Literal["async_connection", "async_pool"]
) -> AsyncRouter[AsyncConnection[TupleRow]]: ...


# A union would have to be narrowed before each use.
@overload
def from_config(path: str | os.PathLike[str], name: str | None = None, *, kind: str | None = None) -> Any: ...


@discreet
def from_config(
    path: str | os.PathLike[str], name: str | None = None, *, kind: str | None = None
) -> Router[Connection[TupleRow]] | AsyncRouter[AsyncConnection[TupleRow]]:
    """Return the router that a configuration file describes, TOML or YAML. docs/configuration.md has its keys.

    Each kind is used alike. "pool" is a Router, "async_pool" an AsyncRouter. "connection" and "async_connection" are
    the same with at most one connection for each role and host, opened when it is needed and closed when it was idle
    for max_idle: for a script.

    Within a process the same file, name and kind give the same router, to every thread, until it is closed. The file is
    not read again meanwhile. A forked child gets a router of its own, and each event loop an AsyncRouter of its own.

    The router is not open yet: `open()` it once, or use the ``with`` statement around the program. Opening an open
    router does nothing.

    Args:
        path: the file; its name ends in .toml, .yaml or .yml.
        name: the router's name in the file; None: the file's default, or its only one.
        kind: "connection", "pool", "async_connection" or "async_pool"; None: the file's, "pool" if it has none.

    Raises:
        ConfigError: the file cannot be used; the error names it and the key, and shows no secret.
    """
    if kind is not None and kind not in KINDS:
        near = difflib.get_close_matches(str(kind), KINDS, n=1)
        guess = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError("kind", kind, f"expected one of {', '.join(KINDS)}, or None{guess}")
    given: object = name
    if not (given is None or isinstance(given, str)):
        raise ConfigError("name", name, "expected the name of a router in the file, or None")
    file = find_file(path)
    # Threads that ask for the same file wait for the first one.
    return shared.find_or_make((file, name, kind), lambda: _read(file, name, kind))


def _read(
    file: Path, name: str | None, kind: str | None
) -> tuple[Hashable, Callable[[], Router[Any] | AsyncRouter[Any]]]:
    named = read_router(file, name)
    return (file, named.name, kind or named.kind), lambda: make_router(named, kind)


def find_file(path: str | os.PathLike[str]) -> Path:
    """Return the file that a path leads to now.

    Raises:
        ConfigError: it is no path.
    """
    try:
        return Path(os.path.realpath(os.fspath(path)))
    except (TypeError, ValueError, AttributeError):
        pass
    raise ConfigError("path", path, "expected the path of a file")


def make_router(named: Named, kind: str | None) -> Router[Any] | AsyncRouter[Any]:
    """Make a router of a file.

    Raises:
        ConfigError: its arguments are invalid.
    """
    kind = kind or named.kind
    arguments = {**named.arguments, "name": named.name}
    if kind.endswith("connection"):
        for role in ("writer", "reader"):
            arguments[role] = _one_connection(arguments.get(role) or PoolOptions())
    cls: Any = AsyncRouter if kind.startswith("async_") else Router
    made: Router[Any] | AsyncRouter[Any] = construct(named.place, cls, arguments)
    return made


def _one_connection(options: PoolOptions) -> PoolOptions:
    return replace(options, min_size=0, max_size=1, max_size_on_primary=None)
