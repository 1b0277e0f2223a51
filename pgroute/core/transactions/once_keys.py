"""Transactions that are applied once: their keys, and the statements on the table that stores them."""

from __future__ import annotations

import json
import os
from binascii import crc32
from datetime import timedelta
from functools import lru_cache
from typing import Any, NamedTuple

from pgroute.core.config.checks import check_name, check_number
from pgroute.core.sql.statements import qualify
from pgroute.errors import ConfigError

UNBOUNDED_AGE = 86400.0
"""The least age in seconds at which keys may be deleted if retries have no time limit."""

# lock_timeout bounds the wait for another transaction with the same key, but not the body, so it is set before the
# INSERT is analysed, which locks the table, and set back. All that takes the server half as long as the INSERT:
# a claim waits for a moment without, and only then begins again with it.
BOUND = b"""
SELECT pg_catalog.set_config('pgroute.lock_timeout', pg_catalog.current_setting('lock_timeout'), true);
SET LOCAL lock_timeout = '%(wait)s';"""
UNBOUND = b"""
;SELECT pg_catalog.set_config('lock_timeout', pg_catalog.current_setting('pgroute.lock_timeout'), true)"""

_CLAIM = b"INSERT INTO %(schema)s.once (key) VALUES (%(key)s) ON CONFLICT (key) DO NOTHING"

# The row is rewritten and not only read: a COMMIT waits for the synchronous standby only if it has written, and what an
# earlier transaction wrote may be on this server alone.
_REWRITE = qualify("""
UPDATE %(schema)s.once SET at = pg_catalog.clock_timestamp() WHERE key `=` %(key)s RETURNING %(result)s""")

# The age of a key begins at the end of the body, which may take long. An UPDATE would take the server longer to plan.
# If the body has deleted the row, it is there again.
_KEEP = b"""
INSERT INTO %(schema)s.once (key, result) VALUES (%(key)s, %(value)s)
ON CONFLICT (key) DO UPDATE SET result = excluded.result, at = excluded.at"""
_RETURNING = b" RETURNING %(result)s"

# The result: on a connection that can receive any text, and on one that cannot.
PLAIN_RESULT = b"result::pg_catalog.text"
HEX_RESULT = b"pg_catalog.encode(pg_catalog.convert_to(result::pg_catalog.text, 'UTF8'), 'hex')"

PURGE = qualify("""
DELETE FROM %(schema)s.once
 WHERE at `<` (pg_catalog.clock_timestamp() `-` pg_catalog.make_interval(secs => %(seconds)s))
""")

_ENCODERS = {
    escape: json.JSONEncoder(allow_nan=False, ensure_ascii=escape).encode for escape in (True, False)
}
_KEPT_AS_THEY_ARE = frozenset({type(None), bool, int})


class OnceStatements(NamedTuple):
    """The statements on the table of a schema, for ``%`` with a mapping from names to SQL.

    Attributes:
        claim: writes the row of a key, unless there is one.
        rewrite: writes the row that is there, and returns its result.
        keep: stores the result, together with COMMIT.
        keep_and_tell: the same, and returns it as it is stored.
        names: those of the two statements that `prepare` prepares.
        prepare: prepares `claim` and `keep` on a connection; without values.
        prepared_claim: `claim`, where they were prepared.
        prepared_keep: `keep`, likewise.
    """

    claim: bytes
    rewrite: bytes
    keep: bytes
    keep_and_tell: bytes
    names: tuple[bytes, bytes]
    prepare: bytes
    prepared_claim: bytes
    prepared_keep: bytes


@lru_cache(maxsize=64)
def once_statements(schema: bytes) -> OnceStatements:
    """Return the statements on the table of a schema, whose name is written in SQL without a per cent sign."""
    claim, keep = (text.replace(b"%(schema)s", schema) for text in (_CLAIM, _KEEP))
    values = {b"key": b"$1", b"value": b"$2"}
    # Behind a pooler another client may have prepared the name already: it then stands for the same statement.
    which = b"%08x" % crc32(claim + keep)
    names = b"pgroute_claim_" + which, b"pgroute_keep_" + which
    return OnceStatements(
        claim,
        _REWRITE.replace(b"%(schema)s", schema),
        keep,
        keep + _RETURNING,
        names,
        b"PREPARE %b (pg_catalog.text) AS %b;" % (names[0], claim % values)
        + b"PREPARE %b (pg_catalog.text, pg_catalog.jsonb) AS %b;" % (names[1], keep % values),
        b"EXECUTE %b (%%(key)s)" % names[0],
        b"EXECUTE %b (%%(key)s, %%(value)s)" % names[1],
    )


def check_key(once: object) -> str | None:
    """Return the key for ``once=``: a new one for True, None for False and None.

    Raises:
        ConfigError: *once* is neither a key nor True, False or None.
    """
    if once is None or once is False:
        return None
    if once is True:
        return f"pgroute-{os.urandom(16).hex()}"
    check_name("once", once, ", True or None")
    assert isinstance(once, str)
    return once


def as_json(result: object, key: str, *, escape: bool = True) -> str:
    """Return a result as the text that is stored.

    Args:
        result: the result of the body.
        key: the key, for the error.
        escape: escape characters that are not ASCII, which PostgreSQL converts to the encoding of the database, unless
            that is SQL_ASCII.

    Raises:
        TypeError: *result* cannot be written as JSON (RFC 8259, without NaN).
    """
    if result is None:
        return "null"
    try:
        return _ENCODERS[escape](result)
    except (TypeError, ValueError, RecursionError) as exc:
        raise not_json(result, key, str(exc)) from None


def not_json(result: object, key: str, why: str) -> TypeError:
    """Return the error for a result that cannot be stored."""
    return TypeError(
        f"the result for once={key!r} cannot be stored as PostgreSQL's JSON: {why} "
        f"(a {type(result).__name__}; nothing was committed)"
    )


def kept_as_it_is(result: object) -> bool:
    """Return whether a result is stored as it is for sure.

    Fractions, arrays and objects may change, and so may text in a database that is not in UTF-8.
    """
    return type(result) in _KEPT_AS_THEY_ARE or (type(result) is str and result.isascii())


def from_json(text: str) -> Any:
    """Return a stored result."""
    return json.loads(text)


def lock_timeout(seconds: float) -> str:
    """Return a value for PostgreSQL's lock_timeout, at least 1 ms, since 0 means no limit (docs, 20.11.1)."""
    return f"{max(1, min(round(seconds * 1000), 2**31 - 1))}ms"


def check_age(older_than: object, limit: float | None) -> float:
    """Return the age in seconds at which keys may be deleted.

    Args:
        older_than: seconds, or a timedelta.
        limit: the longest time in seconds for which a call may retry with its key, None if there is no limit.

    Raises:
        ConfigError: the age is below *limit*. A key could be deleted between two attempts, and its work applied twice.
    """
    seconds = older_than.total_seconds() if isinstance(older_than, timedelta) else older_than
    check_number("older_than", seconds)
    assert isinstance(seconds, (int, float))
    least = UNBOUNDED_AGE if limit is None else limit
    if seconds < least:
        why = "retries have no time limit here" if limit is None else "retries may take that long"
        raise ConfigError("older_than", older_than, f"expected at least {least:g} seconds: {why}")
    return float(seconds)
