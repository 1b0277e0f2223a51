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

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from pgroute.core.model.roles import HostKey


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    silence_libraries()
    key, params = find(args)
    print(single_host(params, key, passwords=args.with_password))
    return 0


def find(args: argparse.Namespace) -> tuple[HostKey, Mapping[str, str]]:
    """Return the host of a session for the command's role, and the libpq parameters of that role.

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
    return key, (config.writer if args.role == "writer" else config.reader).dsn.params


def single_host(params: Mapping[str, str], key: HostKey, *, passwords: bool) -> str:
    """Return a keyword string for a host with these parameters.

    They include the PG* environment variables, so that it means the same in another environment.
    """
    given = {name: value for name, value in params.items() if passwords or not libpq.is_secret(name)}
    where = {"host": key.host, "port": str(key.port)}
    if key.hostaddr:
        where["hostaddr"] = key.hostaddr
    return make_conninfo("", **where, **given)
