# Generated from pgroute/_async/copying/api.py by .ci/unasync.py: edit that file, not this one.
"""The part of a router that copies tables in and out. What does the copying is imported when it is first used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Literal, Unpack

from psycopg_pool.abc import CT

from pgroute._sync.alone import Alone
from pgroute._sync.transaction.runner import run_function
from pgroute.errors import ConfigError
from pgroute.runtime.fork import forked

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from psycopg import sql
    from psycopg.abc import QueryNoTemplate as Query

    from pgroute._sync.copying.stream import CopyStream
    from pgroute._sync.manager import SessionManager
    from pgroute.core.copying import CopySource, CopyTarget
    from pgroute.core.model.copying import CopyInOptions, CopyOutOptions, CopyProgress
    from pgroute.core.model.roles import Role

    Params = Sequence[Any] | Mapping[str, Any] | None


class Copying(Generic[CT]):
    """The part of a router that copies tables in and out."""

    _manager: SessionManager[CT]

    def copy_to_table(
        self,
        table: str | tuple[str, ...] | sql.Identifier,
        source: CopySource,
        *,
        columns: Sequence[str] | None = None,
        where: str | sql.Composable | None = None,
        types: Sequence[str | int] | None = None,
        role: Literal["writer", "reader"] | Role = "writer",
        timeout: float | None = None,
        once: str | bool | None = None,
        progress: Callable[[CopyProgress], object] | None = None,
        **options: Unpack[CopyInOptions],
    ) -> int:
        """Copy rows or a file into a table, by COPY FROM in a transaction of its own; return the number of rows.

        All of it is committed, or nothing. It is run again as `run()` would run it if the source can be read again: a
        container such as a list, a path, a file that can seek, a function. From other iterables and pipes it is run
        again only if nothing was taken from them. A connection that is lost after the end of the data was sent is a
        CommitUnknown, except with *once*.

        The memory that it takes does not depend on the size of the source.

        Args:
            table: "table", "schema.table", a tuple of these names, or a psycopg.sql.Identifier; case matters.
            source: an iterable of rows, which are sequences of values; one of bytes as COPY reads them; a file, opened
                in binary mode or as text; a path; or a function without arguments that returns one of these, and is
                called for each attempt. The asynchronous router takes asynchronous iterables and files, and coroutine
                functions, too. What you have opened you close; generators are closed here.
            columns: the names of the columns; None: all.
            where: a condition in SQL; rows for which it is not true are left out.
            types: with rows: the types of the columns, as names or oids; needed where format="binary" and the type of a
                value is not that of its column. None: values are sent as what they are.
            role: "writer" or "reader".
            timeout: seconds in which attempts begin; None: the limit of the policy, and acquire_timeout for each
                session. A copy under way is not interrupted.
            once: as in `run()`; a later call with the key returns the number of rows of the first.
            progress: called with a CopyProgress when a part of the data was sent; it must not block.
            options: of COPY, see CopyInOptions. With rows, only *format* ("text" or "binary") and those about errors.

        Raises:
            ConfigError: an argument is invalid, an item of the source is no row, or a function has returned what was
                read already; nothing was committed.
            NoHostAvailable, PoolExhausted, SplitBrainError: there was no session in time.
            RouterClosed: the router is not open.
            SessionLost: the connection was lost before the end of the data, and the copy is not run again.
            CommitUnknown: it was lost after that, or no synchronous standby has confirmed the commit.
            psycopg.Error: the server's error; nothing was committed.
            Exception: that of the source or of *progress*; nothing was committed.
        """
        with forked.importing:
            from pgroute._sync.copying.copy_in import CopyIn

        manager = self._manager
        request = manager.request(role, timeout=timeout)
        work = CopyIn(table, source, columns, dict(options), where=where, types=types, progress=progress)
        rows: int | None = None
        try:
            try:
                work.source.open()
                if once is None or once is False:
                    rows = Alone(manager, request, timeout).run(work)
                else:
                    rows = run_function(
                        manager,
                        work.copy_once,
                        (),
                        role=role,
                        timeout=timeout,
                        retry=None,
                        once=once,
                        isolation=None,
                        read_only=None,
                        deferrable=None,
                    )
                    if work.verdict is not None:
                        raise work.verdict
                return rows
            finally:
                work.close()
        except BaseException as exc:
            if rows is not None:
                exc.add_note("the copy was committed")
            raise

    def copy_from(
        self,
        query_or_table: Query | tuple[str, ...] | sql.Identifier,
        target: CopyTarget,
        *,
        params: Params = None,
        columns: Sequence[str] | None = None,
        role: Literal["writer", "reader"] | Role = "reader",
        timeout: float | None = None,
        progress: Callable[[CopyProgress], object] | None = None,
        **options: Unpack[CopyOutOptions],
    ) -> int:
        """Copy a table, or the rows of a query, to a file, path or function, by COPY TO; return the number of rows.

        A path gets all of the data or nothing: they are written beside it, and take its place in the end. If the copy
        fails, a file that can seek is cut where it was before. It is run again as `run()` would run it, from the start
        of the target. A function, and a file that cannot seek, are not given anything twice: once they have got
        something, it is not run again.

        What a query of a writer writes is committed when the target has all of the data. If it is not known whether it
        was committed, the target keeps them.

        Args:
            query_or_table: a query; or a table, as "table", "schema.table", a tuple of these names, or a
                psycopg.sql.Identifier. A text is a query if it has white space, brackets, quotes, commas or asterisks.
            target: a path; a file, opened in binary mode or as text; or a function of one argument, bytes, of whole
                rows. The asynchronous router takes coroutine functions and asynchronous files too.
            params: the values of the query's placeholders; None: it has none.
            columns: the names of the table's columns; None: all.
            role: "reader" or "writer".
            timeout: seconds in which attempts begin; None: the limit of the policy, and acquire_timeout for each
                session. A copy under way is not interrupted.
            progress: called with a CopyProgress when a part of the data was written; it must not block.
            options: of COPY, see CopyOutOptions.

        Raises:
            ConfigError: an argument is invalid, or the target takes nothing.
            OSError: the target cannot be written. If its rows may be nowhere else, a note names the file that has them.
            NoHostAvailable, PoolExhausted, SplitBrainError: there was no session in time.
            RouterClosed: the router is not open.
            SessionLost: the connection was lost, and the copy is not run again.
            CommitUnknown: the connection was lost during the COMMIT of a writer's query, or no synchronous standby has
                confirmed it.
            psycopg.Error: the server's error.
            Exception: that of the target or of *progress*; nothing was committed.
        """
        with forked.importing:
            from pgroute._sync.copying.copy_out import CopyOut, Extract

        manager = self._manager
        request = manager.request(role, timeout=timeout)
        extract = Extract(query_or_table, params, columns, dict(options))
        work = CopyOut(extract, target, dict(options), progress)
        try:
            work.target.open()
            return Alone(manager, request, timeout).run(work)
        except BaseException:
            work.target.take_back()
            raise
        finally:
            work.target.close()

    def copy_rows(
        self,
        query_or_table: Query | tuple[str, ...] | sql.Identifier,
        *,
        params: Params = None,
        columns: Sequence[str] | None = None,
        types: Sequence[str | int] | None = None,
        format: Literal["text", "binary"] = "text",  # noqa: A002  (as COPY calls it)
        role: Literal["writer", "reader"] | Role = "reader",
        timeout: float | None = None,
    ) -> CopyStream[tuple[Any, ...]]:
        """Return a context manager that yields an iterator over the rows of a table or query, as tuples, by COPY TO.

        Args:
            query_or_table: as for `copy_from`.
            params: the values of the query's placeholders; None: it has none.
            columns: the names of the table's columns; None: all.
            types: the types of the columns, as names or oids; None: values are text, or bytes in the binary format.
            format: "text" or "binary", as which the server sends the values.
            role: "reader" or "writer".
            timeout: seconds to begin in; None: the limit of the policy, and acquire_timeout for each session.

        Raises:
            ConfigError: an argument is invalid.
        """
        with forked.importing:
            from pgroute._sync.copying.copy_out import Extract
            from pgroute._sync.copying.stream import CopyStream
            from pgroute.core.copying import check_types

        check_types(types)
        given: object = format
        if not isinstance(given, str) or given not in ("text", "binary"):
            raise ConfigError("format", format, "expected 'text' or 'binary'; others have copy_chunks()")
        request = self._manager.request(role, timeout=timeout)
        extract = Extract(query_or_table, params, columns, {"format": format})
        return CopyStream(self._manager, request, timeout, extract, rows=True, types=types)

    def copy_chunks(
        self,
        query_or_table: Query | tuple[str, ...] | sql.Identifier,
        *,
        params: Params = None,
        columns: Sequence[str] | None = None,
        role: Literal["writer", "reader"] | Role = "reader",
        timeout: float | None = None,
        **options: Unpack[CopyOutOptions],
    ) -> CopyStream[bytes]:
        """Return a context manager that yields an iterator over a table or query as bytes, of whole rows, by COPY TO.

        Args:
            query_or_table: as for `copy_from`.
            params: the values of the query's placeholders; None: it has none.
            columns: the names of the table's columns; None: all.
            role: "reader" or "writer".
            timeout: seconds to begin in; None: the limit of the policy, and acquire_timeout for each session.
            options: of COPY, see CopyOutOptions.

        Raises:
            ConfigError: an argument is invalid.
        """
        with forked.importing:
            from pgroute._sync.copying.copy_out import Extract
            from pgroute._sync.copying.stream import CopyStream

        request = self._manager.request(role, timeout=timeout)
        extract = Extract(query_or_table, params, columns, dict(options))
        return CopyStream(self._manager, request, timeout, extract, rows=False)
