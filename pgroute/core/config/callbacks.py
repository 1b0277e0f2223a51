"""The functions of the user that are called with a connection, and the face that they are for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgroute.core.callables import drop, is_coroutine_function
from pgroute.errors import ConfigError

if TYPE_CHECKING:
    from pgroute.core.config.options import PoolOptions


def refuse_coroutine_functions(
    *, configure: object, reset: object, writer: PoolOptions | None, reader: PoolOptions | None
) -> None:
    """Raise ConfigError for a visible coroutine function of a Router, which would never run it.

    Args:
        configure: the router's.
        reset: likewise.
        writer: the options of the role; None: it has none of its own.
        reader: likewise.
    """
    given = {"configure": configure, "reset": reset}
    for role, options in (("writer", writer), ("reader", reader)):
        if options is not None:
            for name in ("configure", "reset", "setup"):
                given[f"{role}.{name}"] = getattr(options, name)
    for name, fn in given.items():
        if is_coroutine_function(fn):
            raise ConfigError(name, fn, f"expected a plain function, {_FOR_ASYNC}")


def misused(name: str, fn: object, result: object, *, asynchronous: bool) -> ConfigError:
    """Return the error for a function that has not done its work when it returned, and drop what it returned.

    Args:
        name: of the parameter.
        fn: the function.
        result: what it returned.
        asynchronous: it is called by an AsyncRouter.
    """
    drop(result)
    what = "None" if result is None else f"a {type(result).__name__}"
    if asynchronous:
        accepted = (
            f"expected a coroutine function (async def) that does its work itself; this one returned {what}"
        )
    else:
        hint = f": {_FOR_ASYNC}" if hasattr(result, "__await__") else ""
        accepted = f"expected a function that does its work itself; this one returned {what}{hint}"
    return ConfigError(name, fn, accepted)


_FOR_ASYNC = "coroutine functions are for AsyncRouter"
