"""The statements of COPY: names and options are quoted, and whatever could be something else is refused."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import sql

from pgroute.core.sql.copy_statement import (
    copy_in,
    copy_query_out,
    copy_table_out,
    is_table,
    table_name,
    with_where,
)
from pgroute.errors import ConfigError
from tests.support import Undecided

NAMES: list[tuple[Any, str]] = [
    ("orders", '"orders"'),
    ("Orders", '"Orders"'),
    ("sales.orders", '"sales"."orders"'),
    (("orders",), '"orders"'),
    (("sales", "2024.orders"), '"sales"."2024.orders"'),
    (('a"b; DROP TABLE c', "d"), '"a""b; DROP TABLE c"."d"'),
    (sql.Identifier("sales", 'or"ders'), '"sales"."or""ders"'),
    ("größe", '"größe"'),
]


@pytest.mark.parametrize(("table", "quoted"), NAMES, ids=range(len(NAMES)))
def test_table_is_quoted(table: Any, quoted: str) -> None:
    assert table_name(table) == quoted


@pytest.mark.parametrize(
    "table",
    [
        "",
        ".",
        "a.",
        "a.b.c.d",
        '"a"',
        "a\0b",
        ("a\0b",),
        sql.Identifier("a\0b"),
        "\ud800",
        (),
        ("a", ""),
        ("a", 1),
        ["a"],
        None,
        b"a",
        sql.SQL("a"),
    ],
    ids=repr,
)
def test_what_is_no_table_is_refused(table: Any) -> None:
    with pytest.raises(ConfigError, match=r"^invalid table .*expected the name of a table"):
        copy_in(table, None, {})
    with pytest.raises(ConfigError, match="invalid query_or_table"):
        copy_table_out(table, None, {}, "query_or_table")


def test_table_and_query_are_told_apart() -> None:
    for table in ("orders", "sales.orders", "größe", "a-b", ("SELECT 1",), sql.Identifier("select 1")):
        assert is_table(table), table
    queries = ("SELECT 1", "TABLE\norders", "VALUES(1)", 'SELECT*FROM"a"', "SELECT'a'", "orders;", "")
    for query in (*queries, b"orders", sql.SQL("orders"), sql.Composed([])):
        assert not is_table(query), query


def test_no_options_are_no_clause() -> None:
    assert copy_in("t", None, {}) == 'COPY "t" FROM STDIN'
    assert copy_in("t", ["a", 'b"'], {"null": None}) == 'COPY "t" ("a", "b""") FROM STDIN'
    assert copy_table_out("t", ("a",), {}, "table") == 'COPY "t" ("a") TO STDOUT'
    assert copy_query_out({}) == ("COPY (\n", "\n) TO STDOUT")
    assert with_where(copy_in("t", None, {}), "a > 1 -- b") == 'COPY "t" FROM STDIN WHERE (\na > 1 -- b\n)'


IN = {
    "format": ("csv", "FORMAT csv"),
    "delimiter": ("'", "DELIMITER ''''"),
    "null": ("\\N", r"NULL E'\\N'"),
    "default": ("\\D", r"DEFAULT E'\\D'"),
    "header": (True, "HEADER true"),
    "quote": ('"', "QUOTE '\"'"),
    "escape": ("\\", r"ESCAPE E'\\'"),
    "force_not_null": (["a", 'b"'], 'FORCE_NOT_NULL ("a", "b""")'),
    "force_null": (True, "FORCE_NULL *"),
    "encoding": ("LATIN1", "ENCODING 'LATIN1'"),
    "on_error": ("ignore", "ON_ERROR ignore"),
    "reject_limit": (3, "REJECT_LIMIT 3"),
    "log_verbosity": ("verbose", "LOG_VERBOSITY verbose"),
}
OUT = {
    name: IN[name] for name in ("format", "delimiter", "null", "header", "quote", "escape", "encoding")
} | {"force_quote": (("a",), 'FORCE_QUOTE ("a")')}


