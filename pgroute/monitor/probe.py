"""One probe connection to one host: connect, ask, and notice at once when it dies."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import psycopg
from psycopg import pq

from pgroute.core.faults import Fault, FaultKind, connect_fault, one_line
from pgroute.core.hosts import Answer
from pgroute.core.own import LACKING, OWN_TERMS, WRONG_STATE, qualify, timeline_of
from pgroute.core.printable import printable
from pgroute.core.roles import HostKey, HostRole
from pgroute.monitor.clock import patient

if TYPE_CHECKING:
    from collections.abc import Callable

# Everything is qualified, for the search_path is the user's. A primary's timeline comes from its WAL file name, because
# the control file lags a promotion; a standby's is a lower bound.
_OF_PRIMARY = "pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn())"
_OF_STANDBY = """
       greatest((SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()),
                (SELECT min_recovery_end_timeline FROM pg_catalog.pg_control_recovery()))"""
# Times as whole microseconds: a float is printed as extra_float_digits says.
_POSITION = """
       CASE WHEN r.recovering THEN pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_lsn() END,
       CASE WHEN r.recovering THEN
         (extract(epoch FROM pg_catalog.clock_timestamp() `-` pg_catalog.pg_last_xact_replay_timestamp())
          `*` 1000000)::bigint
       END"""
_SYSTEM_ID = "(SELECT system_identifier FROM pg_catalog.pg_control_system())"
_START = "(extract(epoch FROM pg_catalog.pg_postmaster_start_time()) `*` 1000000)::bigint"
# It changes whenever a fresh session would get another default_transaction_read_only than this one has.
_DEFAULTS = """
       (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(':', s.setdatabase, s.setrole, c), ','
                                     ORDER BY s.setdatabase, s.setrole, c)
          FROM pg_catalog.pg_db_role_setting s, pg_catalog.unnest(s.setconfig) c
         WHERE pg_catalog.strpos(c, 'default_transaction_read_only=') `=` 1)"""


def _question(
    *,
    primary: str = "NULL",
    standby: str = "NULL",
    position: str = "NULL, NULL",
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
""")  # noqa: S608  (made of the constants above)


# Each level asks for less; the next one is used when a right (42501), a function (42883) or a feature (0A000) is
# missing: managed services, poolers, old servers. Aurora refuses what concerns WAL: on a reader as a feature, on the
# writer as a state (55000: wal_level is not logical).
_LEVELS = (
    _question(
        primary=_OF_PRIMARY,
        standby=_OF_STANDBY,
        position=_POSITION,
        system_id=_SYSTEM_ID,
        start=_START,
        defaults=_DEFAULTS,
    ),
    _question(primary=_OF_PRIMARY, position=_POSITION, start=_START, defaults=_DEFAULTS),
    _question(primary=_OF_PRIMARY, position=_POSITION, start=_START),
    _question(system_id=_SYSTEM_ID, start=_START, defaults=_DEFAULTS),
    _question(start=_START),
    _question(),
    b"SHOW in_hot_standby",
    b"SHOW transaction_read_only",
)
_WITHOUT_WAL = 3
_SHOWN = 6
"""The levels from this one on give a single value."""


