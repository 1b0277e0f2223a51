"""`pgroute dsn`: the conninfo of the host that currently serves a role."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg.conninfo import make_conninfo

from pgroute import AcquireTimeout
from pgroute._sync.pool.lease import lease_of
from pgroute._sync.router import manager_of
from pgroute.cli.errors import NotInTime
from pgroute.cli.subject import find_subject
from pgroute.cli.terminal import silence_libraries
from pgroute.core.config import libpq
from pgroute.errors import ConfigError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from pgroute.core.config.dsn import Dsn
    from pgroute.core.model.roles import HostKey


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    silence_libraries()
    key, dsn = find(args)
    print(single_host(dsn, key, passwords=args.with_password))
    return 0


def find(args: argparse.Namespace) -> tuple[HostKey, Dsn]:
    """Return the host of a session for the command's role, and the DSN of that role.

    Raises:
        NotInTime: no session could be opened within the timeout.
        ConfigError: the DSN or the file is invalid.
    """
    with find_subject(args).router(acquire_timeout=args.timeout) as router:
        try:
            conn = router.getconn(args.role)
        except AcquireTimeout as exc:
            raise NotInTime(str(exc)) from None
        try:
            key = lease_of(conn).pool.key
        finally:
            router.putconn(conn)
        config = manager_of(router).config
    return key, (config.writer if args.role == "writer" else config.reader).dsn


def single_host(dsn: Dsn, key: HostKey, *, passwords: bool) -> str:
    """Return a keyword string for a host of a DSN.

    It includes the PG* environment variables, so that it means the same in another environment.
    """
    given = {
        name: value for name, value in dsn.conninfo(key).items() if passwords or not libpq.is_secret(name)
    }
    given.pop("load_balance_hosts", None)  # it says nothing about one host, and older libpqs refuse it
    elsewhere = _elsewhere()
    for name, neutral in (("hostaddr", ""), ("target_session_attrs", "any")):
        if given[name] == neutral and elsewhere.get(name, neutral) == neutral:
            del given[name]
    first = {name: given.pop(name) for name in ("host", "port", "hostaddr") if name in given}
    return make_conninfo("", **first, **given)


def _elsewhere() -> Mapping[str, str]:
    """Return what libpq takes from the environment, and the service there, if a string does not say otherwise."""
    try:
        expanded = libpq.expand({})
    except ConfigError:
        return {}
    return {**expanded.params, "hostaddr": expanded.hostaddrs}
