"""An ORM session that reads from a standby until it writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import Engine, event
from sqlalchemy.orm import Session

from pgroute.contrib.sqlalchemy.engines import dialect_of
from pgroute.contrib.sqlalchemy.routes import ATTEMPT, CAUSAL, ROLE, OwnCausal
from pgroute.contrib.sqlalchemy.statements import only_reads
from pgroute.core.model.roles import Role
from pgroute.errors import ConfigError

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.orm import SessionTransaction

    from pgroute import AsyncCausal, Causal, Position


class RoutingSession(Session):
    """A Session whose transactions may begin at a standby.

    With ``start="reader"`` a transaction reads from a standby. It goes to the primary at its first flush, and at the
    first statement that is not a query: INSERT, UPDATE, DELETE, a query FOR UPDATE, a text(). It stays there to its
    end. The next transaction begins at a standby again, at one that has what this session has written and read.

    For asyncio: ``async_sessionmaker(engine, sync_session_class=RoutingSession, start="reader")``.

    Args:
        bind: an engine of ``postgresql+pgroute``.
        start: "writer" or "reader": where its transactions begin.
        causal: what `Router.causal()` returned: its sessions and this one see what each other has done; None: an object
            of this session's own, if it starts at a reader.
        after: a Position, or its text, from which on this session reads, in place of *causal*; None: anywhere.
        options: for Session.

    Raises:
        ConfigError: an argument is invalid.
    """

    def __init__(
        self,
        bind: Any = None,
        *,
        start: Literal["writer", "reader"] | Role = "writer",
        causal: Causal[Any] | AsyncCausal[Any] | None = None,
        after: Position | str | None = None,
        **options: Any,
    ) -> None:
        if causal is not None and after is not None:
            raise ConfigError(
                "after", after, "expected either after or causal, which has a position of its own"
            )
        if options.get("binds"):
            raise ConfigError("binds", None, "expected bind, an engine of postgresql+pgroute, and no binds")
        super().__init__(bind, **options)
        self._reads_first = Role.parse(start, "start") is Role.READER
        self._causal = (
            OwnCausal(after) if causal is None and (self._reads_first or after is not None) else causal
        )
        self._on_writer = False
        self._engines: tuple[Engine, Engine] | None = None

    @property
    def position(self) -> Position | None:
        """Up to where this session has written and read, after each of its transactions; None: that is not noted.

        It is noted with ``start="reader"``, *causal* or *after*. To go on elsewhere, hand its text to ``after=`` there.
        """
        return None if self._causal is None else self._causal.position

    def to_writer(self) -> None:
        """Have the rest of the transaction run at the primary: for what writes and does not look like it."""
        self._on_writer = True

    def get_bind(
        self, mapper: Any = None, *, clause: Any = None, bind: Any = None, **kw: Any
    ) -> Engine | Connection:
        """Return the engine of the primary, or that of the standbys; see Session.get_bind."""
        given = super().get_bind(mapper, clause=clause, bind=bind, **kw)
        if bind is not None or not isinstance(given, Engine) or given is not self.bind:
            return given
        if ATTEMPT in given.get_execution_options():
            return given
        if self._engines is None:
            self._engines = self._split(given)
        writer, reader = self._engines
        if self._reads_first and not self._on_writer and not self._flushing and only_reads(clause):
            return reader
        return writer

    def _split(self, engine: Engine) -> tuple[Engine, Engine]:
        dialect_of(engine)
        options: dict[str, Any] = {} if self._causal is None else {CAUSAL: self._causal}
        if not self._reads_first:
            writer = engine.execution_options(**options) if options else engine
            return writer, writer
        writer = engine.execution_options(**options, **{ROLE: Role.WRITER})
        return writer, engine.execution_options(**options, **{ROLE: Role.READER})


# Not in get_bind(): that is called to ask for the dialect too.
@event.listens_for(RoutingSession, "after_begin", propagate=True)
def _stay(session: Session, _: SessionTransaction, connection: Connection) -> None:
    if isinstance(session, RoutingSession):
        engines = session._engines  # noqa: SLF001
        if engines is not None and connection.engine is engines[0]:
            session._on_writer = True  # noqa: SLF001


@event.listens_for(RoutingSession, "after_transaction_end", propagate=True)
def _begin_anew(session: Session, transaction: SessionTransaction) -> None:
    if transaction.parent is None and isinstance(session, RoutingSession):
        session._on_writer = False  # noqa: SLF001
