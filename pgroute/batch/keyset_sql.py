"""The statements on the user's query: its key columns and their types, the walk in key order, the rows of a chunk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from psycopg import pq, sql
from psycopg.adapt import Transformer

from pgroute.core.sql.statements import qualify

if TYPE_CHECKING:
    from collections.abc import Sequence

    from psycopg.abc import AdaptContext
    from psycopg.adapt import AdaptersMap

    from pgroute.batch.source import Keyset

# Around KEY_TYPES: with an empty search_path, format_type() qualifies names in the same way in any session.
CLEAR_SEARCH_PATH = b"""
SELECT pg_catalog.set_config('pgroute.path', pg_catalog.current_setting('search_path'), true),
       pg_catalog.set_config('search_path', '', true)
"""
RESTORE_SEARCH_PATH = (
    b"SELECT pg_catalog.set_config('search_path', pg_catalog.current_setting('pgroute.path'), true)"
)

KEY_TYPES = qualify("""
SELECT pg_catalog.format_type(given.oid, -1), nspname, typname, typcollation, (
    WITH RECURSIVE based (oid, base) AS (
        SELECT oid, typbasetype FROM pg_catalog.pg_type WHERE oid `=` given.oid
         UNION ALL
        SELECT type.oid, typbasetype FROM pg_catalog.pg_type AS type, based WHERE type.oid `=` based.base
    )
    SELECT nspname
      FROM based, pg_catalog.pg_opclass, pg_catalog.pg_am AS method, pg_catalog.pg_amop, pg_catalog.pg_operator AS sign,
           pg_catalog.pg_namespace AS home
     WHERE opcintype `=` based.oid AND opcdefault AND opcmethod `=` method.oid AND amname `=` 'btree'
       AND amopfamily `=` opcfamily AND amoplefttype `=` opcintype AND amoprighttype `=` opcintype
       AND amopstrategy `=` 5 AND amopopr `=` sign.oid AND oprnamespace `=` home.oid
     LIMIT 1), (
    WITH RECURSIVE part (oid) AS (
        SELECT given.oid
         UNION
        SELECT within.oid
          FROM part,
               LATERAL (SELECT typbasetype FROM pg_catalog.pg_type WHERE oid `=` part.oid
                         UNION ALL
                        SELECT typelem FROM pg_catalog.pg_type WHERE oid `=` part.oid
                         UNION ALL
                        SELECT rngsubtype FROM pg_catalog.pg_range WHERE rngtypid `=` part.oid
                         UNION ALL
                        SELECT atttypid FROM pg_catalog.pg_attribute, pg_catalog.pg_type AS composite
                         WHERE composite.oid `=` part.oid AND attrelid `=` typrelid AND attnum `>` 0
                       ) AS within (oid)
    )
    SELECT varying.typname FROM part, pg_catalog.pg_type AS varying
     WHERE varying.oid `=` part.oid AND varying.oid `<` 16384::pg_catalog.oid
       AND varying.typname::pg_catalog.text `~` '^(money|reg[a-z]+)$'
     LIMIT 1)
  FROM pg_catalog.unnest(%(oids)s::pg_catalog.oid[]) WITH ORDINALITY AS given (oid, n),
       pg_catalog.pg_type AS type, pg_catalog.pg_namespace AS home
 WHERE type.oid `=` given.oid AND typnamespace `=` home.oid
 ORDER BY n
""")
"""For each key: its type as text, by which the job recognizes it (with typmod -1, since NULL would turn `bpchar` into
`character`); the schema and name of the type; its collation, 0 if it cannot have any; the schema of its btree operator
`>` (strategy 5), NULL if none; the type in it, or itself, whose text sessions read differently (by lc_monetary, or by
the search_path), NULL if none."""

COLLATIONS = qualify("""
SELECT nspname, collname
  FROM pg_catalog.unnest(%(oids)s::pg_catalog.oid[]) WITH ORDINALITY AS given (oid, n)
  LEFT JOIN (pg_catalog.pg_collation AS named JOIN pg_catalog.pg_namespace AS home ON collnamespace `=` home.oid)
    ON named.oid `=` given.oid
 ORDER BY n
""")
"""For each collation its schema and name, NULL for none."""

# Keys are stored as text, in formats that every session reads alike, whatever its own settings.
PORTABLE_FORMATS = b"""
SELECT pg_catalog.set_config('datestyle', 'ISO', true), pg_catalog.set_config('intervalstyle', 'postgres', true),
       pg_catalog.set_config('extra_float_digits', '3', true), pg_catalog.set_config('bytea_output', 'hex', true)
