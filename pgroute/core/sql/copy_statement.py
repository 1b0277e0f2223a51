"""Builds the statements of COPY: every name and option is quoted, and what cannot be one is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from psycopg import sql

from pgroute.core.late_pattern import LatePattern
from pgroute.core.spelling import nearest
from pgroute.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Render = Callable[[str, object], str]

_TABLE = (
    "expected the name of a table, 'schema.table', a tuple of names or a psycopg.sql.Identifier; a name that has "
    "quotes or dots only as one of the latter two"
)
_COLUMNS = "expected a sequence of names of columns"
_MOST_PARTS = 3
_MOST = 2**63 - 1
"""The highest bigint, which REJECT_LIMIT is."""

# A query that reads a table has white space, brackets, quotes or asterisks.
_TABLE_NAME = LatePattern(r"""[^\s()"',;*]+""")
_ENCODING = LatePattern(r"[A-Za-z0-9_-]+")


def table_name(table: object, parameter: str = "table") -> str:
    """Return a table's name as it is quoted in a statement: case matters.

    Args:
        table: "table", "schema.table", a tuple of these parts, or an Identifier.
        parameter: for the error.

    Raises:
        ConfigError: it is none of these.
    """
    if isinstance(table, sql.Identifier):
        return _quoted(parameter, table, _TABLE)
    parts: tuple[Any, ...] = ()
    if isinstance(table, str):
        parts = () if '"' in table else tuple(table.split("."))
    elif isinstance(table, tuple):
        parts = table
    if not 1 <= len(parts) <= _MOST_PARTS or not all(isinstance(part, str) and part for part in parts):
        raise ConfigError(parameter, table, _TABLE)
    return _quoted(parameter, table, _TABLE, sql.Identifier(*parts))


def is_table(source: object) -> bool:
    """Return whether what is to be copied out is a table and not a query: a text is one if it cannot be a query."""
    if isinstance(source, str):
        return _TABLE_NAME.fullmatch(source) is not None
    return isinstance(source, (sql.Identifier, tuple))


def copy_in(table: object, columns: object, options: Mapping[str, object]) -> str:
    """Return COPY FROM STDIN.

    Args:
        table: as for `table_name`.
        columns: their names; None: all.
        options: as in CopyInOptions.

    Raises:
        ConfigError: an argument is invalid.
    """
    return f"COPY {table_name(table)}{_column_list(columns)} FROM STDIN{_with(options, _IN)}"


def with_where(statement: str, where: str) -> str:
    """Return COPY FROM with a condition, an expression of SQL. It may end with a comment."""
    return f"{statement} WHERE (\n{where}\n)"


def copy_table_out(table: object, columns: object, options: Mapping[str, object], parameter: str) -> str:
    """Return COPY TO STDOUT of a table.

    Args:
        table: as for `table_name`.
        columns: their names; None: all.
        options: as in CopyOutOptions.
        parameter: the name of the first argument, for the error.

    Raises:
        ConfigError: an argument is invalid.
    """
    return f"COPY {table_name(table, parameter)}{_column_list(columns)} TO STDOUT{_with(options, _OUT)}"


def copy_query_out(options: Mapping[str, object]) -> tuple[str, str]:
    """Return what comes before and after the query in COPY TO STDOUT of one. The query may end with a comment.

    Args:
        options: as in CopyOutOptions.

    Raises:
        ConfigError: an option is invalid.
    """
    return "COPY (\n", f"\n) TO STDOUT{_with(options, _OUT)}"


def _quoted(parameter: str, value: object, accepted: str, name: sql.Identifier | None = None) -> str:
    if name is None:
        assert isinstance(value, sql.Identifier)
        name = value
    try:
        text = name.as_string(None)
    except UnicodeEncodeError:
        text = "\0"
    if "\0" in text:  # libpq would cut the statement there
        raise ConfigError(parameter, value, f"{accepted}; without null characters and surrogates")
    return text


def _names(parameter: str, value: object, accepted: str) -> str:
    given = list(value) if isinstance(value, Sequence) and not isinstance(value, (str, bytes)) else []
    if not given or not all(isinstance(name, str) and name for name in given):
        raise ConfigError(parameter, value, accepted)
    return f"({', '.join(_quoted(parameter, value, accepted, sql.Identifier(name)) for name in given)})"


def _column_list(columns: object) -> str:
    return "" if columns is None else f" {_names('columns', columns, f'{_COLUMNS}, or None for all')}"


def _with(options: Mapping[str, object], known: Mapping[str, Render]) -> str:
    for name, value in options.items():
        if name not in known:
            near = nearest(name, known)
            hint = f", did you mean {near}?" if near else f": expected one of {', '.join(sorted(known))}"
            raise ConfigError(name, value, f"this COPY has no such option{hint}")
    told = [
        f"{name.upper()} {render(name, options[name])}"
        for name, render in known.items()
        if options.get(name) is not None and not (name.startswith("force_") and options[name] is False)
    ]
    return f" WITH ({', '.join(told)})" if told else ""


def is_plain(text: str) -> bool:
    """Return whether a text can be sent: it has no null characters and no lone surrogates."""
    return "\0" not in text and text == text.encode(errors="ignore").decode()


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or not is_plain(value):
        raise ConfigError(name, value, "expected a text without null characters and surrogates, or None")
    text = value.replace("'", "''")
    # Understood alike with and without standard_conforming_strings.
    return "E'{}'".format(text.replace("\\", "\\\\")) if "\\" in text else f"'{text}'"


def _character(name: str, value: object) -> str:
    if not isinstance(value, str) or len(value) != 1:
        raise ConfigError(name, value, "expected one character, or None")
    return _text(name, value)


def _encoding(name: str, value: object) -> str:
    if not isinstance(value, str) or _ENCODING.fullmatch(value) is None:
        raise ConfigError(name, value, "expected PostgreSQL's name of an encoding, such as 'LATIN1', or None")
    return f"'{value}'"


def _flag(name: str, value: object) -> str:
    if not isinstance(value, bool):
        raise ConfigError(name, value, "expected True, False or None")
    return str(value).lower()


def _header(name: str, value: object) -> str:
    if isinstance(value, str) and value == "match":
        return "match"
    if not isinstance(value, bool):
        raise ConfigError(name, value, "expected True, False, 'match' or None")
    return str(value).lower()


def _some_columns(name: str, value: object) -> str:
    return "*" if value is True else _names(name, value, f"{_COLUMNS}, True for all, or None")


def _number(name: str, value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST:
        raise ConfigError(name, value, f"expected a whole number of at least 1, at most {_MOST}, or None")
    return str(value)


def _one_of(*accepted: str) -> Render:
    def render(name: str, value: object) -> str:
        if not isinstance(value, str) or value not in accepted:
            raise ConfigError(name, value, f"expected {', '.join(map(repr, accepted))} or None")
        return str(value)

    return render


_BOTH: dict[str, Render] = {
    "format": _one_of("text", "csv", "binary"),
    "delimiter": _character,
    "null": _text,
    "quote": _character,
    "escape": _character,
    "encoding": _encoding,
}
_OUT: dict[str, Render] = _BOTH | {"header": _flag, "force_quote": _some_columns}
_IN: dict[str, Render] = _BOTH | {
    "default": _text,
    "header": _header,
    "force_not_null": _some_columns,
    "force_null": _some_columns,
    "on_error": _one_of("stop", "ignore"),
    "reject_limit": _number,
    "log_verbosity": _one_of("default", "verbose", "silent"),
}
