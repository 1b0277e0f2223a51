"""Servers and connections in memory, with as much of psycopg's behaviour as a router sees."""

from __future__ import annotations

import contextlib
import weakref
from operator import attrgetter
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import psycopg
from psycopg.pq import ConnStatus, PipelineStatus, TransactionStatus
from psycopg.rows import tuple_row

from pgroute.core.model.roles import HostKey, HostRole
from tests.interleavings.faces import blocking

if TYPE_CHECKING:
    from tests.interleavings.world import World

IDLE = TransactionStatus.IDLE
ACTIVE = TransactionStatus.ACTIVE
INTRANS = TransactionStatus.INTRANS
INERROR = TransactionStatus.INERROR
UNKNOWN = TransactionStatus.UNKNOWN


class Server:
    """One host.

    Attributes:
        up: it accepts connections.
        frozen: it says nothing.
        slow: the longest that connecting takes.
        failing: the share of connection attempts that it refuses.
    """

    def __init__(self, key: HostKey, role: HostRole) -> None:
        self.key = key
        self.role = role
        self.timeline = 1
        self.boot = 1
        self.up = True
        self.frozen = False
        self.slow = 0.01
        self.failing = 0.0
        self._links: dict[int, weakref.ref[Connection]] = {}
        self._serial = 0

    @property
    def links(self) -> list[Connection]:
        """The connections that are open."""
        return [conn for ref in self._links.values() if (conn := ref()) is not None]

    def admit(self, conn: Connection) -> int:
        self._serial += 1
        self._links[self._serial] = weakref.ref(conn)
        return self._serial

    def dismiss(self, number: int) -> None:
        self._links.pop(number, None)

    def crash(self) -> None:
        """End, and every connection with it."""
        self.up, self.frozen = False, False
        for conn in self.links:
            conn.lose()

    def start(self, role: HostRole, timeline: int) -> None:
        self.boot += 1
        self.up, self.role, self.timeline = True, role, timeline

    def thaw(self) -> None:
        self.frozen = False
        for conn in self.links:
            conn.stirred.set()


class PGconn:
    """What a router asks of the PGconn of a connection."""

    pipeline_status = PipelineStatus.OFF
    notify_handler = None
    error_message = b""

    def __init__(self, conn: Connection) -> None:
        self._conn = weakref.proxy(conn)

    @property
    def transaction_status(self) -> TransactionStatus:
        return UNKNOWN if self._conn.closed else self._conn.state

    @property
    def status(self) -> ConnStatus:
        return ConnStatus.BAD if self._conn.closed else ConnStatus.OK

    def consume_input(self) -> None:
        if self._conn.gone or self._conn.closed:
            self._conn.drop(broken=True)
            raise psycopg.OperationalError("server closed the connection unexpectedly")

    def notifies(self) -> None:
        return None

    def parameter_status(self, name: bytes) -> bytes | None:
        if name != b"default_transaction_read_only":
            return None
        return b"on" if self._conn.baseline_read_only else b"off"

    def finish(self) -> None:
        self._conn.drop()


class AbortHandle:
    """The socket of a connection."""

    def __init__(self, conn: Connection) -> None:
        self._conn = weakref.ref(conn)

    def abort(self) -> bool:
        conn = self._conn()
        if conn is None or conn.closed:
            return False
        conn.lose()
        return True


