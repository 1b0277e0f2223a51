"""`pgroute dsn`: the conninfo of the host that currently serves a role."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg.conninfo import make_conninfo

from pgroute import AcquireTimeout, Router
from pgroute._sync.pool.lease import lease_of
from pgroute.cli.errors import NotInTime
from pgroute.cli.parser import names
from pgroute.cli.terminal import silence_libraries
from pgroute.core.config import libpq
from pgroute.core.config.dsn import parse_dsn

if TYPE_CHECKING:
    import argparse

    from pgroute.core.model.roles import HostKey


def run(args: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    silence_libraries()
    key = find(args)
    print(single_host(args.dsn, key, passwords=args.with_password))
    return 0


def find(args: argparse.Namespace) -> HostKey:
    """Return the host of a session for the command's role.

    Raises:
        NotInTime: no session could be opened within the timeout.
        ConfigError: the DSN is invalid.
    """
    with Router(args.dsn, acquire_timeout=args.timeout, **names(args)) as router:
        try:
            conn = router.getconn(args.role)
        except AcquireTimeout as exc:
            raise NotInTime(str(exc)) from None
        try:
            key = lease_of(conn).pool.key
        finally:
            router.putconn(conn)
    return key


def single_host(dsn: str, key: HostKey, *, passwords: bool) -> str:
    """Return the DSN as a keyword string for one of its hosts.

    It includes the PG* environment variables, so that it means the same in another environment.
    """
    parsed = parse_dsn(dsn)
    given = {name: value for name, value in parsed.params.items() if passwords or not libpq.is_secret(name)}
    where = {"host": key.host, "port": str(key.port)}
    if key.hostaddr:
        where["hostaddr"] = key.hostaddr
    return make_conninfo("", **where, **given)
