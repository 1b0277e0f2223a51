"""Failed logins are understood in the languages of PostgreSQL's message catalogs: the server's words and libpq's."""

from __future__ import annotations

import gettext
from pathlib import Path

import psycopg
import pytest

from pgroute.core.faults.classify import FaultKind, connect_fault

LANGUAGES = ("de", "es", "fr", "it", "ja", "ka", "ko", "ru", "sv", "uk", "zh_CN")
CATALOGS = [
    path
    for language in LANGUAGES
    if (path := Path(f"/usr/share/locale/{language}/LC_MESSAGES/postgres-15.mo")).exists()
]
"""Of this machine; Debian's packages bring them along. Other versions may have other words, or other languages."""

STARTING = [
    "the database system is starting up",
    "the database system is shutting down",
    "the database system is in recovery mode",
    "the database system is not yet accepting connections",
    "the database system is not accepting connections",
    "terminating connection due to administrator command",
    "terminating connection due to immediate shutdown command",
    "terminating connection due to unexpected postmaster exit",
    "terminating connection because of crash of another server process",
]
BUSY = [
    "sorry, too many clients already",
    "remaining connection slots are reserved for non-replication superuser connections",
    'too many connections for role "%s"',
    'too many connections for database "%s"',
]
REJECTED = [
    'password authentication failed for user "%s"',
    'role "%s" is not permitted to log in',
    'role "%s" does not exist',
    'database "%s" does not exist',
    'database "%s" is not currently accepting connections',
    'permission denied for database "%s"',
    'pg_hba.conf rejects connection for host "%s", user "%s", database "%s", %s',
    'no pg_hba.conf entry for host "%s", user "%s", database "%s", %s',
]
CASES = {FaultKind.STARTING: STARTING, FaultKind.BUSY: BUSY, FaultKind.REJECTED: REJECTED}


def kind_of(severity: str, text: str) -> FaultKind:
    at = 'connection failed: connection to server at "127.0.0.1", port 5432 failed: '
    return connect_fault(psycopg.OperationalError(f"{at}{severity}:  {text}")).kind


NO_CATALOG = pytest.param(
    None, marks=pytest.mark.skip(reason="no message catalog of PostgreSQL 15 is installed")
)


@pytest.mark.parametrize("catalog", CATALOGS or [NO_CATALOG], ids=lambda path: path and path.parts[4])
def test_every_catalog_that_was_read(catalog):
    with catalog.open("rb") as file:
        translation = gettext.GNUTranslations(file)
    severity = translation.gettext("FATAL")
    found = {text: kind_of(severity, translation.gettext(text)) for texts in CASES.values() for text in texts}
    assert found == {text: kind for kind, texts in CASES.items() for text in texts}


@pytest.mark.parametrize(
    ("severity", "text", "kind"),
    [
        ("FATAL", "das Datenbanksystem startet", FaultKind.STARTING),
        ("FATAL", "le système de bases de données est en cours de restauration", FaultKind.STARTING),
        ("致命错误", "数据库系统启动中", FaultKind.STARTING),
        ("FATAL", "zu viele Verbindungen von Rolle »app«", FaultKind.BUSY),
        ("FATAL", 'ロール"app"からの接続が多すぎます', FaultKind.BUSY),
        ("FATAL", "Rolle »app« hat keine Berechtigung zum Einloggen", FaultKind.REJECTED),
    ],
)
def test_some_texts_where_there_is_no_catalog(severity, text, kind):
    assert kind_of(severity, text) is kind


