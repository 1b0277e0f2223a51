"""Test databases, which are made and used on the primary."""

from __future__ import annotations

from typing import Any

from django.db.backends.postgresql.creation import DatabaseCreation as PostgresCreation


class DatabaseCreation(PostgresCreation):
    """Makes, copies and drops test databases."""

    def set_as_test_mirror(self, primary_settings_dict: dict[str, Any]) -> None:
        """Have tests that read by this alias see what they have written by the other: both use the primary."""
        super().set_as_test_mirror(primary_settings_dict)
        settings = self.connection.settings_dict
        settings["OPTIONS"] = {**settings["OPTIONS"], "role": "writer"}
