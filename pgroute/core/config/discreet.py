"""Refusals without the frames that hold what was refused: tools that show tracebacks show the variables in them too."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from pgroute.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound="type[Any]")


def discreet(function: Callable[P, R]) -> Callable[P, R]:
    """Have a function's ConfigError begin here, where nothing is known of its arguments any more.

    A password is in them, in a DSN or a mapping. The error itself names the parameter and what is accepted.
    """

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except ConfigError as exc:
            del args, kwargs
            raise exc.with_traceback(None)  # noqa: B904  (the same one)

    return called


def discreetly_made(cls: C) -> C:
    """Have a class refuse its arguments so."""
    cls.__init__ = discreet(cls.__init__)
    return cls
