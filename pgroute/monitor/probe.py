"""One probe connection to one host: connect, ask, and notice at once when it dies."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import psycopg
from psycopg import pq

from pgroute.core.faults.classify import Fault, FaultKind, connect_fault, one_line
from pgroute.core.printable import printable
from pgroute.core.sql.answers import Malformed, read_probe, read_shown
from pgroute.core.sql.statements import LACKING, OWN_TERMS, WRONG_STATE, qualify
from pgroute.core.topology.observations import Answer
from pgroute.monitor.patience import patient
from pgroute.runtime.receive_limit import Allowance, TooMuch, narrow

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgroute.core.model.roles import HostKey, HostRole

# Everything is qualified, for the search_path is the user's. A primary's timeline comes from its WAL file name, because
# the control file lags a promotion; a standby's is a lower bound.
_OF_PRIMARY = "pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn())"
_OF_STANDBY = """
       greatest((SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()),
                (SELECT min_recovery_end_timeline FROM pg_catalog.pg_control_recovery()))"""
_POSITION = """
       CASE WHEN r.recovering THEN pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_lsn() END"""
_SYSTEM_ID = "(SELECT system_identifier FROM pg_catalog.pg_control_system())"
# In whole microseconds: a float is printed as extra_float_digits says.
_START = "(extract(epoch FROM pg_catalog.pg_postmaster_start_time()) `*` 1000000)::bigint"
# It changes whenever a fresh session would get another default_transaction_read_only than this one has. Those of other
# databases and of other roles are no concern of ours, and there may be thousands.
_DEFAULTS = """
       (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(':', s.setdatabase, s.setrole, c), ','
                                     ORDER BY s.setdatabase, s.setrole, c)
          FROM pg_catalog.pg_db_role_setting s, pg_catalog.unnest(s.setconfig) c
         WHERE s.setdatabase `=` ANY (ARRAY[0::pg_catalog.oid, (
                 SELECT oid FROM pg_catalog.pg_database WHERE datname `=` pg_catalog.current_database())])
           AND s.setrole `=` ANY (ARRAY[0::pg_catalog.oid,
                 pg_catalog.to_regrole(pg_catalog.quote_ident(SESSION_USER))::pg_catalog.oid])
           AND pg_catalog.strpos(c, 'default_transaction_read_only=') `=` 1)"""


def _question(
    *,
    primary: str = "NULL",
    standby: str = "NULL",
    position: str = "NULL",
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

# A role may have been given settings by which each statement is explained to the client, at any length.
_TERMS = b"SET LOCAL client_min_messages = error;" + OWN_TERMS
_RESULTS = 4
"""Of a probe: three settings and the answer."""

_MOST_ROUNDS = 3 * len(_LEVELS)
"""Questions in one probe: all levels, each doubted once, and all again for another role."""

_COPYING = frozenset({pq.ExecStatus.COPY_IN, pq.ExecStatus.COPY_OUT, pq.ExecStatus.COPY_BOTH})
"""libpq gives such a result again and again."""


class ProbeFailed(Exception):
    """A probe failed; `fault` says how."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.reason)
        self.fault = fault


def _broken(what: object) -> Fault:
    """Return the fault of a server that answers what none does: a failed probe, whatever else it says."""
    return Fault(FaultKind.OTHER, host_suspect=True, reason=f"malformed answer: {what}")


