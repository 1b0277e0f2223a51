"""Opens the connection of a probe, within a timeout that allows for stalls of this process."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import psycopg
from psycopg import pq

from pgroute.core.faults.classify import SHORTAGES, Fault, FaultKind, connect_fault
from pgroute.monitor.errors import ProbeFailed
from pgroute.monitor.stalls import stall_aware_wait
from pgroute.runtime.receive_limit import Allowance, TooMuch, narrow

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn


async def establish(pgconn: PGconn, timeout: float) -> Allowance:
    """Bring a connection that was started to its end, and return its allowance for what it may receive.

    Closes the connection if that fails.

    Raises:
        ProbeFailed: it failed, or took more than *timeout* seconds of this loop's time.
    """
    allowance = Allowance()
    attempt = asyncio.ensure_future(_establish(pgconn, allowance))
    try:
        if not await stall_aware_wait(attempt, timeout):
            raise ProbeFailed.timed_out(f"connecting took over {timeout:g} s")
        try:
            attempt.result()
        except TooMuch as exc:
            raise ProbeFailed.malformed(exc) from None
        except psycopg.Error as exc:
            raise ProbeFailed(_shortage() or connect_fault(exc)) from None
    except BaseException:
        attempt.cancel()
        await asyncio.wait({attempt})
        pgconn.finish()
        raise
    return allowance


def _shortage() -> Fault | None:
    """Return the fault that this process can open no connection at all, whatever the host; None: it can.

    libpq does not always tell.
    """
    try:
        socket.socket().close()
    except OSError as exc:
        if exc.errno in SHORTAGES:
            return Fault(FaultKind.SHORTAGE, reason=f"this process can open no connection: {exc.strerror}")
    return None


async def _establish(pgconn: PGconn, allowance: Allowance) -> None:
    """Take libpq's steps of connecting (PQconnectPoll).

    Raises:
        psycopg.OperationalError: with libpq's text.
    """
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
