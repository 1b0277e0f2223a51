"""The database router: which alias a query uses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db import DEFAULT_DB_ALIAS, connections
from django.db.utils import load_backend

from pgroute.core.model.roles import Role

if TYPE_CHECKING:
    from collections.abc import Mapping


def is_ours(settings: Mapping[str, Any]) -> bool:
    """Return whether an entry of DATABASES has this backend, or a subclass of it.

    Raises:
        ImportError: its backend cannot be loaded.
        ImproperlyConfigured: likewise.
    """
    # Not before it is called: the settings may name this package.
    from pgroute.contrib.django.base import DatabaseWrapper

    return issubclass(load_backend(settings["ENGINE"]).DatabaseWrapper, DatabaseWrapper)


def reading(settings: Mapping[str, Any]) -> bool:
    """Return whether an entry of DATABASES is for reading."""
    return settings["OPTIONS"].get("role") in ("reader", Role.READER) and is_ours(settings)


class ReadReplicaRouter:
    """Sends reads to an alias of role reader, and the rest to the writer.

    A thread that has a connection of the writer reads there too, until the connection is given back at the end of the
    request. So everything in atomic() is on the writer, and a request sees what it has written.

    Make a subclass for other aliases. Queries on instances of other aliases are left to the next router.

    Attributes:
        writer: the alias for writing.
        reader: the alias for reading; None: the first one whose OPTIONS say ``"role": "reader"``.
    """

    writer: str = DEFAULT_DB_ALIAS
    reader: str | None = None

    def db_for_read(self, model: type[Any], **hints: Any) -> str | None:
        """Return the alias for a query that reads; None: the next router decides.

        Args:
            model: whose rows are read.
            hints: from Django, such as the instance that they belong to.
        """
        if self._foreign(hints):
            return None
        writer, reader = connections[self.writer], self._reader()
        if writer.connection is not None or writer.in_atomic_block:
            return self.writer
        # In tests, the alias for reading mirrors the writer.
        return self.writer if reader is None or not reading(connections.settings[reader]) else reader

    def db_for_write(self, model: type[Any], **hints: Any) -> str | None:
        """Return the alias for a query that writes; None: the next router decides.

        Args:
            model: whose rows are written.
            hints: as above.
        """
        return None if self._foreign(hints) else self.writer

    def allow_relation(self, obj1: Any, obj2: Any, **hints: Any) -> bool | None:
        """Return True for two instances of these aliases, which are of one database; None: the next router decides.

        Args:
            obj1: an instance.
            obj2: another.
            hints: from Django.
        """
        ours = {self.writer, self._reader()}
        return True if obj1._state.db in ours and obj2._state.db in ours else None

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool | None:
        """Return False for the alias for reading; None: the next router decides.

        Args:
            db: the alias.
            app_label: of the application to migrate.
            hints: from Django.
        """
        return False if db == self._reader() and db != self.writer else None

    def _foreign(self, hints: Mapping[str, Any]) -> bool:
        instance = hints.get("instance")
        return instance is not None and instance._state.db not in (None, self.writer, self._reader())

    def _reader(self) -> str | None:
        if self.reader is None:
            found = (alias for alias, settings in connections.settings.items() if reading(settings))
            self.reader = next(found, None)
        return self.reader