LIBPQ_LANGUAGES = ("cs", "el", *LANGUAGES)
LIBPQ_CATALOGS = [
    path
    for language in LIBPQ_LANGUAGES
    if (path := Path(f"/usr/share/locale/{language}/LC_MESSAGES/libpq5-15.mo")).exists()
]
PREFIXES = [
    ('connection to server at "%s" (%s), port %s failed: ', ("db.example", "192.0.2.1", "5432")),
    ('connection to server at "%s", port %s failed: ', ("192.0.2.1", "5432")),
    ('connection to server on socket "%s" failed: ', ("/tmp/.s.PGSQL.5432",)),
]
REJECTED_HERE = [
    "SSL error: %s\n",
    "server does not support SSL, but SSL was required\n",
    'server certificate for "%s" does not match host name "%s"\n',
    "certificate could not be obtained: %s\n",
    'could not read root certificate file "%s": %s\n',
    'could not open certificate file "%s": %s\n',
    'could not load private key file "%s": %s\n',
    "channel binding is required, but client does not support it\n",
    "channel binding required, but server authenticated client without channel binding\n",
    "authentication method %u not supported\n",
    "none of the server's SASL authentication mechanisms are supported\n",
]
GONE = [
    "SSL SYSCALL error: EOF detected\n",
    "SSL connection has been closed unexpectedly\n",
    "could not receive data from server: %s\n",
    (
        "server closed the connection unexpectedly\n"
        "\tThis probably means the server terminated abnormally\n"
        "\tbefore or while processing the request.\n"
    ),
]
NO_LIBPQ_CATALOG = pytest.param(
    None, marks=pytest.mark.skip(reason="no message catalog of libpq 15 is installed")
)


@pytest.mark.parametrize(
    "catalog", LIBPQ_CATALOGS or [NO_LIBPQ_CATALOG], ids=lambda path: path and path.parts[4]
)
def test_every_catalog_of_libpq_that_was_read(catalog):
    with catalog.open("rb") as file:
        translation = gettext.GNUTranslations(file)
    wanted = dict.fromkeys(REJECTED_HERE, FaultKind.REJECTED) | dict.fromkeys(GONE, FaultKind.REFUSED)
    wanted["FATAL:  the database system is starting up"] = FaultKind.STARTING
    wanted["FATAL:  das Datenbanksystem startet"] = FaultKind.STARTING
    for prefix, names in PREFIXES:
        at = f"connection failed: {translation.gettext(prefix) % names}"
        for text, kind in wanted.items():
            said = translation.gettext(text)
            fault = connect_fault(psycopg.OperationalError(at + said))
            assert (fault.kind, fault.reason) == (kind, said.split("\n")[0]), at + said


@pytest.mark.parametrize(
    ("text", "kind", "reason"),
    [
        (
            "Verbindung zum Server auf »db«, Port 5432 fehlgeschlagen: FATAL:  sorry, too many clients already",
            FaultKind.BUSY,
            "FATAL:  sorry, too many clients already",
        ),
        (
            "Verbindung zum Server auf »SSL.example«, Port 5432 fehlgeschlagen: Verbindungsaufbau abgelehnt",
            FaultKind.REFUSED,
            "Verbindungsaufbau abgelehnt",
        ),
        (
            "la connexion au serveur sur « db », port 5432 a échoué : erreur SYSCALL SSL : EOF détecté",
            FaultKind.REFUSED,
            "erreur SYSCALL SSL : EOF détecté",
        ),
        (
            '连接到"db"上的服务器，端口5432失败：FATAL:  the database system is starting up',  # noqa: RUF001
            FaultKind.STARTING,
            "FATAL:  the database system is starting up",
        ),
        # Esperanto, of which there is no catalog.
        (
            'konekto al servilo "db" malsukcesis: FATAL:  the database system is starting up',
            FaultKind.STARTING,
            'konekto al servilo "db" malsukcesis: FATAL:  the database system is starting up',
        ),
        ('konekto al servilo "db:  x" malsukcesis: neniu', FaultKind.REFUSED, None),
    ],
)
def test_some_texts_of_libpq_where_there_is_no_catalog(text, kind, reason):
    fault = connect_fault(psycopg.OperationalError(f"connection failed: {text}"))
    assert fault.kind is kind
    assert reason is None or fault.reason == reason
