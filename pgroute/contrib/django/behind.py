"""The way from an alias to the router behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.core.exceptions import ImproperlyConfigured
from django.db import connections

if TYPE_CHECKING:
    from pgroute._sync.router import Router


def get_router(alias: str = "default") -> Router[Any]:
    """Return the router behind an alias, open, for what Django has no words for: `run(once=)`, `listen()`, COPY, batch.

    Its connections are as Django's backend has them: jsonb is returned as text, parameters are merged into the
    statement by the client. A session of it is no part of a transaction of the alias.

    Args:
        alias: of DATABASES, with this backend.

    Raises:
        django.core.exceptions.ImproperlyConfigured: the alias has another backend, or an invalid setting.
        django.utils.connection.ConnectionDoesNotExist: there is no such alias.
    """
    # Not before it is called: the settings may name this package.
    from pgroute.contrib.django.base import DatabaseWrapper

    connection = connections[alias]
    if not isinstance(connection, DatabaseWrapper):
        raise ImproperlyConfigured(f"the ENGINE of the alias {alias!r} is not 'pgroute.contrib.django'")
    return connection.router
