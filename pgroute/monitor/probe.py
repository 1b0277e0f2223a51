"""One probe connection to one host: send the probe, read the answer, and notice at once when the connection dies."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import pq

from pgroute.core.faults.classify import Fault, FaultKind, one_line
from pgroute.core.printable import printable
from pgroute.core.sql.answers import Malformed, read_probe, read_shown
from pgroute.core.topology.observations import Answer
from pgroute.monitor.alarm import Alarm
from pgroute.monitor.errors import ProbeFailed
from pgroute.monitor.probe_connect import establish
from pgroute.monitor.probe_statement import MOST_ROUNDS, RESULTS, ProbeStatement
from pgroute.monitor.stalls import stall_aware_alarm
from pgroute.runtime.receive_limit import TooMuch

if TYPE_CHECKING:
    from collections.abc import Callable

    from psycopg.pq.abc import PGconn, PGresult

    from pgroute.core.model.roles import HostKey
    from pgroute.core.sql.answers import ProbeValues
    from pgroute.runtime.receive_limit import Allowance

_COPYING = frozenset({pq.ExecStatus.COPY_IN, pq.ExecStatus.COPY_OUT, pq.ExecStatus.COPY_BOTH})
"""libpq returns such a result again and again."""

_WRITER_CYCLES = 3
"""In at most so many times wal_writer_delay each commit is on disk (PostgreSQL docs, 28.4, asynchronous commit)."""


class ProbeConnection:
    """A dedicated connection to one host, used by one watcher in the monitor's loop.

    Args:
        key: the host.
        pgconn: libpq's connection, open. A psycopg connection would first cancel its statement on the server when it
            is abandoned, which takes seconds on a frozen one, and would keep its socket until it is collected.
        address: the address it is connected to.
        on_loss: called in the loop when the connection is lost while no probe is in flight.
        allowance: how much it may receive.

    Attributes:
        lost: why it is no longer usable, None while it is.
        opened_at: monotonic seconds.
    """

    def __init__(
        self,
        key: HostKey,
        pgconn: PGconn,
        *,
        address: str | None,
        on_loss: Callable[[], None],
        allowance: Allowance,
    ) -> None:
        self.key = key
        self.address = address
        self.opened_at: float = time.monotonic()
        self.lost: Fault | None = None
        self._pgconn = pgconn
        self._on_loss = on_loss
        self._allowance = allowance
        self._statement = ProbeStatement()
        self._answered = False
        self._settings: bytes | None = None
        # Between two probes there is no alarm.
        self._pending: Alarm | None = None
        self._results: list[PGresult] = []
        self._failure: ProbeFailed | None = None
        self._loop = asyncio.get_running_loop()
        self._fd = self._pgconn.socket
        self._loop.add_reader(self._fd, self._readable)

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
        """Open the connection.

        Raises:
            ProbeFailed: it cannot be opened, or not within *timeout* seconds of this loop's time.
        """
        pgconn = pq.PGconn.connect_start(conninfo)
        del conninfo  # it may hold a password, and tools that show a traceback show local variables too
        allowance = await establish(pgconn, timeout)
        return cls(key, pgconn, address=address, on_loss=on_loss, allowance=allowance)

    @property
    def answered(self) -> bool:
        """Whether any probe on it was answered."""
        return self._answered

    async def ask(self, timeout: float, *, on_slow: Callable[[float], None]) -> Answer:
        """Send the probe and return its answer.

        After *timeout* seconds without an answer *on_slow* is called with the time of sending, and the wait goes on for
        as long again: there is never more than one probe in flight, and a late answer still counts.

        Raises:
            ProbeFailed: there is no answer in twice the time, the answer is malformed, or the connection is lost.
        """
        for _ in range(MOST_ROUNDS):
            try:
                answer = await self._ask_once(timeout, on_slow)
            except Malformed as exc:
                raise ProbeFailed.malformed(exc) from None
            if answer is not None:
                return answer
        raise ProbeFailed.malformed("another one to each question")

    async def rows(self, sql: bytes, timeout: float) -> list[list[bytes | None]]:
        """Return the rows of the last statement in a text.

        Raises:
            ProbeFailed: there is no answer in twice the time, it is an error, or the connection is lost.
        """
        *_, result = await self._results_of(sql, timeout, lambda: None)
        if result.status != pq.ExecStatus.TUPLES_OK:
            text = printable(result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b"no rows")
            raise ProbeFailed(Fault(FaultKind.OTHER, reason=text))
        rows = [
            [result.get_value(row, column) for column in range(result.nfields)]
            for row in range(result.ntuples)
        ]
        self._allowance.answered(sum(len(value or b"") for row in rows for value in row))
        return rows

    async def _ask_once(self, timeout: float, on_slow: Callable[[float], None]) -> Answer | None:
        sent_at = time.monotonic()
        results = await self._results_of(self._statement.sql, timeout, lambda: on_slow(sent_at))
        return self._read(results, sent_at, time.monotonic() - sent_at)

    async def _results_of(self, sql: bytes, timeout: float, on_slow: Callable[[], None]) -> list[PGresult]:
        if self.lost is not None:
            raise ProbeFailed(self.lost)
        alarm = self._pending = Alarm()
        self._results = []
        try:
            try:
                self._pgconn.send_query(sql)
                self._pgconn.flush()
            except psycopg.Error as exc:
                self._lose(one_line(str(exc)))
            if not await stall_aware_alarm(alarm, timeout):
                on_slow()
                if not await stall_aware_alarm(alarm, timeout):
                    raise ProbeFailed.timed_out(f"no answer in {2 * timeout:g} s")
        finally:
            self._pending = None
        if self._failure is not None:
            raise self._failure
        return self._results

    def _read(self, results: list[PGresult], sent_at: float, rtt: float) -> Answer | None:
        """Return the answer, None if the statement must be sent again in another form."""
        *others, result = results
        if any(other.status != pq.ExecStatus.COMMAND_OK for other in others):
            raise Malformed("several results")
        if result.status == pq.ExecStatus.FATAL_ERROR:
            sqlstate = printable(result.error_field(pq.DiagnosticField.SQLSTATE) or b"")
            text = printable(result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b"")
            if self._statement.fall_back(sqlstate, text):
                return None
            raise ProbeFailed(
                Fault(FaultKind.OTHER, host_suspect=True, reason=text or f"SQLSTATE {sqlstate}")
            )
        if result.status != pq.ExecStatus.TUPLES_OK or result.ntuples != 1:
            raise Malformed("not one row")
        row = [result.get_value(0, i) for i in range(result.nfields)]
        self._allowance.answered(sum(map(len, filter(None, row))))
        told = None if self._statement.single_value else read_probe(row)
        role = read_shown(row) if told is None else told.role
        if self._statement.restarts(role, None if told is None else told.started_at):
            return None
        fresh, self._answered = not self._answered, True
        if told is not None:
            if fresh:
                self._settings = told.defaults
            elif told.defaults != self._settings:
                raise ProbeFailed(Fault(FaultKind.LOST, reason="the defaults of new sessions changed"))
        return Answer(
            self.key,
            role,
            sent_at,
            rtt=rtt,
            address=self.address,
            fresh=fresh,
            server_version=self._pgconn.server_version,
            reduced=self._statement.reduced,
            **({} if told is None else _positions(told)),
        )

    def _readable(self) -> None:
        try:
            self._allowance.count(self._fd)
            self._pgconn.consume_input()
            # A waiting FATAL is only noticed when the input is parsed, which notifies() does. Nobody listens here:
            # notifications are dropped before they pile up.
            while self._pgconn.notifies() is not None:
                pass
            if self._pending is None or self._pending.rung:
                return
            while not self._pgconn.is_busy():
                result = self._pgconn.get_result()
                if result is None:
                    if self._results:
                        self._pending.ring()
                    else:
                        self._lose("the connection gave no result")
                    return
                self._results.append(result)
                if self._pgconn.status == pq.ConnStatus.BAD:
                    self._lose(one_line(result.error_message))
                    return
                if len(self._results) > RESULTS or result.status in _COPYING:
                    self._fail(ProbeFailed.malformed("several results"))
                    return
        except TooMuch as exc:
            self._fail(ProbeFailed.malformed(exc))
        except psycopg.Error as exc:
            self._lose(one_line(str(exc)))

    def _lose(self, reason: str) -> None:
        self._fail(ProbeFailed(Fault(FaultKind.LOST, host_suspect=True, reason=reason)))

    def _fail(self, error: ProbeFailed) -> None:
        if self.lost is not None:
            return
        self.lost = error.fault
        self._loop.remove_reader(self._fd)
        if self._pending is not None and not self._pending.rung:
            self._failure = error
            self._pending.ring()
        else:
            self._on_loss()

    def close(self) -> None:
        """Close the connection without waiting for the server."""
        if self.lost is None:
            self.lost = Fault(FaultKind.LOST, reason="closed")
            self._loop.remove_reader(self._fd)
        self._pgconn.finish()


def _positions(told: ProbeValues) -> dict[str, Any]:
    """Return the fields of an answer that only a whole probe gives."""
    return {
        "read_only": told.read_only,
        "timeline": told.timeline,
        "lsn": told.lsn,
        "flushed": told.flushed,
        "replayed": told.replayed,
        "flush_delay": _WRITER_CYCLES * told.writer_delay,
        "system_id": told.system_id,
        "started_at": told.started_at,
    }
