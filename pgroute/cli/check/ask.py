"""Asks each host for what an audit needs to know, with the login of the probes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import psycopg

from pgroute import HostState
from pgroute._sync.statements import ask_warily, filled, rows
from pgroute.cli.terminal import as_text as _decoded
from pgroute.core.faults.classify import connect_fault, one_line
from pgroute.core.printable import printable
from pgroute.core.sql.statements import OWN_TERMS, qualify
from pgroute.monitor.errors import ProbeFailed
from pgroute.monitor.probe_login import ProbeLogin
from pgroute.runtime.credentials import CredentialSource

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

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
    "tcp_keepalives_interval",
    "tcp_keepalives_count",
    "tcp_user_timeout",
    "client_connection_check_interval",
)

_ASK_IDENTITY = b"""
SELECT pg_catalog.pg_backend_pid(), pg_catalog.pg_is_in_recovery(), SESSION_USER, CURRENT_USER,
       pg_catalog.host(pg_catalog.inet_server_addr()), pg_catalog.inet_server_port()"""
_ASK_TIME = b"SELECT extract(epoch FROM pg_catalog.clock_timestamp())"
_ASK_SETTINGS = qualify("""
SELECT name, pg_catalog.current_setting(name) FROM pg_catalog.pg_settings
 WHERE name `=` ANY (%(names)s::pg_catalog.text[])""")
_ASK_RIGHTS = b"""
SELECT f FROM pg_catalog.unnest(%(functions)s::pg_catalog.text[]) f
 WHERE NOT coalesce(pg_catalog.has_function_privilege(pg_catalog.to_regprocedure(f), 'EXECUTE'), false)"""
_ASK_STATS = b"SELECT pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE')"
_ASK_LIMITS = qualify("""
SELECT rolname, rolconnlimit, rolsuper FROM pg_catalog.pg_roles
 WHERE rolname::pg_catalog.text `=` ANY (ARRAY(SELECT pg_catalog.json_array_elements_text(%(names)s::pg_catalog.json)))
