"""Keeps the arguments out of the traceback of a ConfigError: some tools show the variables of each frame."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from pgroute.core.late_dataclass import LateInit
from pgroute.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound="type[Any]")


def discreet(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function so that the traceback of its ConfigError begins here, without its arguments.

    They may hold a password, in a DSN or a mapping. The error itself names the parameter and what is accepted.
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
    """Decorate a class so that `discreet` applies to its constructor."""
    init = cls.__dict__["__init__"]
    late = init.make if isinstance(init, LateInit) else lambda: init
    cls.__init__ = LateInit(cls, lambda: discreet(late()))
    return cls
