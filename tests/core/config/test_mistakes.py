"""First contact: arguments and URIs that belong to others are refused in words that help."""

from __future__ import annotations

from typing import Any

import pytest

from pgroute import AsyncRouter, ConfigError, Router

SECRET = "s3cret"


@pytest.mark.parametrize("router", [Router, AsyncRouter])
@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        (
            "max_size",
            20,
            "invalid max_size 20: each role has its own: expected writer=PoolOptions(max_size=20)",
        ),
        ("min_size", 2, "PoolOptions(min_size=2)"),
        ("interval", 0.5, "probe=ProbeOptions(interval=0.5)"),
        ("stop", None, "retry=RetryPolicy(stop=...)"),
        ("timeout", 5, "did you mean acquire_timeout?"),
        ("conninfo", "dbname=x", "did you mean dsn?"),
        ("user", "app", "kwargs={'user': ...}"),
        ("password", SECRET, "kwargs={'password': ...}"),
        ("passwrod", SECRET, "the router has no such parameter"),
        ("sslmode", "require", "kwargs={'sslmode': ...}"),
        ("host", "db1", "expected in the DSN"),
        ("service", "shop", "expected in the DSN"),
        ("autocommit", True, "kwargs={'autocommit': True}"),
        ("cursor_factory", dict, "kwargs={'cursor_factory': ...}"),
        ("wrter", None, "did you mean writer?"),
        ("balancer", "ordered", "did you mean balance?"),
        ("colour", "green", "the router has no such parameter"),
    ],
)
def test_an_argument_that_a_router_does_not_have_is_told_where_it_belongs(
    router: Any, name: str, value: object, said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        router("dbname=shop", **{name: value})
    assert caught.value.parameter == name
    assert said in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("router", [Router, AsyncRouter])
@pytest.mark.parametrize("name", ["max_size", "interval", "conninfo", "autocommit", "colour"])
def test_a_number_that_cannot_be_shown_is_told_where_it_belongs_too(router: Any, name: str) -> None:
    with pytest.raises(ConfigError, match=f"invalid {name} .*: "):
        router("dbname=shop", **{name: 10**5000})


@pytest.mark.parametrize(
    ("dsn", "said"),
    [
        (f"postgresql+psycopg://app:{SECRET}@db1/shop", "drop '+psycopg'"),
        (f"postgresql+psycopg2://app:{SECRET}@db1/shop?sslmode=require", "drop '+psycopg2'"),
        (f"postgres+asyncpg://app:{SECRET}@db1/shop", "drop '+asyncpg'"),
        (f"jdbc:postgresql://db1:5432/shop?user=app&password={SECRET}", "drop 'jdbc:'"),
        (f"mysql://app:{SECRET}@db1/shop", "begins with postgresql:// or postgres://"),
    ],
)
def test_a_uri_of_another_library_is_told_what_to_drop(dsn: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Router(dsn)
    assert said in str(caught.value)
    assert SECRET not in str(caught.value)


async def test_the_wrong_kind_of_with_names_the_right_class() -> None:
    router, other = Router("dbname=shop"), AsyncRouter("dbname=shop")
    things: list[Any] = [router, router.writer(), router.reader(), router.connection()]
    for thing in things:
        with pytest.raises(TypeError, match="use AsyncRouter"):
            async with thing:
                pass
    things = [other, other.writer(), other.reader(), other.connection()]
    for thing in things:
        with pytest.raises(TypeError, match="use Router"), thing:
            pass
    attempts: Any = router.attempts()
    with pytest.raises(TypeError, match="use AsyncRouter"):
        async for _ in attempts:
            pass
    attempts = other.attempts()
    with pytest.raises(TypeError, match="use Router"):
        for _ in attempts:
            pass
    with pytest.raises(TypeError, match="async with"):
        await other.writer()  # type: ignore[misc]


async def coroutine_function(*_: object) -> None: ...


async def test_a_coroutine_or_a_coroutine_function_in_the_wrong_place_is_told_so() -> None:
    router, other = Router("dbname=shop"), AsyncRouter("dbname=shop")
    with pytest.raises(ConfigError, match=r"expected the function: run\(coroutine_function, "):
        router.run(coroutine_function())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"expected the function: run\(coroutine_function, "):
        await other.run(coroutine_function())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="coroutine function: use AsyncRouter"):
        router.run(coroutine_function)  # type: ignore[unused-coroutine]


def test_a_key_that_is_a_number_is_told_to_be_a_string() -> None:
    with pytest.raises(ConfigError, match="a string, such as once='4711'"):
        Router("dbname=shop").run(print, once=4711)  # type: ignore[arg-type]
