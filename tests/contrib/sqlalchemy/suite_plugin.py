"""A plugin of pytest: makes the dialect known to SQLAlchemy's own tests, under its names for threads and asyncio."""

from __future__ import annotations

from typing import Any

from sqlalchemy.dialects import registry


def pytest_configure() -> None:
    for name, module, cls in (
        ("postgresql.pgroute", "dialect", "PgrouteDialect"),
        ("postgresql.pgroute_async", "async_dialect", "AsyncPgrouteDialect"),
    ):
        registry.register(name, f"pgroute.contrib.sqlalchemy.{module}", cls)

    from pgroute.contrib.sqlalchemy.routed import RoutedDialect

    def load_provisioning(_: type[Any]) -> None:
        # How its tests prepare a database of PostgreSQL.
        import sqlalchemy.dialects.postgresql.provision  # noqa: F401

    RoutedDialect.load_provisioning = classmethod(load_provisioning)  # type: ignore[attr-defined]
