"""`from_config`: a router from a configuration file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

from pgroute.core.config.discreet import discreet

if TYPE_CHECKING:
    import os

    from psycopg import AsyncConnection, Connection
    from psycopg.rows import AsyncRowFactory, Row, RowFactory

    from pgroute._async.router import AsyncRouter
    from pgroute._sync.router import Router


@overload
def from_config(
    path: str | os.PathLike[str],
    name: str | None = None,
    *,
    kind: Literal["connection", "pool"],
    row_factory: None = None,
) -> Router[Connection[Any]]: ...


@overload
def from_config(
    path: str | os.PathLike[str],
    name: str | None = None,
    *,
    kind: Literal["connection", "pool"],
    row_factory: RowFactory[Row],
) -> Router[Connection[Row]]: ...


@overload
def from_config(
    path: str | os.PathLike[str],
    name: str | None = None,
    *,
    kind: Literal["async_connection", "async_pool"],
    row_factory: None = None,
) -> AsyncRouter[AsyncConnection[Any]]: ...


@overload
def from_config(
    path: str | os.PathLike[str],
    name: str | None = None,
    *,
    kind: Literal["async_connection", "async_pool"],
    row_factory: AsyncRowFactory[Row],
) -> AsyncRouter[AsyncConnection[Row]]: ...


# A union would have to be narrowed before each use.
@overload
def from_config(
    path: str | os.PathLike[str],
    name: str | None = None,
    *,
    kind: str | None = None,
    row_factory: None = None,
) -> Any: ...


@overload
def from_config(
    path: str | os.PathLike[str],
    name: str | None = None,
    *,
    kind: None = None,
    row_factory: RowFactory[Any] | AsyncRowFactory[Any],
) -> Any: ...


@discreet
def from_config(
    path: str | os.PathLike[str],
    name: str | None = None,
    *,
    kind: str | None = None,
    row_factory: RowFactory[Any] | AsyncRowFactory[Any] | None = None,
) -> Router[Connection[Any]] | AsyncRouter[AsyncConnection[Any]]:
    """Return the router that a configuration file describes, TOML or YAML. docs/configuration.md has its keys.

    All kinds are used in the same way. "pool" gives a Router, "async_pool" an AsyncRouter. "connection" and
    "async_connection" are for scripts. They give the same routers, with at most one connection for each role and host.
    It is opened when it is first needed, and closed after max_idle seconds without use.

    Within a process the same file, name and kind give the same router, to every thread, until it is closed. The file is
    not read again meanwhile. A forked child gets a router of its own, and each event loop an AsyncRouter of its own.

    The router is not open yet: `open()` it once, or use the ``with`` statement around the program. Opening an open
    router does nothing.

    Args:
        path: the file; its name ends in .toml, .yaml or .yml.
        name: the router's name in the file; None: the file's default, or its only one.
        kind: "connection", "pool", "async_connection" or "async_pool"; None: the file's, "pool" if it has none.
        row_factory: makes the rows, such as ``psycopg.rows.dict_row``, and gives their type to type checkers; None:
            the file's, whose rows have the type Any.

    Raises:
        ConfigError: the file cannot be used; the error names it and the key, and shows no secret. Or the file or the
            process uses this router with another *row_factory*.
    """
    # Imported when first used, to keep `import pgroute` quick.
    from pgroute.config_file.making import shared_router

    return shared_router(path, name, kind, row_factory)


from_config.__module__ = "pgroute"
