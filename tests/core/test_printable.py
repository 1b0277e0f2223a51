"""Texts of others as one line that does nothing and has an end."""

from __future__ import annotations

import ast
import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pgroute
from pgroute.core.config.dns_names import Found
from pgroute.core.faults.classify import Fault, FaultKind, one_line
from pgroute.core.printable import MOST, printable
from tests.support import of_a_core


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("  FATAL:  two blanks stay ", "FATAL:  two blanks stay"),
        ("Datenbank »größer« 数据库系统启动中", "Datenbank »größer« 数据库系统启动中"),
        ("a\r\nb\tc\vd\fe\x85f\u2028g\u2029h", "a  b c d e f g h"),
        ("fin\u00a0: \u202foui", "fin :  oui"),
        ("\x1b[2J\x07\x00\x7f\x9b", r"\x1b[2J\x07\x00\x7f\x9b"),
        ("\u202e\u2066\u200b\ufeff\U000e0041", r"\u202e\u2066\u200b\ufeff\U000e0041"),
        ("\udc80 \ud800", r"\udc80 \ud800"),
        ("[red]x[/red]", "[red]x[/red]"),
        (b"caf\xc3\xa9 \xff", "café \ufffd"),
        ("", ""),
        (" \n ", ""),
    ],
)
def test_what_does_something_is_shown_as_python_writes_it(text, shown):
    assert printable(text) == shown


@pytest.mark.parametrize("text", ["x" * 10_000_000, b"x" * 10_000_000, "\x1b" * 10_000_000, "\ud800" * 5000])
def test_a_text_ends_however_long_it_is_and_takes_no_time(text):
    begun = time.thread_time()
    shown = printable(text)
    assert time.thread_time() - begun < of_a_core(0.05)
    assert MOST - 3 <= len(shown) <= MOST
    assert shown.endswith("...")
    assert printable("x" * MOST) == "x" * MOST
    assert len(printable(text, 10)) == 10


@given(st.text() | st.binary(), st.integers(4, 200))
def test_any_text_is_one_printable_line_and_stays_so(text, most):
    shown = printable(text, most)
    assert shown.isprintable()
    assert not {unicodedata.category(c) for c in shown} & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    assert len(shown) <= most
    assert printable(shown, most) == shown


def test_every_reason_is_printable_wherever_it_comes_from():
    assert Fault(FaultKind.OTHER, reason="a\n\x1b").reason == r"a \x1b"
    assert Found().failed("a\n\x1b", 0.0).error == r"a \x1b"
    assert Found().answered(["::1"], 1, 0.0, error="a\n\x1b").error == r"a \x1b"
    assert one_line("a\x1b\nb") == r"a\x1b"
    assert one_line(b"a\xff\nb") == "a\ufffd"
    assert len(one_line("x" * 9000)) == MOST


PACKAGE = Path(pgroute.__file__).parent
CAUGHT = {"exc", "failure", "error", "cause", "_failure"}
"""What exceptions are called here."""

CLEANED = {"one_line", "printable", "_told"}
AS_IT_IS = {
    "_async/pool/connector.py": "classified by what it says; then printable",
    "_async/pool/login.py": "classified by what it says; ours on credentials",
    "_async/pool/exchange.py": "psycopg_pool's words on its queue, and ours",
    "_async/pool/server_check.py": "printable since the connector",
    "_async/listening/hub.py": "Python's on threads and descriptors",
    "_async/listening/keeper.py": "ours",
    "_async/acquiring.py": "ours",
    "_async/pool/role_pool.py": "Python's, on threads",
    "_acompat/files.py": "Python's, on threads",
    "monitor/thread.py": "Python's, on threads and descriptors",
    "contrib/django/base.py": "ours, on settings",
    "contrib/django/checks.py": "ours, on settings",
    "contrib/django/errors.py": "the server's, as Django passes it on too, with ours",
    "batch/options.py": "only its meaning is passed on",
    "batch/_async/chunk_runner.py": "the record of a chunk's error in the database, as it is",
    "batch/_async/job_store.py": "Python's, on an encoding",
    "_async/transaction/once.py": "Python's, on an encoding",
    "contrib/sqlalchemy/explain.py": "the error of a user's own statement, in the server's words",
    "core/config/dns_names.py": "printable since it is in Found",
    "core/transactions/retry.py": "printable, of several lines the first",
    "core/transactions/once_keys.py": "Python's, on JSON",
    "core/faults/classify.py": "classified",
    "core/config/libpq.py": "only its meaning is passed on",
    "monitor/shared/link.py": "printable since core/topology/wire.py",
    "monitor/shared/sharing.py": "ours",
    "monitor/shared/watcher.py": "ours; printable since monitor/shared/link.py",
    "core/discovery/patroni.py": "ours",
    "core/topology/advice_changes.py": "printable since monitor/advisers.py",
    "core/routing/outcomes.py": "the causes, printable since they were made",
    "runtime/connect_backoff.py": "printable since the connector",
    "runtime/credentials.py": "ours; one line of the user's",
    "runtime/credential_call.py": "printable since runtime/credentials.py",
    "monitor/probe_login.py": "printable since runtime/credentials.py",
    "monitor/dns_watch.py": "becomes an error of Found",
    "monitor/resolver.py": "becomes an error of Found",
    "cli/__init__.py": "ours",
    "cli/hosts.py": "printable since monitor/advisers.py",
    "cli/dsn.py": "ours",
    "cli/batch.py": "ours, in lines",
    "cli/install.py": "ours, in lines",
    "cli/check/sessions.py": "ours, in lines",
    "contrib/prometheus/__main__.py": "Python's, on a full disk",
    "cli/demo/__init__.py": "of a cluster of our own",
}
"""Where the text of an exception is used as it is, and why that is right."""


def told(tree: ast.AST) -> Iterator[int]:
    """Yield the lines in which an exception becomes a text that is not made printable."""
    for node in ast.walk(tree):
        for child in ast.iter_child_nodes(node):
            child.parent = node  # type: ignore[attr-defined]
    for node in ast.walk(tree):
        name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
        if name not in CAUGHT:
            continue
        parent: ast.AST = node.parent  # type: ignore[attr-defined]
        if isinstance(parent, ast.FormattedValue):
            yield parent.lineno
        elif isinstance(parent, ast.Call) and node in parent.args:
            called = ast.unparse(parent.func)
            if called.startswith("logger."):
                yield parent.lineno
            elif called == "str":
                around = parent.parent  # type: ignore[attr-defined]
                inside = isinstance(around, ast.Call) and ast.unparse(around.func) in CLEANED
                if not inside:
                    yield parent.lineno


@pytest.mark.many
def test_what_an_exception_says_is_made_printable_or_has_a_reason_not_to_be():
    found = {}
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).as_posix()
        lines = list(told(ast.parse(path.read_text("utf-8"))))
        if lines and "_sync/" not in name and not name.startswith("testing/"):
            found[name] = lines
    assert {name: lines for name, lines in found.items() if name not in AS_IT_IS} == {}
    assert sorted(AS_IT_IS.keys() - found.keys()) == []


@pytest.mark.parametrize("code", ["f'{exc}'", "str(exc)", "logger.warning('%s', exc)", "f'{str(exc)[:9]}'"])
def test_a_text_that_is_passed_on_as_it_is_would_be_found(code):
    assert list(told(ast.parse(code))) == [1]
    assert list(told(ast.parse("f'{one_line(str(exc))}'"))) == []
