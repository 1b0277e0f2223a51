# Generated from pgroute/_async/transaction/body.py by .ci/unasync.py: edit that file, not this one.
"""What `run()` calls: a function that does its work before it returns."""

from __future__ import annotations

import inspect
from types import CoroutineType, FunctionType, GeneratorType
from typing import TYPE_CHECKING, Any

from pgroute.core.callables import (
    drop,
    is_unfinished,
)
from pgroute.core.transactions.decorated import check_plain

from pgroute.core.transactions.request import COROUTINE_FUNCTION
from pgroute.errors import ConfigError

if TYPE_CHECKING:

    from collections.abc import Callable
    import psycopg


_OTHERS = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR | inspect.CO_COROUTINE


def call(fn: Callable[..., Any], conn: psycopg.Connection[Any], *args: Any) -> Any:
    """Call a body and return its result.

    Raises:
        ConfigError: the result is something whose work has not been done yet.
    """
    return body_of(fn, args)(None, conn)


def body_of(
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    ) -> Callable[[object, psycopg.Connection[Any]], Any]:
    """Return what calls a body with its arguments as `call` does, given a transaction and its connection."""

    def body(_: object, conn: psycopg.Connection[Any]) -> Any:
        result = fn(conn, *args)
        if is_unfinished(result):
            raise _idle(fn, conn, result)
        return result

    return body


def check_function(parameter: str, fn: object) -> None:
    """Raise ConfigError if *fn* is visibly not a body. `call` checks its result."""
    if type(fn) is FunctionType and not fn.__code__.co_flags & _OTHERS:
        return
    if isinstance(fn, CoroutineType):
        fn.close()
        name = fn.__name__
        raise ConfigError(
            parameter,
            fn,
            f"expected the function: run({name}, ...), which calls it; this is what {name}(...) returns",
        )
    if not callable(fn):
        raise ConfigError(parameter, fn, "expected a function of a connection")
    # The functions of inspect take longer than the rest of run().
    flags = getattr(getattr(fn, "__code__", None), "co_flags", 0)
    kind = None
    if flags & (inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR):
        kind = "generator function: none of its body would run before the transaction is over"
    if flags & inspect.CO_COROUTINE:
        kind = COROUTINE_FUNCTION
    if kind is not None:
        raise ConfigError(parameter, fn, f"expected a plain function, this is a {kind}")


def check_decorated(fn: object) -> None:
    """Raise ConfigError if *fn* is visibly nothing that `transaction()` can decorate."""
    check_plain(fn)
    check_function("fn", fn)


def _idle(fn: object, conn: psycopg.Connection[Any], result: Any) -> ConfigError:
    """Prevent that work which a body has left for later is ever done, and return the error for it."""
    what = type(result).__name__
    drop(result)
    if not isinstance(result, (CoroutineType, GeneratorType)):
        # It may go on to use the connection, which must not happen in the next caller's transaction.
        conn.close()
    accepted = f"expected a body that does its work; it returned a {what}, and was rolled back"
    if hasattr(result, "__await__"):
        accepted += " (coroutine functions are for the asynchronous router)"
    return ConfigError("fn", fn, accepted)