class Connection:
    """As psycopg.AsyncConnection.

    Attributes:
        holder: the client whose body has it.
        gone: the other end is closed.
        stirred: set when a wait for the server may be over.
    """

    pgroute_lease: Any
    _tpc = None
    _num_transactions = 0
    # Where psycopg keeps its settings, which the pool compares.
    _autocommit = property(attrgetter("autocommit"))
    _read_only = property(attrgetter("read_only"))
    _isolation_level = property(attrgetter("isolation_level"))
    _deferrable = property(attrgetter("deferrable"))

    @property
    def _prepared(self) -> Connection:
        return self

    def __init__(self, world: World, server: Server, *, read_only: bool) -> None:
        self._world = world
        self._server = server
        self.number = server.admit(self)
        self.name = f"{server.key.host}#{self.number}"
        self.boot = server.boot
        self.baseline_read_only = read_only
        self.autocommit = False
        self.read_only: bool | None = read_only or None
        self.isolation_level = None
        self.deferrable = None
        self.row_factory = tuple_row
        self.cursor_factory = psycopg.AsyncCursor
        self.server_cursor_factory = psycopg.AsyncServerCursor
        self.prepare_threshold = 5
        self.prepared_max = 100
        self._notice_handlers: list[Any] = []
        self._notify_handlers: list[Any] = []
        self.closed = False
        self.broken = False
        self.gone = False
        self.state = IDLE
        self.holder = ""
        self.written: list[str] = []
        self.stirred = world.face.event()
        self.pgconn = PGconn(self)
        self._pool: Any = None

    def __repr__(self) -> str:
        return f"<{self.name}>"

    def __del__(self) -> None:
        self._server.dismiss(self.number)

    def lose(self) -> None:
        """Have the other end closed."""
        self.gone = True
        self.stirred.set()

    def drop(self, *, broken: bool = False) -> None:
        """Close this end."""
        self.broken = broken
        if not self.closed:
            self.closed = True
            self.written.clear()
            self._server.dismiss(self.number)
            self.stirred.set()

    async def wait(self, gen: Any, interval: float = 0.0) -> Any:
        raise AssertionError("no statement of these connections goes through here")

    async def close(self) -> None:
        self._world.used(self, "close")
        self.drop()

    async def commit(self) -> None:
        self._world.used(self, "COMMIT")
        if self.closed:
            raise psycopg.OperationalError("the connection is closed")
        if self.state != IDLE:
            await self._ask("COMMIT", IDLE, None if self.state == INERROR else self._written)

    def _written(self) -> None:
        self._world.committed.update(self.written)
        self.written.clear()

    async def rollback(self) -> None:
        self._world.used(self, "ROLLBACK")
        if self.closed:
            raise psycopg.OperationalError("the connection is closed")
        if self.state != IDLE:
            await self._ask("ROLLBACK", IDLE, self.written.clear)

    async def execute(self, query: str, params: Any = None, **options: Any) -> Self:
        """Run a statement: "write TOKEN", "read", "serialization" or "fail"."""
        self._world.used(self, query)
        if self.state == INERROR and not self.closed:
            raise psycopg.errors.InFailedSqlTransaction("current transaction is aborted")
        after = self.state if self.state != IDLE else (IDLE if self.autocommit else INTRANS)
        verb, _, token = query.partition(" ")
        if verb == "write" and (self._server.role is HostRole.STANDBY or self.read_only):
            await self._refuse(psycopg.errors.ReadOnlySqlTransaction("cannot write"), after)
        if verb == "serialization":
            await self._refuse(psycopg.errors.SerializationFailure("could not serialize"), after)
        if verb == "fail":
            await self._refuse(psycopg.errors.UniqueViolation("duplicate key"), after)
        await self._ask(query, after, None)
        if verb == "write":
            if after == IDLE:
                self._world.committed.add(token)
            else:
                self.written.append(token)
        return self

    async def _refuse(self, error: psycopg.Error, after: TransactionStatus) -> None:
        await self._ask("refused", INERROR if after != IDLE else IDLE, None)
        raise error

    async def _ask(self, what: str, after: TransactionStatus, effect: Any) -> None:
        """Send a statement and wait for the answer."""
        world = self._world
        if self.closed:
            raise psycopg.OperationalError("the connection is closed")
        if self.state == ACTIVE:
            world.violation("shared connection", f"{what} on {self.name} while another statement runs")
            raise psycopg.OperationalError("another command is already in progress")
        before, done = self.state, False
        self.state = ACTIVE
        try:
            await self._trip()
            if effect is not None:
                effect()
            done = True
            await self._trip()
        except psycopg.OperationalError:
            self.drop(broken=True)
            raise
        except BaseException:
            await self._torn(after if done else (IDLE if before == IDLE else INERROR))
            raise
        self.state = after
        if after == IDLE:
            self.pgroute_lease.was_idle = True

    @property
    def _reachable(self) -> bool:
        return not self.gone and not self.closed

    async def _torn(self, state: TransactionStatus) -> None:
        """End a statement whose caller was torn out of it: psycopg has it cancelled, and waits for that."""
        world = self._world
        if self._reachable and not self._server.frozen and world.chance(0.6):
            with contextlib.suppress(BaseException):
                await world.face.sleep(world.rng.random() * 0.01)
                if self._reachable:
                    self.state = state
                    return
        self.drop(broken=True)

    async def _trip(self) -> None:
        world = self._world
        await world.nap()
        while self._server.frozen and not (self.gone or self.closed):
            self.stirred.clear()
            await world.face.wait(self.stirred, None)
        if self.gone or self.closed:
            raise psycopg.OperationalError("server closed the connection unexpectedly")

    def transaction(self) -> Any:
        return self._world.transaction_class(self)

    async def set_autocommit(self, value: bool) -> None:
        self._set("autocommit", value)

    async def set_read_only(self, value: bool | None) -> None:
        self._set("read_only", value)

    async def set_isolation_level(self, value: Any) -> None:
        self._set("isolation_level", value)

    async def set_deferrable(self, value: bool | None) -> None:
        self._set("deferrable", value)

    def _set(self, name: str, value: Any) -> None:
        self._world.used(self, f"set {name}")
        if self.pgconn.transaction_status != IDLE:
            raise psycopg.ProgrammingError(f"can't change {name!r} now")
        setattr(self, name, value)


class Transaction:
    """As psycopg.AsyncTransaction, without savepoints."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn

    async def __aenter__(self) -> Self:
        conn = self._conn
        conn._world.used(conn, "BEGIN")
        if conn.closed:
            raise psycopg.OperationalError("the connection is closed")
        await conn._ask("BEGIN", INTRANS, None)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> bool:
        conn = self._conn
        if conn.closed:
            if exc is None:
                raise psycopg.OperationalError("the connection is lost")
            return False
        if exc is None:
            await conn._ask("COMMIT", IDLE, None if conn.state == INERROR else conn._written)
            return False
        await conn._ask("ROLLBACK", IDLE, conn.written.clear)
        return isinstance(exc, psycopg.Rollback)


SyncConnection = blocking(
    Connection,
    (
        "wait", "close", "commit", "rollback", "execute",
        "set_autocommit", "set_read_only", "set_isolation_level", "set_deferrable",
    ),
)  # fmt: skip

_PlainTransaction: Any = blocking(Transaction, ("__aenter__", "__aexit__"))


class SyncTransaction(_PlainTransaction):  # type: ignore[misc]
    """As psycopg.Transaction."""

    __enter__ = _PlainTransaction.__aenter__
    __exit__ = _PlainTransaction.__aexit__
