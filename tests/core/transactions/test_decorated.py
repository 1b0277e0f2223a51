"""Functions under a decorator: where the connection goes, what callers see, and the key of a call."""

from __future__ import annotations

import inspect
import typing
from functools import partial
from types import FunctionType
from typing import Any

import pytest

from pgroute import AsyncRouter, ConfigError, Role, Router
from pgroute.core.transactions.decorated import Decorated

CONN = object()
DSN = "dbname=shop"


def transfer(conn: Any, source: int, target: int = 8, *numbers: int, fee: bool = False, **more: int) -> str:
    """Transfer."""
    return str((conn is CONN, source, target, numbers, fee, more))


class Bank:
    def book(self, conn: Any, number: int) -> tuple[Any, ...]:
        return (self, conn, number)


def maker() -> Any:
    """Return a function such as a decorator makes."""
    return lambda *args, **kwargs: (args, kwargs)


@pytest.mark.parametrize(
    ("args", "kwargs", "told"),
    [
        ((7,), {}, "(True, 7, 8, (), False, {})"),
        ((7, 9, 1, 2), {"fee": True, "x": 3}, "(True, 7, 9, (1, 2), True, {'x': 3})"),
        ((), {"source": 7}, "(True, 7, 8, (), False, {})"),
    ],
)
def test_a_call_has_all_arguments_but_the_connection(args: Any, kwargs: Any, told: str) -> None:
    assert Decorated(transfer, None).body(args, kwargs)(CONN) == told


def test_in_a_method_the_connection_is_the_second_argument() -> None:
    bank = Bank()
    assert Decorated(Bank.book, None).body((bank, 7), {})(CONN) == (bank, CONN, 7)
    assert Decorated(Bank.book, None).body((bank,), {"number": 7})(CONN) == (bank, CONN, 7)
    assert Decorated(bank.book, None).body((7,), {})(CONN) == (bank, CONN, 7), "it is bound"


def test_callers_see_the_function_without_its_connection() -> None:
    dressed = Decorated(transfer, None).dress(maker())
    assert dressed.__name__ == "transfer"
    assert dressed.__qualname__ == "transfer"
    assert dressed.__module__ == __name__
    assert dressed.__doc__ == "Transfer."
    told = "(source: 'int', target: 'int' = 8, *numbers: 'int', fee: 'bool' = False, **more: 'int') -> 'str'"
    assert str(inspect.signature(dressed)) == told
    assert typing.get_type_hints(dressed) == {
        "source": int,
        "target": int,
        "numbers": int,
        "fee": bool,
        "more": int,
        "return": str,
    }
    assert dressed.__wrapped__ is transfer  # type: ignore[attr-defined]
    assert "conn" in inspect.signature(transfer).parameters, "the function itself is as it was"

    class Dressed:
        book = Decorated(Bank.book, None).dress(maker())

    assert str(inspect.signature(Dressed.book)) == "(self, number: 'int') -> 'tuple[Any, ...]'"
    assert str(inspect.signature(Dressed().book)) == "(number: 'int') -> 'tuple[Any, ...]'"


def test_a_function_whose_parameters_are_not_known_gets_the_connection_first() -> None:
    assert Decorated(max, None).body((7,), {"key": lambda value: value is not CONN})(CONN) == 7
    every = Decorated(lambda *args: args, None)
    assert every.body((7,), {})(CONN) == (CONN, 7)
    assert Decorated(partial(transfer, target=9), None).body((7,), {})(CONN).startswith("(True, 7, 9,")


@pytest.mark.parametrize(
    ("args", "kwargs", "key"),
    [
        ((7,), {}, "7 8"),
        ((7, 8), {"fee": True}, "7 8"),
        ((7,), {"target": 9}, "7 9"),
        ((), {"target": 9, "source": 7}, "7 9"),
    ],
)
@pytest.mark.parametrize(
    "once",
    [
        lambda target, source: f"{source} {target}",
        lambda source, target, other=" ": f"{source}{other}{target}",
        lambda **given: f"{given['source']} {given['target']}",
        "{source} {target}".format,
    ],
)
def test_the_key_is_made_of_the_arguments_however_they_are_given(
    once: Any, args: Any, kwargs: Any, key: str
) -> None:
    assert Decorated(transfer, once).key(args, kwargs) == key


def test_the_key_may_depend_on_the_object_of_a_method() -> None:
    bank = Bank()
    once = Decorated(Bank.book, lambda self, number: f"{self is bank} {number}")
    assert once.key((bank, 7), {}) == "True 7"


def test_the_key_of_a_call_that_does_not_fit_is_not_made() -> None:
    decorated = Decorated(transfer, lambda source: f"{source}")
    with pytest.raises(TypeError, match="missing a required argument: 'source'"):
        decorated.key((), {})


