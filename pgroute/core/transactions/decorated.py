"""The functions under `@router.transaction`: where the connection goes, what callers see, and the key of a call."""

from __future__ import annotations

import functools
import inspect
import sys
from typing import TYPE_CHECKING, Any

from pgroute.core.callables import is_coroutine_function
from pgroute.core.config.checks import check_name
from pgroute.core.transactions.once_keys import check_key
from pgroute.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Once = str | bool | Callable[..., str] | None

_OWNERS = ("self", "cls")
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
_FORMAT: dict[str, Any] = {}
if sys.version_info >= (3, 14):
    import annotationlib

    # An annotation may be a name that is imported for type checkers only.
    _FORMAT["annotation_format"] = annotationlib.Format.FORWARDREF


class Decorated:
    """A function of a connection, to be called without it.

    Args:
        fn: the function. Its first parameter is the connection, in a method the one behind ``self`` or ``cls``.
        once: a key, True, None, or a function that returns the key of a call. It is given the arguments that it names.

    Raises:
        ConfigError: *fn* has no place for a connection, or *once* does not fit it.
    """

    __slots__ = ("_asked", "_before", "_fn", "_once", "_signature")

    def __init__(self, fn: Callable[..., Any], once: Once) -> None:
        self._fn = fn
        self._once = once
        full = _signature_of(fn)
        names = [] if full is None else list(full.parameters)
        self._before = 1 if names and names[0] in _OWNERS else 0
        """The number of arguments before the connection."""
        self._signature = None if full is None else self._without_connection(full)
        if self._signature is not None:
            self._asked = _asked_for(once, self._signature.parameters)
        elif callable(once):
            raise ConfigError("once", once, "expected no function: the parameters of fn are not known")

    def _without_connection(self, full: inspect.Signature) -> inspect.Signature:
        parameters = list(full.parameters.values())
        place = self._before
        taken = parameters[place] if len(parameters) > place else None
        if any(parameter.name == "conn" for parameter in parameters[place + 1 :]):
            taken = None
        if taken is not None and taken.kind is inspect.Parameter.VAR_POSITIONAL:
            return full
        if taken is None or taken.kind not in _POSITIONAL:
            where = f"second parameter, behind {parameters[0].name}," if place else "first parameter"
            raise ConfigError("fn", self._fn, f"expected a function whose {where} is the connection")
        del parameters[place]
        return full.replace(parameters=parameters)

    def dress(self, called: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function that callers get, with the name, docstring and signature of this one."""
        functools.update_wrapper(called, self._fn)
        signature = self._signature
        if signature is not None:
            called.__signature__ = signature  # type: ignore[attr-defined]
            seen = {name: p.annotation for name, p in signature.parameters.items()}
            seen["return"] = signature.return_annotation
            called.__annotations__ = {n: given for n, given in seen.items() if given is not signature.empty}
        return called

    def body(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[..., Any]:
        """Return the function for `run()`: a call of this one that lacks only the connection."""
        return _Body(self._fn, args[: self._before], args[self._before :], kwargs)

    def key(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | bool | None:
        """Return what ``once=`` of `run()` is in a call with these arguments.

        Raises:
            TypeError: the arguments do not fit the function.
            ConfigError: the user's function did not return a key.
        """
        once, signature = self._once, self._signature
        if not callable(once):
            return once
        assert signature is not None
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        given = (
            bound.arguments if self._asked is None else {name: bound.arguments[name] for name in self._asked}
        )
        key: object = once(**given)
        check_name("once", key, ", from the function")
        assert isinstance(key, str)
        return key


class _Body:
    """A call that lacks only the connection."""

    __slots__ = ("_after", "_before", "_fn", "_kwargs")

    def __init__(
        self, fn: Callable[..., Any], before: tuple[Any, ...], after: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self._fn = fn
        self._before = before
        self._after = after
        self._kwargs = kwargs

    def __call__(self, conn: object) -> Any:
        return self._fn(*self._before, conn, *self._after, **self._kwargs)

    def __repr__(self) -> str:
        return repr(self._fn)


def check_plain(fn: object) -> None:
    """Raise ConfigError if *fn* is something else than a function, that can be called all the same."""
    if isinstance(fn, (staticmethod, classmethod)):
        name = type(fn).__name__
        raise ConfigError("fn", fn, f"expected a function: put @{name} above @router.transaction")
    if isinstance(fn, type):
        raise ConfigError("fn", fn, "expected a function, this is a class: decorate its methods")


def check_once_option(once: object, *, writes: bool) -> None:
    """Raise ConfigError if *once* is nothing that `Decorated` takes, or if a transaction cannot write its key."""
    if is_coroutine_function(once):
        raise ConfigError("once", once, "expected a plain function, this is a coroutine function")
    if not callable(once):
        check_key(once)
    if not (writes or once is None or once is False):
        raise ConfigError("once", once, "expected None for a transaction that cannot write")


def _asked_for(once: Once, known: Iterable[str]) -> list[str] | None:
    """Return which parameters of a decorated function ``once=`` asks for; None: for all.

    Raises:
        ConfigError: it asks for another, or is one key for calls that may differ.
    """
    known = list(known)
    names = ", ".join(known)
    if isinstance(once, str) and known:
        accepted = f"expected a function of ({names}), or of some of them: with one key only one call is ever applied"
        raise ConfigError("once", once, accepted)
    if not callable(once):
        return []
    asked = _signature_of(once)
    if asked is None:
        return None
    parameters = asked.parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    named = [parameter for parameter in parameters if parameter.kind not in _VARIABLE]
    for parameter in named:
        if parameter.kind is parameter.POSITIONAL_ONLY or (
            parameter.name not in known and parameter.default is parameter.empty
        ):
            accepted = f"expected a function of ({names}), or of some of them, not of {parameter.name}"
            raise ConfigError("once", once, accepted)
    return [parameter.name for parameter in named if parameter.name in known]


def _signature_of(fn: Callable[..., Any]) -> inspect.Signature | None:
    try:
        return inspect.signature(fn, **_FORMAT)
    except (TypeError, ValueError):  # as of a function in C
        return None
