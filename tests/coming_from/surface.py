"""What the pools of other libraries offer; `python -m tests.coming_from.surface` writes it to surface.json."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import importlib.metadata
import inspect
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

PINNED = Path(__file__).with_name("surface.json")

GIVEN = {"conn", "querystring", "parameters", "queries"}
"""Arguments that have a default value, but say what a method is about."""

DISTRIBUTIONS = {
    "psycopg_pool": "psycopg-pool",
    "asyncpg": "asyncpg",
    "psqlpy": "psqlpy",
    "psycopg2": "psycopg2-binary",
    "pgmonkey": "pgmonkey",
    "hasql": "hasql",
}


def load(path: str) -> Any:
    """Return an object, as "module:name"."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def public(names: Iterable[str]) -> list[str]:
    return [name for name in names if not name.startswith("_")]


def options(function: Callable[..., Any]) -> Iterator[str]:
    """Return the names of arguments that need not be given."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a property
        return
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY or parameter.default is not parameter.empty:
            yield parameter.name


def members(owner: str, cls: type, *more: str) -> Iterator[str]:
    """Return the public members of a class, as "owner.name", and the names of their optional arguments."""
    for name in [*public(dir(cls)), *more]:
        yield f"{owner}.{name}"
        yield from options(getattr(cls, name, None))  # type: ignore[arg-type]


def of_psycopg_pool() -> Iterator[str]:
    for name in ("ConnectionPool", "NullConnectionPool"):
        cls = load(f"psycopg_pool:{name}")
        yield from options(cls)
        # An instance too: its name is set when it is made.
        yield from members("pool", cls, "name")
    yield from ("NullConnectionPool", "PoolTimeout", "PoolClosed", "TooManyRequests")


def of_asyncpg() -> Iterator[str]:
    yield from options(load("asyncpg:create_pool"))
    yield from options(load("asyncpg:connect"))
    yield from members("pool", load("asyncpg.pool:Pool"))
    yield from members("conn", load("asyncpg.pool:PoolConnectionProxy"))


def of_psqlpy() -> Iterator[str]:
    yield from options(load("psqlpy:ConnectionPool"))
    yield from options(load("psqlpy:connect_pool"))
    for owner, name in {
        "pool": "ConnectionPool",
        "builder": "ConnectionPoolBuilder",
        "listener": "Listener",
        "conn": "Connection",
        "tx": "Transaction",
        "result": "QueryResult",
    }.items():
        shared = set(members("", load("psqlpy:Connection"))) if owner == "tx" else set()
        for member in members(owner, load(f"psqlpy:{name}")):
            if member.removeprefix(owner) not in shared:
                yield member
    yield from (f"ConnRecyclingMethod.{name}" for name in ("Fast", "Verified", "Clean"))
    yield from (f"LoadBalanceHosts.{name}" for name in ("Disable", "Random"))


def of_psycopg2() -> Iterator[str]:
    cls = load("psycopg2.pool:ThreadedConnectionPool")
    made = load("psycopg2.pool:AbstractConnectionPool")(0, 1)
    yield from options(load("psycopg2:connect"))
    yield from ("minconn", "maxconn")
    yield from members("pool", cls, *public(vars(made)))
    classes = inspect.getmembers(importlib.import_module("psycopg2.pool"), inspect.isclass)
    yield from (name for name, found in classes if found is not cls)


def of_pgmonkey() -> Iterator[str]:
    yield from members("manager", load("pgmonkey:PGConnectionManager"))
    yield from ("load_config", "redact_config", "EnvInterpolationError")
    yield from load(
        "pgmonkey.connections.postgres.postgres_connection_factory:PostgresConnectionFactory"
    ).VALID_CONNECTION_KEYS
    yield from members("conn", load("pgmonkey.connections.postgres.pool_connection:PGPoolConnection"))
    template = Path(importlib.import_module("pgmonkey").__file__ or "").parent / "common/templates"
    for path in template.glob("*.y*ml"):
        for section, keys in yaml.safe_load(path.read_text()).items():
            yield section
            if "pool" in section:
                yield from keys
    parser = load("pgmonkey.cli.cli:CLI")().parser
    yield from commands(parser)


def commands(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Return the names of commands and their options."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                yield name
                yield from commands(command)
        elif action.dest not in ("help", "version", "type"):
            yield max(action.option_strings, key=len)


def of_hasql() -> Iterator[str]:
    manager = load("hasql.pool_manager:BasePoolManager")
    yield from options(manager)
    yield from ("dsn", "driver")
    yield from members("pool", manager)
    for module in ("balancer_policy", "staleness", "exceptions"):
        for name in importlib.import_module(f"hasql.{module}").__all__:
            found = load(f"hasql.{module}:{name}")
            yield name
            if name.endswith(("Checker", "StalenessPolicy")):
                yield from options(found)
    yield from (f"each.{field.name}" for field in dataclasses.fields(load("hasql.metrics:PoolMetrics")))
    yield from (f"gauges.{field.name}" for field in dataclasses.fields(load("hasql.metrics:HasqlGauges")))


OFFERS: dict[str, Callable[[], Iterator[str]]] = {
    "psycopg_pool": of_psycopg_pool,
    "asyncpg": of_asyncpg,
    "psqlpy": of_psqlpy,
    "psycopg2": of_psycopg2,
    "pgmonkey": of_pgmonkey,
    "hasql": of_hasql,
}


def offer(library: str) -> dict[str, Any]:
    """Return the version of an installed library, and the names of what it offers."""
    version = importlib.metadata.version(DISTRIBUTIONS[library])
    return {"version": version, "names": sorted(set(OFFERS[library]()) - GIVEN)}


def pinned() -> dict[str, dict[str, Any]]:
    """Return what was written last."""
    found: dict[str, dict[str, Any]] = json.loads(PINNED.read_text("utf-8"))
    return found


if __name__ == "__main__":
    PINNED.write_text(json.dumps({name: offer(name) for name in OFFERS}, indent=1) + "\n", "utf-8")