class ProbeFailed(Exception):
    """A probe failed; `fault` says how."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.reason)
        self.fault = fault


class ProbeConnection:
    """A dedicated connection to one host, used by one watcher in the monitor's loop.

    Args:
        key: the host.
        pgconn: libpq's connection, open. A psycopg one that is given up would cancel its statement on the server
            first, which takes seconds when the server is frozen, and while connecting it would keep its socket
            until the garbage is collected.
        address: where it is connected to.
        on_loss: called, in the loop, when the connection is lost while no probe is under way.
    """

    def __init__(
        self,
        key: HostKey,
        pgconn: pq.abc.PGconn,
        *,
        address: str | None,
        on_loss: Callable[[], None],
    ) -> None:
        self.key = key
        self.opened_at = time.monotonic()
        self._pgconn = pgconn
        self.address = address
        self._on_loss = on_loss
        self._level = 0
        self._doubted = False
        self._untold = ""
        self._known: tuple[HostRole, int | None] | None = None
        self._settings: bytes | None = None
        self._asked = False
        self._pending: asyncio.Future[list[pq.abc.PGresult]] | None = None
        self._results: list[pq.abc.PGresult] = []
        self._sent_at = 0.0
        self._loop = asyncio.get_running_loop()
        self._fd = self._pgconn.socket
        self._loop.add_reader(self._fd, self._readable)
        self.lost: str | None = None

    @classmethod
    async def connect(
        cls,
        key: HostKey,
        conninfo: bytes,
        *,
        address: str | None,
        timeout: float,
        on_loss: Callable[[], None],
    ) -> ProbeConnection:
        """Open the connection within *timeout* seconds of this loop's time; ProbeFailed if that fails."""
        pgconn = pq.PGconn.connect_start(conninfo)
        del conninfo  # tools that show a traceback show the variables in it too, and it may hold a password
        attempt = asyncio.ensure_future(_establish(pgconn))
        try:
            if not await patient(attempt, timeout):
                raise ProbeFailed(
                    Fault(FaultKind.TIMEOUT, host_suspect=True, reason=f"connecting took over {timeout:g} s")
                )
            try:
                attempt.result()
            except psycopg.Error as exc:
                raise ProbeFailed(connect_fault(exc)) from None
        except BaseException:
            attempt.cancel()
            await asyncio.wait({attempt})
            pgconn.finish()
            raise
        return cls(key, pgconn, address=address, on_loss=on_loss)

    @property
    def answered(self) -> bool:
        """Whether it ever gave an answer."""
        return self._asked

    async def ask(self, timeout: float, *, on_slow: Callable[[float], None]) -> Answer:
        """Send the probe and return its answer.

        A probe that is not answered in *timeout* seconds is told to *on_slow*, and waited for as long again: there is
        never more than one in flight, and a late answer still counts.

        Raises:
            ProbeFailed: no answer in twice the time, or the connection is lost.
        """
        while True:
            answer = await self._ask_once(timeout, on_slow)
            if answer is not None:
                return answer

    async def _ask_once(self, timeout: float, on_slow: Callable[[float], None]) -> Answer | None:
        if self.lost is not None:
            raise ProbeFailed(Fault(FaultKind.LOST, host_suspect=True, reason=self.lost))
        self._pending = self._loop.create_future()
        self._results = []
        self._sent_at = sent_at = time.monotonic()
        try:
            try:
                self._pgconn.send_query(OWN_TERMS + _LEVELS[self._level])
                self._pgconn.flush()
            except psycopg.Error as exc:
                self._lose(one_line(str(exc)))
            if not await patient(self._pending, timeout):
                on_slow(sent_at)
                if not await patient(self._pending, timeout):
                    raise ProbeFailed(
                        Fault(FaultKind.TIMEOUT, host_suspect=True, reason=f"no answer in {2 * timeout:g} s")
                    )
            results = self._pending.result()
        finally:
            self._pending = None
        return self._read(results, sent_at, time.monotonic() - sent_at)

    def _read(self, results: list[pq.abc.PGresult], sent_at: float, rtt: float) -> Answer | None:
        result = results[-1]
        if result.status != pq.ExecStatus.TUPLES_OK:
            sqlstate = printable(result.error_field(pq.DiagnosticField.SQLSTATE) or b"")
            text = printable(result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b"")
            if self._step_down(sqlstate, text):
                return None
            raise ProbeFailed(
                Fault(FaultKind.OTHER, host_suspect=True, reason=text or f"SQLSTATE {sqlstate}")
            )
        row = [result.get_value(0, i) for i in range(result.nfields)]
        role = HostRole.STANDBY if row[0] in (b"t", b"on") else HostRole.PRIMARY
        whole = self._level < _SHOWN
        if self._calls_for_all(role, int(row[7]) if whole and row[7] else None):
            return None
        fresh, self._asked, self._doubted = not self._asked, True, False
        answer = Answer(
            self.key,
            role,
            sent_at,
            rtt=rtt,
            address=self.address,
            fresh=fresh,
            server_version=self._pgconn.server_version,
            untold=self._untold,
        )
        if not whole:
            return answer
        settings = row[8] or b""
        if fresh:
            self._settings = settings
        elif settings != self._settings:
            raise ProbeFailed(Fault(FaultKind.LOST, reason="the defaults of new sessions changed"))
        return replace(
            answer,
            read_only=row[1] == b"on",
            timeline=timeline_of(row[2]) if row[2] else int(row[3]) if row[3] else None,
            lsn=_position(row[4]) if row[4] else None,
            replay_age=int(row[5]) / 1e6 if row[5] else None,
            system_id=int(row[6]) if row[6] else None,
            started_at=int(row[7]) / 1e6 if row[7] else None,
        )

    def _calls_for_all(self, role: HostRole, started: int | None) -> bool:
        """Return whether to ask for everything again: another role or server may tell what this one gave up on."""
        before, self._known = self._known, (role, started)
        if before in (None, self._known) or self._level == 0:
            return False
        self._level, self._untold, self._doubted = 0, "", False
        return True

    def _step_down(self, sqlstate: str, text: str) -> bool:
        """Return whether to ask again, and ask for less where that is called for."""
        if sqlstate == WRONG_STATE and self._level < _WITHOUT_WAL:
            # The role may have changed between the two halves of the answer: said twice, it is no coincidence.
            if self._doubted:
                self._level, self._untold = _WITHOUT_WAL, text
            self._doubted = not self._doubted
            return True
        if sqlstate in LACKING and self._level < len(_LEVELS) - 1:
            self._level += 1
            self._untold = text
            return True
        return False

    def _readable(self) -> None:
        try:
            self._pgconn.consume_input()
            if self._pending is None or self._pending.done():
                # A FATAL that is waiting is only noticed when the input is parsed, which notifies() does.
                self._pgconn.notifies()
                return
            while not self._pgconn.is_busy():
                result = self._pgconn.get_result()
                if result is None:
                    if self._results:
                        self._pending.set_result(self._results)
                    else:
                        self._lose("the connection gave no result")
                    return
                self._results.append(result)
                if self._pgconn.status == pq.ConnStatus.BAD:
                    self._lose(one_line(result.error_message))
                    return
        except psycopg.Error as exc:
            self._lose(one_line(str(exc)))

    def _lose(self, reason: str) -> None:
        if self.lost is not None:
            return
        self.lost = reason
        self._loop.remove_reader(self._fd)
        if self._pending is not None and not self._pending.done():
            self._pending.set_exception(ProbeFailed(Fault(FaultKind.LOST, host_suspect=True, reason=reason)))
        else:
            self._on_loss()

    def close(self) -> None:
        """Close the connection; never waits for the server."""
        if self.lost is None:
            self.lost = "closed"
            self._loop.remove_reader(self._fd)
        self._pgconn.finish()


def _position(text: bytes) -> int:
    """Return the bytes of WAL up to a position, which PostgreSQL prints as two hexadecimal numbers."""
    high, _, low = text.partition(b"/")
    return int(high, 16) << 32 | int(low, 16)


async def _establish(pgconn: pq.abc.PGconn) -> None:
    """Go through libpq's steps of connecting (PQconnectPoll); psycopg.OperationalError with its text on failure."""
    while pgconn.status != pq.ConnStatus.BAD:
        match pgconn.connect_poll():
            case pq.PollingStatus.OK:
                pgconn.nonblocking = 1
                return
            case pq.PollingStatus.READING:
                await _ready(pgconn.socket, reading=True)
            case pq.PollingStatus.WRITING:
                await _ready(pgconn.socket, reading=False)
            case _:
                break
    raise psycopg.OperationalError(pgconn.get_error_message())


async def _ready(fd: int, *, reading: bool) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    if reading:
        loop.add_reader(fd, ready.set)
    else:
        loop.add_writer(fd, ready.set)
    try:
        await ready.wait()
    finally:
        if reading:
            loop.remove_reader(fd)
        else:
            loop.remove_writer(fd)