"""

# Backwards from the end of the same cursor, so the query is not evaluated again.
LAST_KEY = b"FETCH BACKWARD 1 FROM pgroute_plan"

CLOSE_PLAN = b"CLOSE pgroute_plan"


def walk(size: int, steps: int) -> bytes:
    """Return statements that move the cursor on by *steps* chunks: a MOVE and a FETCH of the last key for each."""
    move = f"MOVE FORWARD {size - 1} FROM pgroute_plan; " if size > 1 else ""
    return (f"{move}FETCH FORWARD 1 FROM pgroute_plan; " * steps).encode()


class Key(NamedTuple):
    """A key column.

    Attributes:
        type: the name of its type, as text.
        oid: the OID of its type.
        cast: its type as a cast in a statement.
        home: the schema of its operators.
        collation: the COLLATE clause with that of the query, empty if there is none.
    """

    type: str
    oid: int
    cast: str
    home: str
    collation: str


def quoted(name: str) -> str:
    """Return a quoted identifier without a per cent sign, so it fits statements with and without placeholders."""
    name = name.replace('"', '""')
    if "%" not in name:
        return f'"{name}"'
    return 'U&"' + name.replace("\\", "\\\\").replace("%", "\\0025") + '"'


def literal(text: str, *, raw: bool = False) -> str:
    """Return a string constant without a per cent sign; *raw* escapes non-ASCII text as bytes, for SQL_ASCII."""
    escaped = text.replace("\\", "\\\\").replace("'", "''").replace("%", "\\x25")
    if raw:
        data = escaped.encode("utf-8", "surrogateescape")
        escaped = "".join(chr(byte) if byte < 128 else f"\\x{byte:02x}" for byte in data)
    return f"E'{escaped}'"


class KeysetSql:
    """The statements on the rows of a Keyset, with its query as a subquery.

    Args:
        keyset: the source.
        keys: the key columns, once known.
        raw: True for a database without an encoding (SQL_ASCII).
    """

    def __init__(
        self,
        keyset: Keyset,
        keys: Sequence[Key] = (),
        *,
        raw: bool = False,
    ) -> None:
        self._keyset = keyset
        self._keys = keys
        self._raw = raw
        text = keyset.query.rstrip(" \t\r\n;")
        if keyset.params is None:
            text = text.replace("%", "%%")
        # The newline ends a comment at the end of the query.
        self._rows = f"(\n{text}\n) AS source"
        self._columns = ", ".join(map(quoted, keyset.keys))
        # Where the user compares them, the columns may be those of a table, which has another order than the query.
        self._compared = ", ".join(
            f"{quoted(name)}{key.collation}" for name, key in zip(keyset.keys, keys, strict=False)
        )
        # A row comparison cannot name operators of several schemas. Without names PostgreSQL accepts only btree
        # operators there, which only a superuser can create.
        homes = {key.home for key in keys}
        home = homes.pop() if len(homes) == 1 else None
        self._above, self._within = (f"OPERATOR({home}.{sign})" if home else sign for sign in (">", "<="))

    @property
    def _arguments(self) -> Any:
        # Not None: psycopg would then take the doubled per cent signs literally.
        return self._keyset.params or ()

    def describe(self) -> tuple[str, Any]:
        """Return a query for the columns, without rows."""
        return f"SELECT * FROM {self._rows} LIMIT 0", self._arguments

    def collations(self, collated: Sequence[bool]) -> tuple[str, Any]:
        """Return a query for the OIDs of the collations of the keys, NULL for those that are not *collated*."""
        asked = ", ".join(
            f"pg_catalog.pg_collation_for(source.{quoted(name)})::pg_catalog.regcollation::pg_catalog.oid"
            if has_one
            else "NULL"
            for name, has_one in zip(self._keyset.keys, collated, strict=True)
        )
        return f"SELECT {asked} FROM (SELECT) AS one LEFT JOIN {self._rows} ON false", self._arguments

    def find_null(self) -> tuple[str, Any]:
        """Return a query that returns a row if a key is NULL."""
        test = " OR ".join(f"{quoted(name)} IS NULL" for name in self._keyset.keys)
        return f"SELECT 1 FROM {self._rows} WHERE {test} LIMIT 1", self._arguments

    def declare(self) -> tuple[str, Any]:
        """Return the declaration of a cursor over all keys in order."""
        query = f"SELECT {self._columns} FROM {self._rows} ORDER BY {self._columns}"
        return f"DECLARE pgroute_plan SCROLL CURSOR FOR {query}", self._arguments

    def fetch(self, after: Sequence[str] | None, upto: Sequence[str]) -> tuple[str, Any]:
        """Return the query for the rows of a chunk."""
        test = self._test(after, upto).replace("%", "%%")
        return f"SELECT * FROM {self._rows} WHERE {test} ORDER BY {self._columns}", self._arguments

    def range(self, context: AdaptContext, after: Sequence[str] | None, upto: Sequence[str]) -> Range:
        """Return the key range of a chunk; *context* has the adapters that load its values."""
        return Range(self, context.adapters, after, upto)

    def load(self, adapters: AdaptersMap, texts: Sequence[str]) -> Any:
        """Return the value of a key, or a tuple if there are several."""
        # Not the connection's: its DateStyle may differ from the format of these texts.
        transformer = Transformer(adapters)
        values = [
            transformer.get_loader(key.oid, pq.Format.TEXT).load(text.encode("utf-8", "surrogateescape"))
            for key, text in zip(self._keys, texts, strict=True)
        ]
        return values[0] if isinstance(self._keyset.key, str) else tuple(values)

    def where(self, after: Sequence[str] | None, upto: Sequence[str]) -> sql.SQL:
        """Return the condition that a row is in a chunk, for use in a statement of the user."""
        return sql.SQL(f"({self._test(after, upto)})")

    def _test(self, after: Sequence[str] | None, upto: Sequence[str]) -> str:
        return " AND ".join(
            f"({self._compared}) {sign} ({', '.join(self._constants(bound))})"
            for sign, bound in ((self._above, after), (self._within, upto))
            if bound is not None
        )

    def _constants(self, bound: Sequence[str]) -> list[str]:
        return [
            f"{literal(text, raw=self._raw)}::{key.cast}" for text, key in zip(bound, self._keys, strict=True)
        ]


class Range:
    """The key range of a chunk; its values are loaded on access."""

    def __init__(
        self, statements: KeysetSql, adapters: AdaptersMap, after: Sequence[str] | None, upto: Sequence[str]
    ) -> None:
        self._sql = statements
        self._adapters = adapters
        self._after = after
        self._upto = upto

    @property
    def after(self) -> Any:
        return None if self._after is None else self._sql.load(self._adapters, self._after)

    @property
    def upto(self) -> Any:
        return self._sql.load(self._adapters, self._upto)

    @property
    def where(self) -> sql.SQL:
        return self._sql.where(self._after, self._upto)
