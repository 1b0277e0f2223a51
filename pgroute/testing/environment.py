"""The environment of the cluster's programs and connections, whatever that of the process and the role defaults are."""

from __future__ import annotations

import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import quote

from pgroute.core.config.settings import startup_options

from .password import parameters

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

SETTINGS = {
    "search_path": '"$user", public',
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "default_transaction_deferrable": "off",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "role": "none",
    "datestyle": "ISO, MDY",
    "intervalstyle": "postgres",
}
"""PostgreSQL's defaults; as startup options they override the defaults of the role and the database."""

_PRINTING = {
    "PGDATESTYLE": "SET datestyle TO 'ISO, MDY'",
    "PGTZ": "SET timezone TO 'UTC'",
    "PGGEQO": "SET geqo TO on",
}
"""Environment variables that no connection parameter covers, and that override `SETTINGS`."""

_NOT_EMPTY = {
    "connect_timeout": "0",
    "sslcertmode": "allow",
    # "none" for tests that write another pg_hba.conf. An empty value would accept no method at all.
    "require_auth": "scram-sha-256,none",
    "min_protocol_version": "3.0",
    "max_protocol_version": "3.0",
}
"""Values in place of defaults of libpq that cannot be written: it has none, and an empty value is another one."""

_NEUTRAL = {
    **_NOT_EMPTY,
    "sslmode": "disable",
    "gssencmode": "disable",
    "ssl_min_protocol_version": "TLSv1.2",
    "application_name": "pgroute-testing",
    "client_encoding": "UTF8",
    "options": startup_options(SETTINGS),
}
_LEFT_ALONE = {
    "host",
    "port",
    "user",
    "dbname",
    "password",
    "passfile",
    "service",
    "servicefile",
    "application_name",
}
"""Parameters that a DSN has anyway, that no parameter replaces, and the one of which any value will do."""

_service = threading.Lock()


def program_environment(home: Path) -> dict[str, str]:
    """Return the environment of the server and its programs, without variables for libpq or the locale."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))}
    return {**kept, "LC_ALL": "C", "TZ": "UTC", "HOME": str(home)}


def connection_parameters(**ours: str | int) -> dict[str, str]:
    """Return connection parameters that override all environment variables of libpq.

    Args:
        ours: host, port, user, dbname and other parameters to set.
    """
    from psycopg import pq

    params = {}
    for option in pq.Conninfo.get_defaults():
        name = option.keyword.decode()
        if option.envvar is not None and name != "service":
            params[name] = _NEUTRAL.get(name, (option.compiled or b"").decode())
    return params | {name: str(value) for name, value in ours.items()}


def client_parameters(passfile: Path | None) -> dict[str, str]:
    """Return what a DSN for users says beside hosts, user and database, so that no variable of libpq has a say.

    Args:
        passfile: the password file; None if the server is none of ours: then the variables are for that server, and
            only the address is not theirs to tell.
    """
    if passfile is None:
        return {name: value for name, value in _overridden().items() if name == "hostaddr"}
    return {**parameters(passfile), **_overridden()}


def _overridden() -> dict[str, str]:
    """Return libpq's own defaults of the parameters that a variable, or the service that one names, sets otherwise."""
    from psycopg import pq

    found = {}
    for option in pq.Conninfo.get_defaults():
        name = option.keyword.decode()
        if option.envvar is not None and option.val != option.compiled and name not in _LEFT_ALONE:
            found[name] = _NOT_EMPTY.get(name, (option.compiled or b"").decode())
    return found


def program_conninfo(target: Mapping[str, str | int]) -> str:
    """Return a conninfo for a program in `program_environment`, valid for any version of libpq."""
    names = ("sslmode", "gssencmode", "application_name", "options")
    return conninfo(**target, **{name: _NEUTRAL[name] for name in names})


def uri(user: str, hosts: str, dbname: str, passfile: Path | None) -> str:
    """Return a libpq URI for users; see `client_parameters`."""
    query = "&".join(
        f"{name}={quote(value, safe='/,')}" for name, value in client_parameters(passfile).items()
    )
    return f"postgresql://{user}@{hosts}/{dbname}{query and '?'}{query}"


def conninfo(**params: str | int) -> str:
    """Return parameters as a conninfo."""
    from psycopg.conninfo import make_conninfo

    return make_conninfo("", **params)


@contextmanager
def no_variables() -> Iterator[None]:
    """Hide all variables of libpq, for a program whose every connection goes to a cluster of its own."""
    names = [name for name in os.environ if name.startswith("PG") and not name.startswith("PGROUTE")]
    hidden = {name: os.environ.pop(name) for name in names}
    try:
        yield
    finally:
        os.environ.update(hidden)


@contextmanager
def no_service() -> Iterator[None]:
    """Hide PGSERVICE while a connection is opened: no parameter makes libpq ignore it."""
    if "PGSERVICE" not in os.environ:
        yield
        return
    with _service:
        name = os.environ.pop("PGSERVICE", None)
        try:
            yield
        finally:
            if name is not None:
                os.environ["PGSERVICE"] = name


def printing_statements() -> list[str]:
    """Return statements to run at the start of a session, which undo the variables in `_PRINTING`."""
    return [statement for name, statement in _PRINTING.items() if name in os.environ]