class ProbeConnection:
    """A dedicated connection to one host, used by one watcher in the monitor's loop.

    Args:
        key: the host.
        pgconn: libpq's connection, open. A psycopg one that is given up would cancel its statement on the server
            first, which takes seconds when the server is frozen, and while connecting it would keep its socket
            until the garbage is collected.
        address: where it is connected to.
        on_loss: called, in the loop, when the connection is lost while no probe is under way.
        allowance: of its login.

    Attributes:
        lost: why it can be used no more, None while it can.
    """

    def __init__(
        self,
        key: HostKey,
        pgconn: pq.abc.PGconn,
        *,
        address: str | None,
        on_loss: Callable[[], None],
        allowance: Allowance,
    ) -> None:
        self.key = key
        self.opened_at = time.monotonic()
        self._pgconn = pgconn
        self.address = address
        self._on_loss = on_loss
        self._allowance = allowance
        self._level = 0
        self._doubted = False
        self._untold = ""
        self._known: tuple[HostRole, float | None] | None = None
        self._settings: bytes | None = None
        self._asked = False
        self._pending: asyncio.Future[list[pq.abc.PGresult]] | None = None
        self._results: list[pq.abc.PGresult] = []
        self._sent_at = 0.0
        self._loop = asyncio.get_running_loop()
        self._fd = self._pgconn.socket
        self._loop.add_reader(self._fd, self._readable)
        self.lost: Fault | None = None

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
        allowance = Allowance()
        attempt = asyncio.ensure_future(_establish(pgconn, allowance))
        try:
            if not await patient(attempt, timeout):
                raise ProbeFailed(
                    Fault(FaultKind.TIMEOUT, host_suspect=True, reason=f"connecting took over {timeout:g} s")
                )
            try:
                attempt.result()
            except TooMuch as exc:
                raise ProbeFailed(_broken(exc)) from None
            except psycopg.Error as exc:
                raise ProbeFailed(connect_fault(exc)) from None
        except BaseException:
            attempt.cancel()
            await asyncio.wait({attempt})
            pgconn.finish()
            raise
        return cls(key, pgconn, address=address, on_loss=on_loss, allowance=allowance)

    @property
    def answered(self) -> bool:
        """Whether it ever gave an answer."""
        return self._asked

    async def ask(self, timeout: float, *, on_slow: Callable[[float], None]) -> Answer:
        """Send the probe and return its answer.

        A probe that is not answered in *timeout* seconds is told to *on_slow*, and waited for as long again: there is
        never more than one in flight, and a late answer still counts.

        Raises:
            ProbeFailed: no answer in twice the time, or none that makes sense, or the connection is lost.
        """
        for _ in range(_MOST_ROUNDS):
            try:
                answer = await self._ask_once(timeout, on_slow)
            except Malformed as exc:
                raise ProbeFailed(_broken(exc)) from None
            if answer is not None:
                return answer
        raise ProbeFailed(_broken("another one to each question"))

    async def _ask_once(self, timeout: float, on_slow: Callable[[float], None]) -> Answer | None:
        if self.lost is not None:
            raise ProbeFailed(self.lost)
        self._pending = self._loop.create_future()
        self._results = []
        self._sent_at = sent_at = time.monotonic()
        try:
            try:
                self._pgconn.send_query(_TERMS + _LEVELS[self._level])
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
        *others, result = results
        if any(other.status != pq.ExecStatus.COMMAND_OK for other in others):
            raise Malformed("several results")
        if result.status == pq.ExecStatus.FATAL_ERROR:
            sqlstate = printable(result.error_field(pq.DiagnosticField.SQLSTATE) or b"")
            text = printable(result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b"")
            if self._step_down(sqlstate, text):
                return None
            raise ProbeFailed(
                Fault(FaultKind.OTHER, host_suspect=True, reason=text or f"SQLSTATE {sqlstate}")
            )
        if result.status != pq.ExecStatus.TUPLES_OK or result.ntuples != 1:
            raise Malformed("not one row")
        row = [result.get_value(0, i) for i in range(result.nfields)]
        self._allowance.answered(sum(len(value or b"") for value in row))
        told = read_probe(row) if self._level < _SHOWN else None
        role = read_shown(row) if told is None else told.role
        if self._calls_for_all(role, None if told is None else told.started_at):
            return None
        fresh, self._asked, self._doubted = not self._asked, True, False
        if told is None:
            return Answer(
                self.key,
                role,
                sent_at,
                rtt=rtt,
                address=self.address,
                fresh=fresh,
                server_version=self._pgconn.server_version,
                reduced=self._untold,
            )
        if fresh:
            self._settings = told.defaults
        elif told.defaults != self._settings:
            raise ProbeFailed(Fault(FaultKind.LOST, reason="the defaults of new sessions changed"))
        return Answer(
            self.key,
            role,
            sent_at,
            read_only=told.read_only,
            timeline=told.timeline,
            lsn=told.lsn,
            system_id=told.system_id,
            started_at=told.started_at,
            address=self.address,
            rtt=rtt,
            fresh=fresh,
            server_version=self._pgconn.server_version,
            reduced=self._untold,
        )

    def _calls_for_all(self, role: HostRole, started: float | None) -> bool:
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
            self._allowance.count(self._fd)
            self._pgconn.consume_input()
            # A FATAL that is waiting is only noticed when the input is parsed, which notifies() does. Nobody listens
            # here: notifications are dropped before they pile up.
            while self._pgconn.notifies() is not None:
                pass
            if self._pending is None or self._pending.done():
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
                if len(self._results) > _RESULTS or result.status in _COPYING:
                    self._give_up(_broken("several results"))
                    return
        except TooMuch as exc:
            self._give_up(_broken(exc))
        except psycopg.Error as exc:
            self._lose(one_line(str(exc)))

    def _lose(self, reason: str) -> None:
        self._give_up(Fault(FaultKind.LOST, host_suspect=True, reason=reason))

    def _give_up(self, fault: Fault) -> None:
        if self.lost is not None:
            return
        self.lost = fault
        self._loop.remove_reader(self._fd)
        if self._pending is not None and not self._pending.done():
            self._pending.set_exception(ProbeFailed(fault))
        else:
            self._on_loss()

    def close(self) -> None:
        """Close the connection; never waits for the server."""
        if self.lost is None:
            self.lost = Fault(FaultKind.LOST, reason="closed")
            self._loop.remove_reader(self._fd)
        self._pgconn.finish()


async def _establish(pgconn: pq.abc.PGconn, allowance: Allowance) -> None:
    """Go through libpq's steps of connecting (PQconnectPoll); psycopg.OperationalError with its text on failure."""
    while pgconn.status != pq.ConnStatus.BAD:
        match pgconn.connect_poll():
            case pq.PollingStatus.OK:
                pgconn.nonblocking = 1
                return
            case pq.PollingStatus.READING:
                narrow(pgconn.socket)
                await _ready(pgconn.socket, reading=True)
                allowance.count(pgconn.socket)
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
