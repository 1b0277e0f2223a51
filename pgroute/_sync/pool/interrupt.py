# Generated from pgroute/_async/pool/interrupt.py by .ci/unasync.py: edit that file, not this one.
"""What happens to a connection when its statements are interrupted, or were prepared before a migration."""

from __future__ import annotations

import logging
import sys

import threading
import time
import weakref
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.pq import TransactionStatus

from pgroute._acompat import Watchdog, shielded
from pgroute._sync.pool.cancelling import cancel_until
from pgroute._psycopg.pooled import bare, cancelling
from pgroute._psycopg.prepared import remove_steps
from pgroute.core.faults.classify import one_line, plan_outdated

if TYPE_CHECKING:
    from collections.abc import Callable

    from psycopg.pq.abc import PGconn

    from pgroute._sync.pool.lease import Lease

logger = logging.getLogger("pgroute")

IDLE = TransactionStatus.IDLE
ACTIVE = TransactionStatus.ACTIVE

_INTERRUPTS = (KeyboardInterrupt, SystemExit)


def guard(conn: psycopg.Connection[Any], lease: Lease, suspect: Callable[[], object]) -> None:
    """Bound the time that an interrupted statement on this connection takes, and note when its transaction ends.

    In autocommit mode it also removes what was prepared before a migration. After a ROLLBACK psycopg does it.

    psycopg asks the server to cancel an interrupted statement, and waits up to 5 s for that and 5 s for the statement.
    A frozen host answers neither. psycopg does this in `wait` and `cancel_safe`. Both are replaced on the connection,
    because its class is the user's.

    Args:
        conn: a connection just made.
        lease: its own.
        suspect: called when the server did not answer in time.
    """
    conn = bare(conn)
    cls, pgconn, this = type(conn), conn.pgconn, weakref.ref(conn)
    watchdog: Watchdog | None = None
    awaited: tuple[Any, object] = (None, None)

    def wait(gen: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal watchdog, awaited
        awaited = gen, _this_waiter()
        try:
            return cls.wait(this(), gen, *args, **kwargs)  # type: ignore[arg-type]  # its caller holds it
        except psycopg.errors.FeatureNotSupported as exc:
            if pgconn.transaction_status == IDLE and plan_outdated(exc):
                _forget_plans(cls, this())
            raise
        except BaseException as exc:
            # As of a signal handler, or of gevent: psycopg ends the statement for its own interrupts alone.
            if _left_running(pgconn, exc, gen):
                cancel(lease.patience())
            raise
        finally:
            awaited = None, None
            if watchdog is not None:
                started, watchdog = watchdog, None
                cancelling.set(False)
                started.__exit__(None, None, None)
            if pgconn.transaction_status == IDLE:
                lease.was_idle = True

    def cancel_safe(*, timeout: float = 30.0) -> None:
        conn = this()
        assert conn is not None
        # Only where wait() handles an interrupt: a direct call of cancel_safe() does what psycopg documents.
        within = awaited[1] == _this_waiter() and isinstance(sys.exception(), _INTERRUPTS)
        if not within or pgconn.transaction_status != ACTIVE:
            cls.cancel_safe(conn, timeout=timeout)
            return
        with suppress(*_INTERRUPTS):  # the first one is raised in any case
            cancel(min(timeout, lease.patience()))

    def cancel(timeout: float) -> None:
        nonlocal watchdog, awaited
        if watchdog is not None:  # interrupted again while it is being cancelled
            abort()
            return
        gen, awaited = awaited[0], (None, awaited[1])
        cancelling.set(True)
        watchdog = Watchdog(timeout, abort)
        watchdog.__enter__()
        shielded(partial(_end_statement, this(), lease, gen, timeout, abort))

    def abort() -> None:
        lease.doomed = True
        lease.abort()
        suspect()

    conn.wait = wait  # type: ignore[method-assign]
    conn.cancel_safe = cancel_safe  # type: ignore[method-assign]


def _this_waiter() -> object:
    """Return what stands for the task or thread that runs."""
    return threading.get_ident()


def _left_running(pgconn: PGconn, exc: BaseException, gen: Any) -> bool:
    """Return whether an exception has left a statement running: *gen* has not raised it, nor psycopg handled it.

    What *gen* raises may be of a row of a COPY that goes on. If it was raised there by a signal handler, `abandon` ends
    the statement, together with the session.
    """
    # After a GeneratorExit nothing can be awaited.
    if isinstance(exc, (psycopg.Error, GeneratorExit, *_INTERRUPTS)) or getattr(gen, "gi_frame", gen) is None:
        return False
    return pgconn.transaction_status == ACTIVE


def _end_statement(
    conn: Any,
    lease: Lease,
    gen: Any,
    timeout: float,
    abort: Callable[[], object],
) -> None:
    """Have the statement under way cancelled, and receive what is left of it: psycopg then has nothing to await."""

    def ended(seconds: float) -> bool:
        until = time.monotonic() + seconds
        if gen is not None:
            with suppress(psycopg.Error):
                type(conn).wait(conn, gen, timeout=seconds)
                return True
        # An error before that time is not the timeout's.
        return gen is None or time.monotonic() < until

    try:
        cancel_until(conn, lease, timeout, ended)
    except (psycopg.Error, TimeoutError) as exc:
        why = one_line(str(exc))
        logger.debug("closing a connection to %s whose statement was not cancelled: %s", lease.pool.key, why)
        abort()
    except BaseException:
        abort()
        raise


def _forget_plans(cls: type[psycopg.Connection[Any]], conn: Any) -> None:
    """Remove what was prepared on a connection whose lock is held."""
    if not conn.pgconn.pipeline_status:
        with suppress(psycopg.Error):  # the statement's own error says that nothing has run
            cls.wait(conn, remove_steps(conn))
