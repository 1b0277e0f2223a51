"""Asks each host for what an audit needs to know, with the login of the probes."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg

from pgroute import HostState
from pgroute.cli.terminal import as_text as _decoded
from pgroute.core.printable import printable

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from pgroute import HostInfo, HostKey, Topology
    from pgroute.core.config.router_config import RouterConfig

_NO_LOGIN = frozenset({HostState.UNKNOWN, HostState.DOWN, HostState.STARTING, HostState.REJECTED})
"""The states in which the router knows already why a login fails."""

FUNCTIONS = (
    "pg_catalog.pg_current_wal_lsn()",
    "pg_catalog.pg_current_wal_insert_lsn()",
    "pg_catalog.pg_current_wal_flush_lsn()",
    "pg_catalog.pg_walfile_name(pg_catalog.pg_lsn)",
    "pg_catalog.pg_last_wal_replay_lsn()",
    "pg_catalog.pg_control_system()",
    "pg_catalog.pg_control_checkpoint()",
    "pg_catalog.pg_control_recovery()",
    "pg_catalog.pg_postmaster_start_time()",
)
"""What the probes call."""

SETTINGS = (
    "max_connections",
    "superuser_reserved_connections",
    "reserved_connections",
    "hot_standby",
    "synchronous_standby_names",
    "synchronous_commit",
    "tcp_keepalives_idle",
    "tcp_user_timeout",
    "client_connection_check_interval",
)

_ASK_IDENTITY = """
SELECT pg_catalog.pg_backend_pid(), pg_catalog.pg_is_in_recovery(), current_user::pg_catalog.text,
       pg_catalog.host(pg_catalog.inet_server_addr()), pg_catalog.inet_server_port()"""
_ASK_TIME = "SELECT extract(epoch FROM pg_catalog.clock_timestamp())::double precision"
_ASK_SETTINGS = """
SELECT name::pg_catalog.text, pg_catalog.current_setting(name)::pg_catalog.text
  FROM pg_catalog.pg_settings WHERE name OPERATOR(pg_catalog.=) ANY (%s)"""
_ASK_RIGHTS = """
SELECT f::pg_catalog.text FROM pg_catalog.unnest(%s::pg_catalog.text[]) f
 WHERE NOT coalesce(pg_catalog.has_function_privilege(pg_catalog.to_regprocedure(f), 'EXECUTE'), false)"""
_ASK_STATS = "SELECT pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE')"
_ASK_LIMITS = """
SELECT rolname::pg_catalog.text, rolconnlimit FROM pg_catalog.pg_roles
 WHERE rolname OPERATOR(pg_catalog.=) ANY (%s) AND rolconnlimit OPERATOR(pg_catalog.>=) 0"""
_ASK_DATABASE = """
SELECT datconnlimit, (SELECT pg_catalog.sum(numbackends) FROM pg_catalog.pg_stat_database)::int
  FROM pg_catalog.pg_database
 WHERE datname OPERATOR(pg_catalog.=) pg_catalog.current_database()"""
_ASK_TLS = """
SELECT version::pg_catalog.text FROM pg_catalog.pg_stat_ssl
 WHERE pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()"""
_ASK_SYNCHRONOUS = """
SELECT pg_catalog.count(*)::int FROM pg_catalog.pg_stat_replication
 WHERE sync_state OPERATOR(pg_catalog.=) ANY (ARRAY['sync', 'quorum'])"""


@dataclass(slots=True)
class Answers:
    """What a host answered; what it did not tell stays as it is here.

    Attributes:
        failure: why nothing, or no more, was learned; empty if everything was.
        connect: seconds that connecting took.
        tls: the version of TLS, empty for none, "TLS" for an unknown version.
        local: the connection does not leave this machine.
        server: the server's own address and port, if it was reached by another.
        offset: seconds that the server's clock is ahead of ours, known to offset_error.
        user: who the probes are at the server.
        limits: the connection limits of roles that have one.
        database_limit: that of the database; None if it has none.
        in_use: connections to the server now.
        synchronous: attached synchronous standbys; None if it cannot be seen.
    """

    failure: str = "was not asked"
    connect: float | None = None
    version: int = 0
    pooled: bool = False
    standby: bool | None = None
    server: str = ""
    user: str = ""
    tls: str = ""
    local: bool = False
    settings: dict[str, str] = field(default_factory=dict)
    lacking: list[str] = field(default_factory=list)
    reads_stats: bool | None = None
    offset: float | None = None
    offset_error: float = 0.0
    limits: dict[str, int] = field(default_factory=dict)
    database_limit: int | None = None
    in_use: int | None = None
    synchronous: int | None = None


def ask_all(
    config: RouterConfig, topology: Topology, users: Collection[str], timeout: float
) -> Mapping[HostKey, Answers]:
    """Ask all hosts at the same time; one that does not answer in time leaves its question unanswered.

    Args:
        config: how to log in.
        topology: the hosts, and which of them answer.
        users: names of roles whose connection limits are asked for.
        timeout: seconds for each host.
    """
    answers = {host.key: Answers() for host in topology.hosts}
    threads = []
    for host in topology.hosts:
        if host.state not in _NO_LOGIN:
            answers[host.key].failure = f"did not answer within {timeout:g} s"
            # Daemons: a frozen server would keep the command from ending.
            arguments = (config, host, [*users], timeout, answers[host.key])
            threads.append(threading.Thread(target=_ask, args=arguments, daemon=True))
            threads[-1].start()
        else:
            answers[host.key].failure = host.reason or host.state.value
    deadline = time.monotonic() + timeout
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return answers


def _ask(config: RouterConfig, host: HostInfo, users: list[str], timeout: float, answers: Answers) -> None:
    try:
        _connect_and_ask(config, host, users, timeout, answers)
    except psycopg.Error as exc:
        answers.failure = printable(str(exc))
    except (AssertionError, TypeError, ValueError) as exc:
        answers.failure = f"answered strangely: {printable(repr(exc))}"
    else:
        answers.failure = ""


def _connect_and_ask(
    config: RouterConfig, host: HostInfo, users: list[str], timeout: float, answers: Answers
) -> None:
    address = None if host.key.is_socket else host.address
    params = config.watch.conninfo(
        host.key, hostaddr=address, connect_timeout=max(2, round(timeout)), application_name="pgroute-check"
    )
    begun = time.monotonic()
    arguments: dict[str, Any] = dict(params)
    with psycopg.connect("", **arguments, autocommit=True, prepare_threshold=None) as conn:
        answers.connect = time.monotonic() - begun
        answers.version = conn.info.server_version
        answers.local = (
            host.key.is_socket or conn.info.hostaddr == "::1" or conn.info.hostaddr.startswith("127.")
        )
        answers.tls = "TLS" if conn.pgconn.ssl_in_use else ""
        pid, answers.standby, user, server_host, server_port = _row(conn, _ASK_IDENTITY)
        answers.user = as_text(user)
        answers.pooled = pid != conn.info.backend_pid
        server = f"{as_text(server_host)}:{server_port}" if server_host else ""
        if server and server != f"{conn.info.hostaddr}:{conn.info.port}":
            answers.server = server
        _ask_clock(conn, answers)
        answers.settings = {
            as_text(name): as_text(value)
            for name, value in conn.execute(_ASK_SETTINGS, ([*SETTINGS],)).fetchall()
        }
        answers.lacking = [as_text(name) for (name,) in conn.execute(_ASK_RIGHTS, ([*FUNCTIONS],)).fetchall()]
        (answers.reads_stats,) = _row(conn, _ASK_STATS)
        limits = conn.execute(_ASK_LIMITS, ([*{*users, answers.user}],)).fetchall()
        answers.limits = {as_text(name): limit for name, limit in limits}
        limit, answers.in_use = _row(conn, _ASK_DATABASE)
        answers.database_limit = limit if limit >= 0 else None
        if answers.tls and not answers.pooled:
            (version,) = _row(conn, _ASK_TLS)
            answers.tls = as_text(version or "TLS")
        if answers.reads_stats and not answers.standby:
            (answers.synchronous,) = _row(conn, _ASK_SYNCHRONOUS)


def _ask_clock(conn: psycopg.Connection[Any], answers: Answers) -> None:
    """Compare the clocks by the quickest of three round trips."""
    for _ in range(3):
        sent = time.time()
        (there,) = _row(conn, _ASK_TIME)
        received = time.time()
        error = (received - sent) / 2
        if answers.offset is None or error < answers.offset_error:
            answers.offset, answers.offset_error = there - (sent + error), error


def as_text(value: str | bytes) -> str:
    """Return text of the server, which may hold anything, as one printable line."""
    return printable(_decoded(value))


def _row(conn: psycopg.Connection[Any], query: str) -> tuple[Any, ...]:
    row: tuple[Any, ...] | None = conn.execute(query.encode()).fetchone()
    assert row is not None
    return row
