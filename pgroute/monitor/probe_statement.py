"""The probe's statement: it asks for as much as the server's version, its rights and its role allow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgroute.core.sql.statements import (
    CONTROL_FILE_TIMELINE,
    LACKING,
    OWN_TERMS,
    STANDBY_TIMELINE,
    WRONG_STATE,
    qualify,
)

if TYPE_CHECKING:
    from collections.abc import Collection

    from pgroute.core.model.roles import HostRole

# Every name is qualified, because the search_path is the user's. A primary's timeline comes from its WAL file name: the
# control file lags behind a promotion. A standby's timeline is a lower bound.
_OF_PRIMARY = "pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn())"
# What is inserted may stay unflushed for long, and what a COMMIT has waited for is flushed. On a primary the replay
# position is where its recovery has ended: where it left the timeline before, if it was promoted.
_REPLAYED = "pg_catalog.pg_last_wal_replay_lsn()"


def _positions(replayed: str) -> str:
    return f"""
       CASE WHEN NOT r.recovering THEN pg_catalog.pg_current_wal_insert_lsn() END,
       CASE WHEN NOT r.recovering THEN pg_catalog.pg_current_wal_flush_lsn() END,
       {replayed},
       CASE WHEN NOT r.recovering THEN pg_catalog.current_setting('wal_writer_delay') END"""


_POSITION_AND_FORK = _positions(_REPLAYED)
_POSITION_ALONE = _positions(f"CASE WHEN r.recovering THEN {_REPLAYED} END")
_NO_POSITION = "NULL, NULL, NULL, NULL"
_SYSTEM_ID = "(SELECT system_identifier FROM pg_catalog.pg_control_system())"
# In whole microseconds: a float is printed as extra_float_digits says.
_START = "(extract(epoch FROM pg_catalog.pg_postmaster_start_time()) `*` 1000000)::bigint"
# Changes whenever a new session would get another default_transaction_read_only than this one has. Settings of other
# databases and roles are left out: there may be thousands.
_DEFAULTS = """
       (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(':', s.setdatabase, s.setrole, c), ','
                                     ORDER BY s.setdatabase, s.setrole, c)
          FROM pg_catalog.pg_db_role_setting s, pg_catalog.unnest(s.setconfig) c
         WHERE s.setdatabase `=` ANY (ARRAY[0::pg_catalog.oid, (
                 SELECT oid FROM pg_catalog.pg_database WHERE datname `=` pg_catalog.current_database())])
           AND s.setrole `=` ANY (ARRAY[0::pg_catalog.oid,
                 pg_catalog.to_regrole(pg_catalog.quote_ident(SESSION_USER))::pg_catalog.oid])
           AND pg_catalog.strpos(c, 'default_transaction_read_only=') `=` 1)"""


def _select(
    *,
    primary: str = "NULL",
    standby: str = "NULL",
    position: str = _NO_POSITION,
    system_id: str = "NULL",
    start: str = "NULL",
    defaults: str = "NULL",
) -> bytes:
    return qualify(f"""
SELECT r.recovering,
       pg_catalog.current_setting('default_transaction_read_only'),
       CASE WHEN NOT r.recovering THEN {primary} END,
       CASE WHEN r.recovering THEN {standby} END,
       {position}, {system_id}, {start}, {defaults}
  FROM (SELECT pg_catalog.pg_is_in_recovery() AS recovering) r
