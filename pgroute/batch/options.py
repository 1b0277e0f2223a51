"""Validates the options of a job, and decides which errors set a chunk aside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import psycopg

from pgroute.batch.source import Keyset, check_source, signature
from pgroute.core.callables import is_coroutine_function
from pgroute.core.config.checks import check_integer, check_name
from pgroute.core.config.retry_policy import check_policy
from pgroute.core.faults.classify import SHORTAGES
from pgroute.core.late_dataclass import dataclass
from pgroute.core.printable import printable
from pgroute.errors import ConfigError, RouteError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgroute.batch.source import Source
    from pgroute.core.config.retry_policy import RetryPolicy

_RERUN = frozenset({"40001", "40P01", "25006"})
# Connection exceptions, insufficient resources, operator intervention, system errors: not caused by the data.
_SERVER_STATE = ("08", "53", "57P", "58")
# A lock or statement timeout: another session may have caused it.
_TIMEOUTS = frozenset({"55P03", "57014"})
_ABORTED = "25P02"
"""An earlier statement of the transaction has failed: the body has hidden why, if that error is not told with it."""
_NO_THREAD = "can't start new thread"
"""The text of the RuntimeError for which Python has no class of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOptions:
    """The validated options of a job; see BatchJob."""

    name: str
    source: Source
    chunk_size: int
    workers: int
    on_error: Literal["stop", "reject"]
    retry: RetryPolicy | None


def check_job(
    name: Any, source: Any, *, chunk_size: Any, workers: Any, most_workers: int, on_error: Any, retry: Any
) -> JobOptions:
    """Validate the arguments of BatchJob; *most_workers* is the maximum size of the writer pool.

    Raises:
        ConfigError: a value is invalid.
    """
    check_name("job", name)
    check_source(source)
    check_integer("chunk_size", chunk_size, low=1)
    check_integer("workers", workers, low=1)
    if workers > most_workers:
        accepted = (
            f"expected at most {most_workers}: each needs a connection, see writer=PoolOptions(max_size=...)"
        )
        raise ConfigError("workers", workers, accepted)
    given: object = on_error
    if not isinstance(given, str) or given not in ("stop", "reject"):
        raise ConfigError("on_error", on_error, "expected 'stop' or 'reject'")
    check_policy(retry)
    return JobOptions(
        name=name, source=source, chunk_size=chunk_size, workers=workers, on_error=on_error, retry=retry
    )


def check_progress(progress: object) -> None:
    """Raise ConfigError unless *progress* is None, True, False or a plain callable."""
    good = progress is None or isinstance(progress, bool) or callable(progress)
    if not good or is_coroutine_function(progress):
        raise ConfigError(
            "progress", progress, "expected True, None or a plain callable, not a coroutine function"
        )


def check_encoding(codec: str) -> None:
    """Raise ConfigError for a client encoding that may change a key on the way."""
    if codec.startswith("shift_jis"):
        accepted = (
            "expected another encoding for a Keyset, such as UTF8: this one sends a yen sign as a backslash"
        )
        raise ConfigError("client_encoding", codec, accepted)


def check_columns(keyset: Keyset, columns: Sequence[str]) -> None:
    """Raise ConfigError unless each key names exactly one column of the query."""
    for name in keyset.keys:
        count = columns.count(name)
        if count != 1:
            found = "no column" if count == 0 else f"{count} columns"
            shown = printable(", ".join(columns))
            raise ConfigError("key", keyset.key, f"the query has {found} named {name!r} (columns: {shown})")


def check_portable(keyset: Keyset, name: str, varying: str) -> None:
    """Raise ConfigError for a key column if *varying*, a type in it that sessions read differently, is not empty."""
    if varying:
        accepted = (
            "expected keys whose text is the same to every session, and the column "
            f"{name!r} has the type {varying}: cast it in the query (money::numeric, regclass::oid)"
        )
        raise ConfigError("key", keyset.key, accepted)


def check_same(options: JobOptions, types: Sequence[str], stored_source: str, stored_size: int) -> None:
    """Raise ConfigError if a job of this name was started with another source or chunk_size."""
    advice = "choose another name, or reset the existing job: pgroute batch reset DSN JOB"
    if stored_size != options.chunk_size:
        raise ConfigError(
            "chunk_size",
            options.chunk_size,
            f"the job {options.name!r} was started with chunk_size={stored_size}; {advice}",
        )
    given = signature(options.source, types)
    if stored_source != given:
        raise ConfigError(
            "source",
            given,
            f"the job {options.name!r} was started with the source {printable(stored_source)!r}; {advice}",
        )


def belongs_to_chunk(exc: BaseException, outside: BaseException | None = None) -> bool:
    """Whether a chunk itself causes an error, so that another attempt would fail in the same way.

    The connection must still be intact. Errors of the router, errors that are retried, errors about the server's
    state, and shortages of this process or machine are not the chunk's, wherever a traceback would show them: as the
    reason of an error of the body's own, or in a group.

    Args:
        exc: the error.
        outside: what was being handled when the body was called, which Python shows as a reason too; None: nothing.
    """
    pending, seen = [exc], {id(outside)}
    while pending:
        error = pending.pop()
        if id(error) in seen:
            continue
        seen.add(id(error))
        state = (error.sqlstate or "") if isinstance(error, psycopg.Error) else ""
        if (
            not isinstance(error, Exception)
            or isinstance(error, (RouteError, ConfigError))
            or _is_shortage(error)
            or state in _RERUN
            or state in _TIMEOUTS
            or state.startswith(_SERVER_STATE)
        ):
            return False
        reason = error.__cause__
        if reason is None and not error.__suppress_context__:
            reason = error.__context__
        if reason is outside:
            reason = None
        if state == _ABORTED and not isinstance(reason, psycopg.Error):
            return False
        if reason is not None:
            pending.append(reason)
        if isinstance(error, ExceptionGroup):
            pending += error.exceptions
    return True


def _is_shortage(exc: Exception) -> bool:
    """Whether memory, descriptors, space on a disk or threads are lacking."""
    if isinstance(exc, OSError):
        return exc.errno in SHORTAGES
    return isinstance(exc, MemoryError) or (isinstance(exc, RuntimeError) and _NO_THREAD in str(exc))
