"""Which functions of the user do their work only after they have returned: coroutine functions and generators."""

from __future__ import annotations

import functools
import inspect
from types import AsyncGeneratorType, CoroutineType, GeneratorType

LAZY = (GeneratorType, AsyncGeneratorType, map, filter, zip)
"""The types of results whose work has not been done when a function returns."""


def is_coroutine_function(fn: object) -> bool:
    """Return whether a call visibly gives a coroutine: of a function, a method, a partial, or an object's __call__."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    call = getattr(type(fn), "__call__", None)  # noqa: B004  (which it is)
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(call)


def is_unfinished(result: object) -> bool:
    """Return whether a function that returned this has left its work for later."""
    return result is not None and (isinstance(result, LAZY) or hasattr(result, "__await__"))


def drop(result: object) -> None:
    """Prevent that work which a function has left for later is ever done, as far as that is possible."""
    if isinstance(result, (CoroutineType, GeneratorType)):
        result.close()
    elif hasattr(result, "__await__") and hasattr(result, "cancel"):
        result.cancel()
