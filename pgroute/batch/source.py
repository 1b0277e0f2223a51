"""The source of a job: items of an iterable, or the rows of a query in key order."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, ItemsView, Iterable, KeysView, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from pgroute.core.config.checks import check_bool
from pgroute.core.late_dataclass import dataclass
from pgroute.errors import ConfigError

ITEMS = "items"


@dataclass(frozen=True, slots=True)
class Keyset:
    """The rows of a query, divided into chunks by their keys when the job is first run.

    That run fixes the upper bound: rows inserted later with a higher key are not part of the job. Rows inserted later
    within the bounds are part of it if they are committed before their chunk is applied.

    Keys must not be NULL. Rows with equal keys stay in one chunk. An index on the key makes the chunks fast.

    Args:
        query: a SELECT whose result includes the key columns, with psycopg's placeholders if it has *params*.
        key: the name of one result column, or of several, that divides the rows into chunks.
        params: parameters of the query, a sequence or a mapping; the job recognizes them by their ``repr()``.
        fetch: False gives the body no rows: it works with `Chunk.where`, or with `Chunk.after` and `Chunk.upto`.

    Raises:
        ConfigError: an argument has the wrong type.
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
            raise ConfigError("key", self.key, "expected a column name, or several different ones")
        params: object = self.params
        if isinstance(params, (str, bytes)) or not isinstance(params, (Sequence, Mapping, type(None))):
            raise ConfigError("params", type(params).__name__, "expected a sequence, a mapping or None")
        check_bool("fetch", self.fetch)

    @property
    def keys(self) -> tuple[str, ...]:
        """The names of the key columns."""
        return (self.key,) if isinstance(self.key, str) else tuple(self.key)


Source = Keyset | Iterable[Any] | Callable[[], Iterable[Any]]


_ACCEPTED = "expected a Keyset, an iterable, or a function without arguments that returns a new iterator"
_TEXTS = (str, bytes, bytearray, memoryview)


def check_source(source: object) -> None:
    """Raise ConfigError if the source is recognizably invalid."""
    if isinstance(source, _TEXTS):
        raise ConfigError("source", source, f"{_ACCEPTED}; not a {type(source).__name__}")
    if not (isinstance(source, (Keyset, Iterable)) or callable(source)) or isinstance(source, type):
        raise ConfigError("source", source, _ACCEPTED)
    if inspect.iscoroutinefunction(source) or inspect.isasyncgenfunction(source):
        raise ConfigError("source", source, f"{_ACCEPTED}; not an asynchronous one")
    _check_order(source, source)


def _check_order(source: object, items: object) -> None:
    if isinstance(items, AbstractSet) and not isinstance(items, (KeysView, ItemsView)):
        text = "expected items in the same order in each run, which a set does not guarantee: use sorted(...)"
        raise ConfigError("source", source, text)


def fresh_items(source: Any) -> Iterable[Any]:
    """Return an iterable over the items from their start."""
    if isinstance(source, Iterable):
        return source
    items = source()
    if not isinstance(items, Iterable) or isinstance(items, _TEXTS):
        raise ConfigError(
            "source", source, f"expected it to return an iterator, not a {type(items).__name__}"
        )
    _check_order(source, items)
    return items


def is_one_shot(source: Any) -> bool:
    """Whether the items can be read only once."""
    return isinstance(source, Iterable) and iter(source) is source


def signature(source: object, types: Sequence[str] = ()) -> str:
    """Return the text by which a job recognizes its source; it shows no parameter.

    Args:
        source: a Keyset, or anything else for items.
        types: the types of the key columns.
    """
    if not isinstance(source, Keyset):
        return ITEMS
    params = source.params
    named = (
        sorted((name, repr(value)) for name, value in params.items()) if isinstance(params, Mapping) else None
    )
    if named is None and params is not None:
        named = [("", repr(value)) for value in params]
    text = repr((source.query, source.keys, named))
    columns = ", ".join(f"{name} {kind}" for name, kind in zip(source.keys, types, strict=True))
    return f"keyset:{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()} by {columns}"