@pytest.mark.parametrize("key", [None, True, 7, "", "x" * 513, b"key"])
def test_a_function_that_returns_no_key_is_refused_in_the_call(key: Any) -> None:
    with pytest.raises(ConfigError, match=r"invalid once .*1 to 512 bytes .*from the function"):
        Decorated(transfer, lambda: key).key((7,), {})


@pytest.mark.parametrize("once", ["setup", True, False, None])
def test_without_a_function_calls_get_the_option_as_it_is(once: Any) -> None:
    def setup(conn: Any) -> None: ...

    assert Decorated(setup, once).key((), {}) is once


@pytest.mark.parametrize(
    ("fn", "once", "said"),
    [
        (transfer, "one for all", "expected a function of (source, target, numbers, fee, more), or of some"),
        (Bank.book, "one for all", "expected a function of (self, number), or of some"),
        (Bank.book, lambda order: order, "(self, number), or of some of them, not of order"),
        (Bank.book, lambda conn, number: str((conn, number)), "not of conn"),
        (Bank.book, lambda number, /: str(number), "not of number"),
        (max, lambda number: str(number), "the parameters of fn are not known"),  # noqa: PLW0108
    ],
)
def test_what_makes_no_key_of_each_call_is_refused_at_decoration(fn: Any, once: Any, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Decorated(fn, once)
    assert caught.value.parameter == "once"
    assert said in str(caught.value)


async def coroutine_function(conn: Any, number: int) -> None: ...


def plain_function(conn: Any, number: int) -> None: ...


def generator(conn: Any) -> Any:
    yield conn


async def async_generator(conn: Any) -> Any:
    yield conn


class Body:
    def __call__(self, conn: Any, number: int) -> None: ...


MISTAKES: list[tuple[Any, str]] = [
    (lambda: None, "expected a function whose first parameter is the connection"),
    (lambda *, conn: conn, "first parameter is the connection"),
    (lambda **conn: conn, "first parameter is the connection"),
    (lambda number, conn: (number, conn), "first parameter is the connection"),
    (lambda self: self, "second parameter, behind self, is the connection"),
    (lambda cls, number, conn: (cls, number, conn), "second parameter, behind cls, is the connection"),
    (Body, "this is a class: decorate its methods"),
    (staticmethod(plain_function), "put @staticmethod above @router.transaction"),
    (classmethod(plain_function), "put @classmethod above @router.transaction"),
    (generator, "this is a generator function"),
    (async_generator, "this is a generator function"),
    ("writer", "expected a function of a connection"),
]


@pytest.mark.parametrize("parentheses", [True, False])
@pytest.mark.parametrize(("fn", "said"), MISTAKES, ids=[said for _, said in MISTAKES])
@pytest.mark.parametrize("make", [Router, AsyncRouter])
def test_what_is_no_function_of_a_connection_is_refused(
    make: Any, fn: Any, said: str, parentheses: bool
) -> None:
    router = make(DSN)
    if make is AsyncRouter and isinstance(fn, FunctionType) and not inspect.isasyncgenfunction(fn):
        flags = fn.__code__.co_flags | inspect.CO_COROUTINE
        fn = FunctionType(fn.__code__.replace(co_flags=flags), {})
    with pytest.raises(ConfigError) as caught:
        router.transaction()(fn) if parentheses else router.transaction(fn)
    assert caught.value.parameter == "fn"
    assert said in str(caught.value)


def test_functions_of_the_other_face_are_refused() -> None:
    with pytest.raises(ConfigError, match="coroutine function: use AsyncRouter"):
        Router(DSN).transaction(coroutine_function)
    with pytest.raises(ConfigError, match=r"expected a coroutine function \(async def\)"):
        AsyncRouter(DSN).transaction()(plain_function)  # type: ignore[arg-type]
    assert inspect.iscoroutinefunction(AsyncRouter(DSN).transaction(coroutine_function))
    assert not inspect.iscoroutinefunction(Router(DSN).transaction(plain_function))


@pytest.mark.parametrize("make", [Router, AsyncRouter])
@pytest.mark.parametrize(
    ("options", "parameter"),
    [
        ({"role": "primary"}, "role"),
        ({"timeout": -1}, "timeout"),
        ({"retry": 3}, "retry"),
        ({"isolation": "read"}, "isolation"),
        ({"read_only": 1}, "read_only"),
        ({"deferrable": "yes"}, "deferrable"),
        ({"once": 7}, "once"),
        ({"once": ""}, "once"),
        ({"once": coroutine_function}, "once"),
        ({"once": True, "role": Role.READER}, "once"),
        ({"once": lambda number: str(number), "read_only": True}, "once"),  # noqa: PLW0108
    ],
)
def test_bad_options_are_refused_before_a_function_is_decorated(
    make: Any, options: dict[str, Any], parameter: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        make(DSN).transaction(**options)
    assert caught.value.parameter == parameter
