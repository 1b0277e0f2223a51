"""Makes the bytes of COPY of rows, and rows of the bytes, by psycopg's adapters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg

from pgroute._async.statements import encoding_of
from pgroute.core.copying import check_halves, check_row, has_half_backslashes
from pgroute.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from psycopg.abc import Buffer
    from psycopg.pq.abc import PGresult


class AsyncRowWriter:
    """Makes the bytes of one COPY FROM.

    Args:
        conn: whose adapters and encoding are used.
        result: with which the COPY has begun.
        binary: whether it is the binary format.
        types: of the columns, as names or oids; None: each value is dumped as what it is.

    Attributes:
        taken: the number of rows so far.

    Raises:
        ConfigError: a type is not known, or there is another number of columns.
    """

    __slots__ = ("_codec", "_dump", "_end", "_known", "taken")

    def __init__(
        self,
        conn: psycopg.AsyncConnection[Any],
        result: PGresult,
        *,
        binary: bool,
        types: Sequence[str | int] | None,
    ) -> None:
        formatter = _formatter(conn, binary=binary)
        if types is not None:
            formatter.transformer.set_dumper_types(_oids(conn, result, types), formatter.format)
        self.taken = 0
        self._known: set[type] = set()
        self._dump: Callable[[Any], Buffer] = formatter.write_row
        self._end: Callable[[], Buffer] = formatter.end
        codec = encoding_of(conn)
        self._codec = codec if not binary and has_half_backslashes(codec) else ""

    def add(self, row: Any) -> Buffer:
        """Return the bytes of some rows, or none, as they are kept until there are more.

        Raises:
            ConfigError: it is no row, or a row cannot be text in this client encoding.
            psycopg.Error: a value cannot be dumped.
        """
        self.taken += 1
        if type(row) not in self._known:
            self._known.add(check_row(row, self.taken))
        try:
            data = self._dump(row)
        except Exception as exc:
            exc.add_note(f"in row {self.taken} of the source")
            raise
        return self._checked(data) if self._codec else data

    def end(self) -> Buffer:
        """Return the last bytes.

        Raises:
            ConfigError: a row cannot be text in this client encoding.
        """
        data = self._end()
        return self._checked(data) if self._codec else data

    def _checked(self, data: Buffer) -> Buffer:
        check_halves(self._codec, bytes(data), self.taken)
        return data


def row_reader(
    conn: psycopg.AsyncConnection[Any],
    result: PGresult,
    *,
    binary: bool,
    types: Sequence[str | int] | None,
) -> Callable[[Buffer], tuple[Any, ...] | None]:
    """Return a function that makes a row of the bytes of COPY TO; None: there is none in them.

    Args:
        conn: whose adapters and encoding are used.
        result: with which the COPY has begun.
        binary: whether it is the binary format.
        types: of the columns, as names or oids; None: values are text, or bytes in the binary format.

    Raises:
        ConfigError: a type is not known, or there is another number of columns. That function raises it for a row that
            cannot be text in this client encoding.
    """
    formatter = _formatter(conn, binary=binary)
    formatter.transformer.set_pgresult(result)
    if types is not None:
        formatter.transformer.set_loader_types(_oids(conn, result, types), formatter.format)
    parse: Callable[[Buffer], tuple[Any, ...] | None] = formatter.parse_row
    codec = encoding_of(conn)
    if binary or not has_half_backslashes(codec):
        return parse

    def check_and_parse(data: Buffer) -> tuple[Any, ...] | None:
        check_halves(codec, bytes(data))
        return parse(data)

    return check_and_parse


def _formatter(conn: psycopg.AsyncConnection[Any], *, binary: bool) -> Any:
    return psycopg.AsyncCopy(psycopg.AsyncCursor(conn), binary=binary).formatter


def _oids(conn: psycopg.AsyncConnection[Any], result: PGresult, types: Sequence[str | int]) -> list[int]:
    if len(types) != result.nfields:
        raise ConfigError("types", types, f"expected {result.nfields}, one for each column")
    registry = conn.adapters.types
    try:
        return [oid if isinstance(oid, int) else registry.get_oid(oid) for oid in types]
    except KeyError:
        accepted = "expected oids, or names of types that psycopg knows on this connection"
        raise ConfigError("types", types, accepted) from None
