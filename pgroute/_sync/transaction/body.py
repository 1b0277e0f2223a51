# Generated from pgroute/_async/transaction/body.py by .ci/unasync.py: edit that file, not this one.
"""What `run()` calls: a function that does its work before it returns."""

from __future__ import annotations

import inspect
from types import CoroutineType, GeneratorType
from typing import TYPE_CHECKING, Any

from pgroute.core.transactions.request import COROUTINE_FUNCTION, LAZY
from pgroute.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    import psycopg


def call(fn: Callable[..., Any], conn: psycopg.Connection[Any], *args: Any) -> Any:
    """Call a body and return its result.

    Raises:
        ConfigError: it gave something that has not done its work yet.
    """
    result = fn(conn, *args)
    if isinstance(result, LAZY) or hasattr(result, "__await__"):
        raise _idle(fn, conn, result)
    return result


def check_function(parameter: str, fn: object) -> None:
    """Raise ConfigError for what can be seen not to be a body; what it returns is looked at later."""
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
    # Not inspect's functions, which take longer than the rest of run().
    flags = getattr(getattr(fn, "__code__", None), "co_flags", 0)
    kind = None
    if flags & (inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR):
        kind = "generator function: none of its body would run before the transaction is over"
    if flags & inspect.CO_COROUTINE:
        kind = COROUTINE_FUNCTION
    if kind is not None:
        raise ConfigError(parameter, fn, f"expected a plain function, this is a {kind}")


def _idle(fn: object, conn: psycopg.Connection[Any], result: Any) -> ConfigError:
    """Return the error for a body that left its work to be done later, having seen to it that it is not."""
    what = type(result).__name__
    if isinstance(result, (CoroutineType, GeneratorType)):
        result.close()
    else:
        # Whatever goes on with the connection must not do so in somebody else's transaction.
        conn.close()
    accepted = f"expected a body that does its work; it returned a {what}, and was rolled back"
    if hasattr(result, "__await__"):
        accepted += " (coroutine functions are for the asynchronous router)"
    return ConfigError("fn", fn, accepted)