""")  # noqa: S608  (built from the constants above)


# Each level asks for less than the one before. The next one is used when a right (42501), a function (42883) or a
# feature (0A000) is missing: managed services, poolers, old servers. Aurora refuses WAL functions: on a reader as a
# missing feature, on the writer as a wrong state (55000: wal_level is not logical).
_LEVELS = (
    _select(
        primary=_OF_PRIMARY,
        standby=STANDBY_TIMELINE,
        position=_POSITION_AND_FORK,
        system_id=_SYSTEM_ID,
        start=_START,
        defaults=_DEFAULTS,
    ),
    _select(
        primary=_OF_PRIMARY,
        standby=CONTROL_FILE_TIMELINE,
        position=_POSITION_ALONE,
        system_id=_SYSTEM_ID,
        start=_START,
        defaults=_DEFAULTS,
    ),
    _select(primary=_OF_PRIMARY, position=_POSITION_ALONE, start=_START, defaults=_DEFAULTS),
    _select(primary=_OF_PRIMARY, position=_POSITION_ALONE, start=_START),
    _select(system_id=_SYSTEM_ID, start=_START, defaults=_DEFAULTS),
    _select(start=_START),
    _select(),
    b"SHOW in_hot_standby",
    b"SHOW transaction_read_only",
)
_LOSSES = {
    "pg_walfile_name(": "a stale primary cannot be recognised",
    "pg_control_recovery(": "a standby's timeline and staleness are not known",
    "pg_last_wal_replay_lsn(": "the lag is not known",
    "pg_control_system(": "hosts of another cluster cannot be recognised",
    "pg_postmaster_start_time(": "a restarted server, or one with two names, may not be recognised",
    "pg_db_role_setting ": "a change of default_transaction_read_only is not noticed",
}
"""What nobody can tell if a statement does without a function or table."""
_WITHOUT_WAL = 4
_SHOWN = 7
"""From this level on, the answer is a single value."""

# A role's settings may have each statement explained to the client, at any length.
_TERMS = b"SET LOCAL client_min_messages = error;" + OWN_TERMS

RESULTS = 4
"""How many results one statement has: three settings and the answer."""

MOST_ROUNDS = 3 * len(_LEVELS)
"""How many statements one probe may take: every level, each repeated once, and all again after a change of role."""


def lost_without(functions: Collection[str]) -> list[str]:
    """Return what a router does not learn from a server whose probes may not call some functions.

    One missing function takes more with it than what it tells itself: the next smaller statement is used.

    Args:
        functions: those that may not be called, as ``pg_catalog.pg_control_system()``.
    """
    names = [function.partition("(")[0] + "(" for function in functions]
    texts = [level.decode() for level in _LEVELS]
    left = next((text for text in texts if not any(name in text for name in names)), "")
    return [loss for part, loss in _LOSSES.items() if part in texts[0] and part not in left]


class ProbeStatement:
    """The statement to send to one server, and the fall-backs when the server cannot answer it.

    Attributes:
        reduced: why it asks for less than everything, in the server's words; empty if it does not.
    """

    def __init__(self) -> None:
        self.reduced: str = ""
        self._level = 0
        self._repeated = False
        self._known: tuple[HostRole, float | None] | None = None

    @property
    def sql(self) -> bytes:
        """The statement to send now."""
        return _TERMS + _LEVELS[self._level]

    @property
    def single_value(self) -> bool:
        """Whether the answer is one value, not a row."""
        return self._level >= _SHOWN

    def fall_back(self, sqlstate: str, text: str) -> bool:
        """Return whether to ask again after this error, and ask for less where that is needed."""
        if sqlstate == WRONG_STATE and self._level < _WITHOUT_WAL:
            # The role may have changed between the two halves of the answer. Twice in a row is no coincidence.
            if self._repeated:
                self._level, self.reduced = _WITHOUT_WAL, text
            self._repeated = not self._repeated
            return True
        if sqlstate in LACKING and self._level < len(_LEVELS) - 1:
            self._level += 1
            self.reduced = text
            return True
        return False

    def restarts(self, role: HostRole, started_at: float | None) -> bool:
        """Take an answer; return whether to ask for everything again, because another role or server may tell more."""
        before, self._known = self._known, (role, started_at)
        self._repeated = False
        if before in (None, self._known) or self._level == 0:
            return False
        self._level, self.reduced = 0, ""
        return True
