"""Transactions that are applied once: their keys, and the statements on the table that remembers them."""

from __future__ import annotations

import json
import secrets
from datetime import timedelta
from typing import Any

from pgroute.core.config.options import check_name, check_number
from pgroute.core.sql.statements import qualify
from pgroute.errors import ConfigError

UNBOUNDED_AGE = 86400.0
"""Seconds for which keys are kept at least where no time limits the retries."""

# Two statements in one round trip: a wait for another transaction with the same key is bounded, the body is not. What
# the session has is put aside first. The bound has to be there before the INSERT is looked at, which locks the table;
# where the key is found, it stays until the transaction's end.
_BOUND_BACK = (
    "pg_catalog.set_config('lock_timeout', pg_catalog.current_setting('pgroute.lock_timeout'), true)"
)
CLAIM = qualify(
    """
SELECT pg_catalog.set_config('lock_timeout', %(wait)s, true)
  FROM (SELECT pg_catalog.set_config('pgroute.lock_timeout', pg_catalog.current_setting('lock_timeout'), true)
       ) AS put_aside (had)
 WHERE had IS NOT NULL;
INSERT INTO %(schema)s.once (key) VALUES (%(key)s) ON CONFLICT (key) DO NOTHING
RETURNING """
    + _BOUND_BACK
)

# Not merely read: only a COMMIT that has written waits for the synchronous standby, and what an earlier transaction
# wrote may be on this server alone. The time that is left is less than it was for CLAIM.
REWRITE = qualify("""
UPDATE %(schema)s.once SET at = pg_catalog.clock_timestamp()
 WHERE key `=` %(key)s AND pg_catalog.set_config('lock_timeout', %(wait)s, true) IS NOT NULL
RETURNING """)

# Before another CLAIM, which would put aside the bound itself.
UNBIND = qualify(f"SELECT {_BOUND_BACK}")

# The age of a key begins with the end of its body, which may have taken long.
KEEP = qualify("""
UPDATE %(schema)s.once SET result = %(result)s, at = pg_catalog.clock_timestamp() WHERE key `=` %(key)s
RETURNING """)

# What follows RETURNING, for a connection that can receive any text, and for another.
PLAIN_RESULT = b"result::pg_catalog.text"
HEX_RESULT = b"pg_catalog.encode(pg_catalog.convert_to(result::pg_catalog.text, 'UTF8'), 'hex')"

PURGE = qualify("""
DELETE FROM %(schema)s.once
 WHERE at `<` (pg_catalog.clock_timestamp() `-` pg_catalog.make_interval(secs => %(seconds)s))
""")


def check_key(once: object) -> str | None:
    """Return the key to use for ``once=``, a fresh one for True, None for none.

    Raises:
        ConfigError: neither a key, nor True, False or None.
    """
    if once is None or once is False:
        return None
    if once is True:
        return f"pgroute-{secrets.token_hex(16)}"
    check_name("once", once, ", True or None")
    assert isinstance(once, str)
    return once


def as_json(result: object, key: str, *, escape: bool = True) -> str:
    """Return the text under which a result is stored.

    Args:
        result: what the body returned.
        key: for the error.
        escape: write what is not ASCII as JSON's escapes, which PostgreSQL puts into the database's encoding; it cannot
            where that is SQL_ASCII.

    Raises:
        TypeError: it is not JSON (RFC 8259 has no NaN).
    """
    try:
        return json.dumps(result, allow_nan=False, ensure_ascii=escape)
    except (TypeError, ValueError, RecursionError) as exc:
        raise not_json(result, key, str(exc)) from None


def not_json(result: object, key: str, why: str) -> TypeError:
    """Return the error for a result that cannot be stored."""
    return TypeError(
        f"the result for once={key!r} has to be stored, and is no JSON that PostgreSQL takes: {why} "
        f"(a {type(result).__name__}; nothing was committed)"
    )


def from_json(text: str) -> Any:
    """Return the result that was stored."""
    return json.loads(text)


def lock_timeout(seconds: float) -> str:
    """Return a value for PostgreSQL's lock_timeout, where 0 would mean for ever (docs, 20.11.1)."""
    return f"{max(1, min(round(seconds * 1000), 2**31 - 1))}ms"


def check_age(older_than: object, limit: float | None) -> float:
    """Return the age in seconds from which on keys may be forgotten.

    Args:
        older_than: seconds, or a timedelta.
        limit: the longest time for which a call may go on trying with its key; None: nothing limits it.

    Raises:
        ConfigError: it is less: a key could be forgotten between two attempts, and its work done twice.
    """
    seconds = older_than.total_seconds() if isinstance(older_than, timedelta) else older_than
    check_number("older_than", seconds)
    assert isinstance(seconds, (int, float))
    least = UNBOUNDED_AGE if limit is None else limit
    if seconds < least:
        why = "retries have no time limit here" if limit is None else "retries may go on for so long"
        raise ConfigError("older_than", older_than, f"expected at least {least:g} seconds: {why}")
    return float(seconds)
