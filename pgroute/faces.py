"""What can be asked of a router whether it is a Router or an AsyncRouter."""

from __future__ import annotations

from typing import Any

from pgroute._async.router import AsyncRouter
from pgroute._async.router import manager_of as async_manager_of
from pgroute._sync.router import Router, manager_of

AnyRouter = Router[Any] | AsyncRouter[Any]


def manager_behind(router: AnyRouter) -> Any:
    """Return what is behind a router of either face."""
    return async_manager_of(router) if isinstance(router, AsyncRouter) else manager_of(router)
