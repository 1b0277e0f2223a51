"""What an exception says of the host and of the transaction; the texts are libpq's, psycopg's and the server's."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import errors

from pgroute.core.faults.classify import (
    Fault,
    FaultKind,
    connect_fault,
    one_line,
    options_refused,
    session_fault,
)

AT = 'connection failed: connection to server at "127.0.0.1", port 5432 failed: '
ON = 'connection is bad: connection to server on socket "/tmp/.s.PGSQL.5432" failed: '
IS_IT_RUNNING = "\n\tIs the server running on that host and accepting TCP/IP connections?"


def cached(reason: str) -> str:
    """Return what PgBouncer says for a while after its server refused it, or could not be reached."""
    return f"FATAL:  server login has been failing, cached error: {reason} (server_login_retry)"


CONNECTING = [
    # Nobody there.
    (AT + "Connection refused" + IS_IT_RUNNING, FaultKind.REFUSED, "Connection refused"),
    (
        ON + "No such file or directory\n\tIs the server running locally",
        FaultKind.REFUSED,
        "No such file or directory",
    ),
    (AT + "No route to host" + IS_IT_RUNNING, FaultKind.REFUSED, "No route to host"),
    (
        AT
        + "server closed the connection unexpectedly\n\tThis probably means the server terminated abnormally",
        FaultKind.REFUSED,
        "server closed the connection unexpectedly",
    ),
    (AT + "could not receive data from server: Connection reset by peer", FaultKind.REFUSED, None),
    (AT + "SSL SYSCALL error: EOF detected", FaultKind.REFUSED, "SSL SYSCALL error: EOF detected"),
    (AT + "SSL SYSCALL error: Connection reset by peer", FaultKind.REFUSED, None),
    (AT + "SSL error: unexpected eof while reading", FaultKind.REFUSED, None),
    (AT + "SSL connection has been closed unexpectedly", FaultKind.REFUSED, None),
    (
        'connection failed: connection to server at "SSL-TLS.authentication", port 5432 failed: Connection refused',
        FaultKind.REFUSED,
        "Connection refused",
    ),
    (AT + "timeout expired", FaultKind.TIMEOUT, "timeout expired"),
    # Names.
    (
        "failed to resolve host 'db.example': [Errno -3] Temporary failure in name resolution",
        FaultKind.UNRESOLVED,
        "failed to resolve host 'db.example': [Errno -3] Temporary failure in name resolution",
    ),
    ('could not translate host name "db" to address: Name or service not known', FaultKind.UNRESOLVED, None),
    ("[Errno 8] nodename nor servname provided, or not known", FaultKind.UNRESOLVED, None),
    ("failed to resolve host 'a:  b': [Errno -2] Name or service not known", FaultKind.UNRESOLVED, None),
    (
        'connection failed: connection to server on socket "/x:  y/.s.PGSQL.1" failed: No such file or directory',
        FaultKind.REFUSED,
        None,
    ),
    # Starting, or stopping.
    (
        AT + "FATAL:  the database system is starting up",
        FaultKind.STARTING,
        "FATAL:  the database system is starting up",
    ),
    (AT + "FATAL:  the database system is shutting down", FaultKind.STARTING, None),
    (AT + "FATAL:  the database system is in recovery mode", FaultKind.STARTING, None),
    (
        AT
        + "FATAL:  the database system is not yet accepting connections\nDETAIL:  Consistent recovery state",
        FaultKind.STARTING,
        "FATAL:  the database system is not yet accepting connections",
    ),
    (
        AT
        + "FATAL:  the database system is not accepting connections\nDETAIL:  Hot standby mode is disabled.",
        FaultKind.STARTING,
        None,
    ),
    (AT + "FATAL:  terminating connection due to unexpected postmaster exit", FaultKind.STARTING, None),
    (
        AT
        + "WARNING:  terminating connection because of crash of another server process\nDETAIL:  The postmaster has",
        FaultKind.STARTING,
        None,
    ),
    # Full.
    (
        ON + "FATAL:  sorry, too many clients already",
        FaultKind.BUSY,
        "FATAL:  sorry, too many clients already",
    ),
    (
        AT + "FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute",
        FaultKind.BUSY,
        None,
    ),
    (AT + 'FATAL:  too many connections for role "app"', FaultKind.BUSY, None),
    (AT + 'FATAL:  too many connections for database "shop"', FaultKind.BUSY, None),
    (AT + "FATAL:  no more connections allowed (max_client_conn)", FaultKind.BUSY, None),
    (AT + "FATAL:  client connections exceeded (max_db_client_connections)", FaultKind.BUSY, None),
    # A pooler that does not reach its server, or will not for now.
    (
        AT + "FATAL:  server login has been failing, try again later (server_login_retry)",
        FaultKind.STARTING,
        None,
    ),
    (AT + cached("connect failed"), FaultKind.STARTING, None),
    (AT + cached("connect timeout"), FaultKind.STARTING, None),
    (AT + cached("cannot connect"), FaultKind.STARTING, None),
    (AT + cached("server DNS lookup failed"), FaultKind.STARTING, None),
    (AT + cached("server conn crashed?"), FaultKind.STARTING, None),
    (AT + cached("server down"), FaultKind.STARTING, None),
    (AT + cached(""), FaultKind.STARTING, None),
    (AT + "FATAL:  client_login_timeout (server down)", FaultKind.STARTING, None),
    (AT + "ERROR:  pgbouncer cannot connect to server", FaultKind.STARTING, None),
    (AT + "FATAL:  pgbouncer is shutting down", FaultKind.STARTING, None),
    (AT + "FATAL:  pooler is shutting down", FaultKind.STARTING, None),
    (AT + "FATAL:  server shutting down", FaultKind.STARTING, None),
    # A pooler that repeats what its server said.
    (AT + cached("the database system is starting up"), FaultKind.STARTING, None),
    (AT + cached("sorry, too many clients already"), FaultKind.BUSY, None),
    (AT + cached("das Datenbanksystem startet"), FaultKind.STARTING, None),
    (
        AT + cached('password authentication failed for user "app"'),
        FaultKind.REJECTED,
        cached('password authentication failed for user "app"'),
    ),
    (AT + cached('database "shop" does not exist'), FaultKind.REJECTED, None),
    (AT + cached('database "connect failed" does not exist'), FaultKind.REJECTED, None),
    (AT + cached('no pg_hba.conf entry for host "10.0.0.9", user "app"'), FaultKind.REJECTED, None),
    (AT + cached("server refused SSL"), FaultKind.REJECTED, None),
    # Turned down.
    (
        AT + 'FATAL:  password authentication failed for user "app"',
        FaultKind.REJECTED,
        'FATAL:  password authentication failed for user "app"',
    ),
    (AT + 'FATAL:  database "shop" does not exist', FaultKind.REJECTED, None),
    (AT + 'FATAL:  role "app" is not permitted to log in', FaultKind.REJECTED, None),
    (
        AT + 'FATAL:  no pg_hba.conf entry for host "10.0.0.9", user "app", database "shop", SSL encryption\n'
        'connection to server at "127.0.0.1", port 5432 failed: FATAL:  no pg_hba.conf entry, no encryption',
        FaultKind.REJECTED,
        'FATAL:  no pg_hba.conf entry for host "10.0.0.9", user "app", database "shop", SSL encryption',
    ),
    (AT + "FATAL:  contraseña incorrecta", FaultKind.REJECTED, None),
    (AT + "致命错误:  用户口令不对", FaultKind.REJECTED, None),
    (
        AT + 'ÖLÜMCÜL (FATAL):  "app" kullanıcısı için şifre doğrulaması başarısız oldu',  # noqa: RUF001
        FaultKind.REJECTED,
        None,
    ),
    (AT + "ÖLÜMCÜL (FATAL):  the database system is starting up", FaultKind.STARTING, None),
    (AT + "fe_sendauth: no password supplied", FaultKind.REJECTED, "fe_sendauth: no password supplied"),
    (AT + "SSL error: certificate verify failed", FaultKind.REJECTED, None),
    (AT + "server does not support SSL, but SSL was required", FaultKind.REJECTED, None),
    (AT + 'root certificate file "/nope" does not exist', FaultKind.REJECTED, None),
    (AT + "channel binding is required, but server did not offer one", FaultKind.REJECTED, None),
    (AT + "GSSAPI continuation error", FaultKind.REJECTED, None),
    (AT + "could not load private key file", FaultKind.REJECTED, None),
    ("connection is bad: invalid sslmode value", FaultKind.REJECTED, "invalid sslmode value"),
]


@pytest.mark.parametrize(("text", "kind", "reason"), CONNECTING)
def test_failed_connection(text, kind, reason):
    fault = connect_fault(psycopg.OperationalError(text))
    assert fault.kind is kind
    assert fault.host_suspect
    assert fault.rerun_safe
    assert not fault.commit_unknown
    assert not fault.fresh
    if reason is not None:
        assert fault.reason == reason
    assert "\n" not in fault.reason


@pytest.mark.parametrize(
    ("text", "shut"),
    [
        ("FATAL:  the database system is shutting down", True),
        ("FATAL:  pgbouncer is shutting down", True),
        ("FATAL:  das Datenbanksystem f\xe4hrt herunter", True),
        (cached("connect failed"), False),
        ("FATAL:  client_login_timeout (server down)", False),
        ("FATAL:  terminating connection due to administrator command", False),
        ("FATAL:  sorry, too many clients already", False),
        ("Connection refused", False),
    ],
)
def test_whether_it_is_the_server_itself_that_lets_nobody_in(text, shut):
    assert connect_fault(psycopg.OperationalError(AT + text)).shut is shut


def test_server_text_about_a_name_that_looks_like_another_fault_is_a_rejection():
    text = AT + 'FATAL:  database "timeout expired" does not exist'
    assert connect_fault(psycopg.OperationalError(text)).kind is FaultKind.REJECTED


OPTIONS = [
    # PgBouncer before and since 1.20, RDS Proxy, and what AWS documents.
    ("FATAL:  unsupported startup parameter: options", True),
    ("FATAL:  unsupported startup parameter in options: default_transaction_read_only", True),
    (
        "FATAL:  Feature not supported: RDS Proxy currently doesn\u2019t support command-line options.",
        True,
    ),
    ('FATAL:  RDS Proxy currently doesn\'t support the option "application"', True),
    # A login refused.
    ('FATAL:  password authentication failed for user "options"', False),
    ('FATAL:  role "shop" is not permitted to log in', False),
    ("FATALE:  le r\xf4le \xab shop \xbb n'est pas autoris\xe9 \xe0 se connecter", False),
    ("FATAL:  Datenbank \xbbshop\xab existiert nicht", False),
    ("\u0424\u0410\u0422\u0410\u041b:  ... pg_hba.conf ...", False),
    ("FATAL:  SSL connection is required. Please specify SSL options and retry.", False),
    ("FATAL:  SASL authentication failed", False),
    # No refusal by the server.
    ("FATAL:  the database system is starting up", False),
    ("FATAL:  sorry, too many clients already", False),
    ("Connection refused", False),
    ('invalid connection option "options"', False),
    # Nothing that tells.
    ("FATAL:  computer says no", None),
    ('FATAL:  no such shop as "shoppe"', None),
    ('FATAL:  unrecognized configuration parameter "statment_timeout"', None),
]


@pytest.mark.parametrize(("text", "refused"), OPTIONS)
def test_whether_a_login_was_refused_for_its_options(text, refused):
    exc = psycopg.OperationalError(AT + text)
    assert options_refused(exc, names={"shop"}) is refused


@pytest.mark.parametrize("exc", [errors.ConnectionTimeout("connection timeout expired"), TimeoutError()])
def test_connection_timeout(exc):
    assert connect_fault(exc) == Fault(
        FaultKind.TIMEOUT, host_suspect=True, rerun_safe=True, reason="connecting timed out"
    )


def test_parameter_that_psycopg_refuses_is_a_rejection():
    fault = connect_fault(psycopg.ProgrammingError('invalid connection option "foo"\n'))
    assert fault.kind is FaultKind.REJECTED
    assert fault.reason == 'invalid connection option "foo"'


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "no reason given"),
        ("  plain \n more", "plain"),
        (AT + "one\ntwo", "one"),
        ("the words connection failed: stay", "the words connection failed: stay"),
    ],
)
def test_one_line(text, line):
    assert one_line(text) == line


def sqlstate(code: str, text: str = "said the server") -> psycopg.Error:
    return errors.lookup(code)(text)


OPEN = {"closed": False}
CLOSED = {"closed": True}
LOST = Fault(FaultKind.LOST, host_suspect=True, rerun_safe=True, reason="said the server")

SESSIONS = [
    # The connection is gone.
    ("57P01", CLOSED, LOST),
    ("57P02", CLOSED, LOST),
    ("25P03", CLOSED, Fault(FaultKind.OTHER, time_limit="idle_in_transaction_session_timeout")),
    ("25P04", CLOSED, Fault(FaultKind.OTHER, time_limit="transaction_timeout")),
    ("25P04", OPEN, Fault(FaultKind.OTHER, time_limit="transaction_timeout")),
    ("08P01", CLOSED, Fault(FaultKind.LOST, host_suspect=True, fresh=True, rerun_safe=True)),
    (
        "57P01",
        {"closed": True, "committing": True},
        Fault(FaultKind.LOST, host_suspect=True, commit_unknown=True),
    ),
    ("40001", CLOSED, Fault(FaultKind.SERIALIZATION, host_suspect=True, rerun_safe=True)),
    ("40P01", CLOSED, Fault(FaultKind.DEADLOCK, host_suspect=True, rerun_safe=True)),
    (
        "40001",
        {"closed": True, "committing": True},
        Fault(FaultKind.SERIALIZATION, host_suspect=True, commit_unknown=True),
    ),
    # It goes on.
    ("40001", OPEN, Fault(FaultKind.SERIALIZATION, rerun_safe=True)),
    ("40001", {"closed": False, "committing": True}, Fault(FaultKind.SERIALIZATION, rerun_safe=True)),
    ("40P01", OPEN, Fault(FaultKind.DEADLOCK, rerun_safe=True)),
    ("25006", OPEN, Fault(FaultKind.READ_ONLY)),
    (
        "25006",
        {"closed": False, "read_write": True},
        Fault(FaultKind.READ_ONLY, host_suspect=True, fresh=True, rerun_safe=True),
    ),
    ("57P01", OPEN, Fault(FaultKind.LOST, host_suspect=True)),
    ("57P02", OPEN, Fault(FaultKind.LOST, host_suspect=True)),
    ("57P03", OPEN, Fault(FaultKind.LOST, host_suspect=True)),
    ("08006", OPEN, Fault(FaultKind.LOST, host_suspect=True, fresh=True)),
    ("23505", OPEN, Fault(FaultKind.OTHER)),
    ("57014", {"closed": False, "committing": True}, Fault(FaultKind.OTHER)),
]


@pytest.mark.parametrize(("code", "facts", "fault"), SESSIONS)
def test_session(code, facts, fault):
    told = session_fault(sqlstate(code), **facts)
    assert told.reason == "said the server"
    assert (told.kind, told.host_suspect, told.fresh) == (fault.kind, fault.host_suspect, fault.fresh)
    assert (told.rerun_safe, told.commit_unknown) == (fault.rerun_safe, fault.commit_unknown)
    assert told.time_limit == fault.time_limit


def test_connection_lost_without_a_word():
    exc = psycopg.OperationalError("consuming input failed: server closed the connection unexpectedly")
    assert session_fault(exc, closed=True).kind is FaultKind.LOST
    assert session_fault(exc, closed=False).kind is FaultKind.OTHER


def test_exception_of_the_application_shows_only_its_class():
    fault = session_fault(ValueError("a secret of the user"), closed=False)
    assert fault == Fault(FaultKind.OTHER, reason="ValueError")
