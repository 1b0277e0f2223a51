"""The dialect ``postgresql+pgroute`` of `create_engine`, which knows that of `create_async_engine`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

from pgroute._sync import ending
from pgroute._sync.opening import begin_and_execute
from pgroute._sync.router import Router
from pgroute.contrib.sqlalchemy.async_dialect import AsyncPgrouteDialect
from pgroute.contrib.sqlalchemy.routed import RoutedDialect

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import URL

    from pgroute._async.router import AsyncRouter


class PgrouteDialect(RoutedDialect, PGDialect_psycopg):
    """The dialect of `create_engine`."""

    router_class: type[Router[Any] | AsyncRouter[Any]] = Router
    ending = ending
    begin_and_execute: Callable[[Any, Any, str, Any], None] = staticmethod(begin_and_execute)
    supports_statement_cache = True

    @classmethod
    def get_async_dialect_cls(cls, url: URL) -> type[Any]:  # noqa: ARG003
        return AsyncPgrouteDialect