@pytest.mark.parametrize("name", IN)
def test_option_of_copy_in(name: str) -> None:
    value, text = IN[name]
    assert copy_in("t", None, {name: value}) == f'COPY "t" FROM STDIN WITH ({text})'


@pytest.mark.parametrize("name", OUT)
def test_option_of_copy_out(name: str) -> None:
    value, text = OUT[name]
    assert copy_table_out("t", None, {name: value}, "table") == f'COPY "t" TO STDOUT WITH ({text})'
    assert copy_query_out({name: value}) == ("COPY (\n", f"\n) TO STDOUT WITH ({text})")


def test_several_options_are_joined() -> None:
    given = {"header": "match", "force_null": False, "null": "", "format": "csv"}
    assert copy_in("t", None, given) == "COPY \"t\" FROM STDIN WITH (FORMAT csv, NULL '', HEADER match)"


BAD: dict[str, list[Any]] = {
    "format": ["CSV", "json", 1, b"csv", [], Undecided()],
    "delimiter": ["", ",,", 5, b",", "\0"],
    "null": [5, b"", "\0", True, "\udc80"],
    "default": [5, "\0", "\udc80"],
    "header": ["MATCH", 1, "true", Undecided()],
    "quote": ["", "''", 5],
    "escape": ["", "''", 5],
    "force_not_null": ["a", [], [""], [1], {"a"}, 1, ["a\0"]],
    "force_null": ["a", []],
    "encoding": ["", "utf 8", "UTF8'", "\0", 8, "UTF8\n"],
    "on_error": ["skip", True, 5],
    "reject_limit": [0, -1, 1.5, True, "3", 2**63],
    "log_verbosity": ["loud", 1],
}


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, values in BAD.items() for v in values], ids=repr)
def test_invalid_option_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"(?s)^invalid {name} .*: expected "):
        copy_in("t", None, {name: value})


def test_number_that_cannot_be_shown_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^invalid reject_limit .*: expected "):
        copy_in("t", None, {"reject_limit": 10**5000})


@pytest.mark.parametrize("columns", ["a", [], [""], [1], {"a": 1}, 5, ["a\0"], ("a", None)], ids=repr)
def test_invalid_columns_are_refused(columns: Any) -> None:
    with pytest.raises(ConfigError, match=r"^invalid columns .*expected a sequence of names of columns"):
        copy_in("t", columns, {})


def test_unknown_option_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"invalid delimeter ',': .*did you mean delimiter"):
        copy_in("t", None, {"delimeter": ","})
    with pytest.raises(ConfigError, match="did you mean force_null"):
        copy_in("t", None, {"force_nul": True})
    with pytest.raises(ConfigError, match="no such option: expected one of delimiter, encoding"):
        copy_query_out({"freeze": True})
    with pytest.raises(ConfigError, match="invalid on_error"):
        copy_query_out({"on_error": "ignore"})


LITERAL = re.compile(r"""(E?)'((?:[^'\\]|''|\\\\)*)'""")


@given(text=st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"])))
def test_text_is_one_literal_whatever_it_holds(text: str) -> None:
    statement = copy_in("t", None, {"null": text})
    found = LITERAL.fullmatch(statement.removeprefix('COPY "t" FROM STDIN WITH (NULL ').removesuffix(")"))
    assert found is not None
    said = found[2].replace("''", "'")
    assert (said.replace("\\\\", "\\") if found[1] else said) == text
    assert found[1] or "\\" not in said, "without E a backslash depends on standard_conforming_strings"


@given(names=st.lists(st.text(min_size=1), min_size=1, max_size=3))
def test_name_is_one_identifier_whatever_it_holds(names: list[str]) -> None:
    try:
        quoted = table_name(tuple(names))
    except ConfigError:
        assert any("\0" in name or any("\ud800" <= c <= "\udfff" for c in name) for name in names)
        return
    assert re.fullmatch(r'"(?:[^"]|"")+"(?:\."(?:[^"]|"")+")*', quoted)
    assert [part.replace('""', '"') for part in re.findall(r'"((?:[^"]|"")+)"', quoted)] == names
