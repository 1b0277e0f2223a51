"""`manage.py dbshell`: psql at a host of the alias's role."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pgroute.contrib.django.stand_ins import Client as PostgresClient
else:
    from django.db.backends.postgresql.client import DatabaseClient as PostgresClient

_ATTRS = {"reader": "prefer-standby"}


class DatabaseClient(PostgresClient):
    """Starts psql."""

    @classmethod
    def settings_to_cmd_args_env(
        cls, settings_dict: dict[str, Any], parameters: list[str]
    ) -> tuple[list[str], dict[str, str]]:
        """Return the command and its environment."""
        args, env = super().settings_to_cmd_args_env(settings_dict, parameters)
        attrs = _ATTRS.get(settings_dict["OPTIONS"].get("role", "writer"), "read-write")
        return args, {**(env or {}), "PGTARGETSESSIONATTRS": attrs}