""")
_ASK_DATABASE = qualify("""
SELECT datconnlimit, (SELECT pg_catalog.sum(numbackends) FROM pg_catalog.pg_stat_database)
  FROM pg_catalog.pg_database WHERE datname `=` pg_catalog.current_database()""")
_ASK_TLS = qualify("SELECT version FROM pg_catalog.pg_stat_ssl WHERE pid `=` pg_catalog.pg_backend_pid()")
_ASK_GSS = qualify(
    "SELECT encrypted FROM pg_catalog.pg_stat_gssapi WHERE pid `=` pg_catalog.pg_backend_pid()"
)
# Who may not read the state sees at least how many there are.
_ASK_SYNCHRONOUS = qualify("""
SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_replication
 WHERE sync_state IS NULL OR sync_state `=` ANY (ARRAY['sync', 'quorum'])""")


@dataclass(slots=True)
class Answers:
    """What a host answered; what it did not tell stays as it is here.

    Attributes:
        failure: why nothing, or no more, was learned; empty if everything was.
        connect: seconds that connecting took.
        tls: the version of TLS, empty for none, "TLS" for an unknown version.
        gss: GSSAPI encrypts the connection.
        local: the connection, or its first hop, does not leave this machine.
        server: the server's own address and port, if it was reached by another.
        remote: that address is not one of this machine alone.
        offset: seconds that the server's clock is ahead of ours, known to offset_error.
        user: who the probes have logged in as.
        acts_as: whose rights they have: that role, or one that its settings change to.
        limits: the connection limits of roles that have one.
        superusers: roles for which no such limit counts.
        database_limit: that of the database; None if it has none.
        in_use: connections to the server now.
        synchronous: attached synchronous standbys, without reads_stats perhaps fewer; None if it cannot be seen.
        refused: why a question was not answered, by what it was about.
    """

    failure: str = "was not asked"
    connect: float | None = None
    version: int = 0
    pooled: bool = False
    standby: bool | None = None
    server: str = ""
    remote: bool = False
    user: str = ""
    acts_as: str = ""
    tls: str = ""
    gss: bool = False
    local: bool = False
    settings: dict[str, str] = field(default_factory=dict)
    lacking: list[str] = field(default_factory=list)
    reads_stats: bool | None = None
    offset: float | None = None
    offset_error: float = 0.0
    limits: dict[str, int] = field(default_factory=dict)
    superusers: set[str] = field(default_factory=set)
    database_limit: int | None = None
    in_use: int | None = None
    synchronous: int | None = None
    refused: dict[str, str] = field(default_factory=dict)

    @property
    def near(self) -> bool:
        """Whether the way to the server does not leave this machine, as far as that can be told."""
        return self.local and not self.remote


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
    source = None if config.credentials is None else CredentialSource(config.credentials)
    threads = []
    for host in topology.hosts:
        if host.state not in _NO_LOGIN:
            answers[host.key].failure = f"did not answer within {timeout:g} s"
            # Daemons: a frozen server would keep the command from ending.
            connect = partial(_connect, config, host, source, timeout, answers[host.key])
            arguments = (connect, [*users], answers[host.key])
            threads.append(threading.Thread(target=_ask, args=arguments, daemon=True))
            threads[-1].start()
        else:
            answers[host.key].failure = host.reason or host.state.value
    deadline = time.monotonic() + timeout
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    if source is not None:
        source.close()
    return answers


def _ask(connect: Callable[[], psycopg.Connection[Any]], users: list[str], answers: Answers) -> None:
    try:
        with contextlib.closing(connect()) as conn:
            _Questions(conn, answers).ask(users)
    except ProbeFailed as exc:
        answers.failure = exc.fault.reason
    except psycopg.Error as exc:
        answers.failure = printable(str(exc))
    except (AssertionError, TypeError, ValueError) as exc:
        answers.failure = f"answered strangely: {printable(repr(exc))}"
    else:
        answers.failure = ""


def _connect(
    config: RouterConfig, host: HostInfo, source: CredentialSource | None, timeout: float, answers: Answers
) -> psycopg.Connection[Any]:
    """Log in as the probes do, also by the rules of theirs for a credentials function.

    Raises:
        ProbeFailed: it failed.
    """
    address = None if host.key.is_socket else host.address
    params = config.watch.conninfo(
        host.key, hostaddr=address, connect_timeout=max(2, round(timeout)), application_name="pgroute-check"
    )

    async def open_with(params: Mapping[str, str]) -> psycopg.Connection[Any]:
        begun = time.monotonic()
        arguments: dict[str, Any] = dict(params)
        try:
            conn = psycopg.connect("", **arguments, autocommit=True)
        except psycopg.Error as exc:
            raise ProbeFailed(connect_fault(exc)) from None
        answers.connect = time.monotonic() - begun
        return conn

    return asyncio.run(ProbeLogin(host.key, params, source).log_in(open_with, timeout))


class _Questions:
    """Asks one host. Each question stands on its own, and depends on no setting of the session's.

    Args:
        conn: a new connection in autocommit mode.
        answers: takes what is told.
    """

    def __init__(self, conn: psycopg.Connection[Any], answers: Answers) -> None:
        self._conn = conn
        self._answers = answers

    def ask(self, users: list[str]) -> None:
        """Ask everything.

        Raises:
            psycopg.Error: the connection was lost.
            ValueError, TypeError: an answer is none that PostgreSQL gives.
        """
        answers, info = self._answers, self._conn.info
        answers.version = info.server_version
        answers.local = not info.hostaddr or info.hostaddr == "::1" or info.hostaddr.startswith("127.")
        answers.tls = "TLS" if self._conn.pgconn.ssl_in_use else ""
        answers.user = answers.acts_as = as_text(info.user)
        for pid, standby, user, acts_as, host, port in self._rows("the session", _ASK_IDENTITY):
            answers.pooled = int(pid) != info.backend_pid
            answers.standby = standby == "t"
            answers.user, answers.acts_as = user, acts_as
            if host and f"{host}:{port}" != f"{info.hostaddr}:{info.port}":
                answers.server = f"{host}:{port}"
                answers.remote = not ip_address(host).is_loopback
        self._ask_clock()
        settings = self._rows("the settings", _ASK_SETTINGS, names=_array(SETTINGS))
        answers.settings = {row[0]: row[1] for row in settings}
        lacking = self._rows("the rights", _ASK_RIGHTS, functions=_array(FUNCTIONS))
        answers.lacking = [name for (name,) in lacking]
        for (reads,) in self._rows("pg_read_all_stats", _ASK_STATS):
            answers.reads_stats = reads == "t"
        names = json.dumps([*{*users, answers.user}])
        for name, limit, superuser in self._rows("the connection limits of roles", _ASK_LIMITS, names=names):
            if superuser == "t":
                answers.superusers.add(name)
            elif int(limit) >= 0:
                answers.limits[name] = int(limit)
        for limit, in_use in self._rows("the connections", _ASK_DATABASE):
            answers.database_limit = int(limit) if int(limit) >= 0 else None
            answers.in_use = int(in_use)
        if answers.tls and not answers.pooled:
            for (version,) in self._rows("TLS", _ASK_TLS):
                answers.tls = version or "TLS"
        if not (answers.tls or answers.pooled):
            for (encrypted,) in self._rows("GSSAPI", _ASK_GSS):
                answers.gss = encrypted == "t"
        if not answers.standby:
            for (count,) in self._rows("the standbys", _ASK_SYNCHRONOUS):
                answers.synchronous = int(count)

    def _ask_clock(self) -> None:
        """Compare the clocks by the quickest of three round trips."""
        answers = self._answers
        for _ in range(3):
            sent = time.time()
            found = self._rows("the clock", _ASK_TIME)
            error = (time.time() - sent) / 2
            for (there,) in found:
                if answers.offset is None or error < answers.offset_error:
                    answers.offset, answers.offset_error = float(there) - (sent + error), error

    def _rows(self, about: str, question: bytes, **values: str) -> list[tuple[str, ...]]:
        """Return the rows of the answer, "" for NULL; none if the server refuses the question."""
        try:
            results = ask_warily(self._conn, OWN_TERMS + filled(self._conn, question, **values))
        except psycopg.Error as exc:
            if self._conn.closed:
                raise
            self._answers.refused[about] = one_line(str(exc))
            return []
        return [tuple([as_text(value or b"") for value in row]) for row in rows(results)]


def _array(words: Iterable[str]) -> str:
    return f"{{{','.join(words)}}}"


def as_text(value: str | bytes) -> str:
    """Return text of the server, which may hold anything, as one printable line."""
    return printable(_decoded(value))
