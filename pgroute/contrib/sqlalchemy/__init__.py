"""SQLAlchemy over a router: the dialect ``postgresql+pgroute``, sessions that route, transactions that run again."""

from pgroute.contrib.sqlalchemy.engines import async_router_engine, router_engine, router_of
from pgroute.contrib.sqlalchemy.retrying import async_run_in_session, run_in_session
from pgroute.contrib.sqlalchemy.session import RoutingSession

__all__ = [
    "RoutingSession",
    "async_router_engine",
    "async_run_in_session",
    "router_engine",
    "router_of",
    "run_in_session",
]
