"""57P01-3 and 53300 are understood in eleven languages of PostgreSQL's message catalogs, and refusals are not."""

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
