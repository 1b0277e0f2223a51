"""Where the rows of a job come from: items of an iterable, or a query in the order of its keys."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, ItemsView, Iterable, KeysView, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from pgroute.errors import ConfigError

ITEMS = "items"


@dataclass(frozen=True, slots=True)
class Keyset:
    """The rows of a query, cut into chunks by their keys when the job is first run.

    The upper bound is fixed then: rows inserted later with a higher key are not part of the job. Those within the
    bounds are, if they are committed before their chunk is applied.

    Args:
        query: a SELECT that gives the key columns among others, with psycopg's placeholders if it has *params*.
        key: the name of a column of the result, or several: what the chunks are cut by. Never NULL; an index on it
            makes the chunks quick. Rows of equal keys stay in one chunk.
        params: for the query, a sequence or a mapping; the job knows them again by their ``repr()``.
        fetch: False: the body gets no rows, it works by `Chunk.where`, or `Chunk.after` and `Chunk.upto`.

    Raises:
        ConfigError: an argument is of the wrong kind.
    """

    query: str
    key: str | Sequence[str]
    params: Sequence[Any] | Mapping[str, Any] | None = None
    fetch: bool = True

    def __post_init__(self) -> None:
        query: object = self.query
        if not isinstance(query, str) or not query.strip(" \t\r\n;"):
            raise ConfigError("query", query, "expected a SELECT as a str")
        names: object = (self.key,) if isinstance(self.key, str) else self.key
        good = isinstance(names, Sequence) and all(isinstance(name, str) and name for name in names)
        if not good or not names or len(set(self.keys)) < len(self.keys):
            raise ConfigError("key", self.key, "expected the name of a column, or several different ones")
        params: object = self.params
        if isinstance(params, (str, bytes)) or not isinstance(params, (Sequence, Mapping, type(None))):
            raise ConfigError("params", type(params).__name__, "expected a sequence, a mapping or None")
        fetch: object = self.fetch
        if not isinstance(fetch, bool):
            raise ConfigError("fetch", fetch, "expected True or False")

    @property
    def keys(self) -> tuple[str, ...]:
        """The names of the key columns."""
        return (self.key,) if isinstance(self.key, str) else tuple(self.key)


Source = Keyset | Iterable[Any] | Callable[[], Iterable[Any]]


_ACCEPTED = "expected a Keyset, an iterable, or a function without arguments that gives a fresh iterator"
_TEXTS = (str, bytes, bytearray, memoryview)


def check_source(source: object) -> None:
    """Raise ConfigError for what can be seen to be no source."""
    if isinstance(source, _TEXTS):
        raise ConfigError("source", source, f"{_ACCEPTED}; not a {type(source).__name__}")
    if not (isinstance(source, (Keyset, Iterable)) or callable(source)) or isinstance(source, type):
        raise ConfigError("source", source, _ACCEPTED)
    if inspect.iscoroutinefunction(source) or inspect.isasyncgenfunction(source):
        raise ConfigError("source", source, f"{_ACCEPTED}; not an asynchronous one")
    _check_order(source, source)


def _check_order(source: object, items: object) -> None:
    if isinstance(items, AbstractSet) and not isinstance(items, (KeysView, ItemsView)):
        text = (
            "expected items in an order that is the same in each run, which a set has not: give sorted(...)"
        )
        raise ConfigError("source", source, text)


def fresh(source: Any) -> Iterable[Any]:
    """Return what gives the items from their start."""
    if isinstance(source, Iterable):
        return source
    items = source()
    if not isinstance(items, Iterable) or isinstance(items, _TEXTS):
        raise ConfigError(
            "source", source, f"expected it to give an iterator; it gave a {type(items).__name__}"
        )
    _check_order(source, items)
    return items


def one_shot(source: Any) -> bool:
    """Whether the items can be read but once."""
    return isinstance(source, Iterable) and iter(source) is source


def signature(source: object, types: Sequence[str] = ()) -> str:
    """Return the text by which a job knows its source again; it shows no parameter.

    Args:
        source: a Keyset, or anything else for items.
        types: those of the key columns.
    """
    if not isinstance(source, Keyset):
        return ITEMS
    params = source.params
    told = (
        sorted((name, repr(value)) for name, value in params.items()) if isinstance(params, Mapping) else None
    )
    if told is None and params is not None:
        told = [("", repr(value)) for value in params]
    text = repr((source.query, source.keys, told))
    columns = ", ".join(f"{name} {kind}" for name, kind in zip(source.keys, types, strict=True))
    return f"keyset:{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()} by {columns}"
