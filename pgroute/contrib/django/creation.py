"""Test databases, which are made and used on the primary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pgroute.contrib.django.routers import close_routers

if TYPE_CHECKING:
    from pgroute.contrib.django.stand_ins import Creation as PostgresCreation
else:
    from django.db.backends.postgresql.creation import DatabaseCreation as PostgresCreation


class DatabaseCreation(PostgresCreation):
    """Makes, copies and drops test databases."""

    def _clone_test_db(self, suffix: str, verbosity: int, keepdb: bool = False) -> None:
        self._disconnect()
        super()._clone_test_db(suffix, verbosity, keepdb)

    def _destroy_test_db(self, test_database_name: str, verbosity: int) -> None:
        self._disconnect()
        super()._destroy_test_db(test_database_name, verbosity)

    def _disconnect(self) -> None:
        """Nobody may be connected to a database that is copied or dropped, by whatever alias or thread."""
        self.connection.close()
        close_routers(self.connection.spec, with_sessions=True)

    def set_as_test_mirror(self, primary_settings_dict: dict[str, Any]) -> None:
        """Have tests that read by this alias see what they have written by the other: both use the primary."""
        super().set_as_test_mirror(primary_settings_dict)
        settings = self.connection.settings_dict
        settings["OPTIONS"] = {**settings["OPTIONS"], "role": "writer"}
