"""Adapters given to a connection for a while."""

from __future__ import annotations

from operator import is_
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.adapt import AdaptersMap, PyFormat

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    Connection = psycopg.Connection[Any] | psycopg.AsyncConnection[Any]


def swap_adapters(conn: Connection, adapters: AdaptersMap | None) -> AdaptersMap | None:
    """Give a connection other adapters, and return those that it had; None: it had none of its own yet.

    psycopg takes them when it connects alone (``context=``), and the pooled connection serves others too. Registering
    each adapter on the connection could not be undone.
    """
    before, conn._adapters = conn._adapters, adapters
    return before


def put_on(conn: Connection, adapters: AdaptersMap) -> AdaptersMap | None:
    """Give a connection `layered` adapters for a while, and return what `swap_adapters` is to give back."""
    before = conn._adapters
    conn._adapters = layered(before, adapters)
    return before


def layered(below: AdaptersMap | None, above: AdaptersMap) -> AdaptersMap:
    """Return new adapters: what `above` has registered, then what `below` has, then psycopg's.

    `below` is what a connection has, to which a `configure` function may have added types of the database. There is no
    public way to ask what was registered. Maps share the tables that they have not changed, so that mostly nothing has
    to be compared. Otherwise the answer is kept beside `below` for as long as the tables are the same.
    """
    made = AdaptersMap(above)
    if below is None:
        return made
    stock = psycopg.adapters
    own = _tables(below)
    if all(map(is_, own, _tables(stock))):
        return made
    tables = [*own, *_tables(above)]
    kept = getattr(below, "pgroute_layered", None)
    if kept is None or not all(map(is_, kept[0], tables)):
        AdaptersMap(below)  # from now on `below` copies a table before it changes it
        kept = tables, _merged(made, below, stock, above)
        below.pgroute_layered = kept  # type: ignore[attr-defined]
    return AdaptersMap(kept[1])


def _tables(adapters: AdaptersMap) -> list[object]:
    return [
        *adapters._loaders,
        *adapters._dumpers.values(),
        *adapters._dumpers_by_oid,
        adapters.types._registry,
    ]


def _merged(made: AdaptersMap, below: AdaptersMap, stock: AdaptersMap, above: AdaptersMap) -> AdaptersMap:
    for fmt in (psycopg.pq.Format.TEXT, psycopg.pq.Format.BINARY):
        for oid, loader in _own(below._loaders[fmt], stock._loaders[fmt], above._loaders[fmt]):
            made.register_loader(oid, loader)
        by_oid = below._dumpers_by_oid[fmt], stock._dumpers_by_oid[fmt], above._dumpers_by_oid[fmt]
        for _, dumper in _own(*by_oid):
            made.register_dumper(None, dumper)
    for form in (PyFormat.TEXT, PyFormat.BINARY, PyFormat.AUTO):  # AUTO last: the others set it too
        for cls, dumper in _own(below._dumpers[form], stock._dumpers[form], above._dumpers[form]):
            made.register_dumper(cls, dumper)
    for info in below.types:
        if stock.types.get(info.oid) is not info and above.types.get(info.oid) is stock.types.get(info.oid):
            made.types.add(info)
    return made


def _own(
    below: Mapping[Any, Any], stock: Mapping[Any, Any], above: Mapping[Any, Any]
) -> Iterator[tuple[Any, Any]]:
    """Yield what `below` has beyond psycopg's own, unless `above` has something in its place."""
    for key, value in below.items():
        if stock.get(key) is not value and above.get(key) is stock.get(key):
            yield key, value
