"""What the backend can do: what Django's own can."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.utils.functional import cached_property

if TYPE_CHECKING:
    from pgroute.contrib.django.stand_ins import Features as PostgresFeatures
else:
    from django.db.backends.postgresql.features import DatabaseFeatures as PostgresFeatures

_POOL = "backends.postgresql.tests.Tests"
_HEALTH = "backends.base.test_base.ConnectionHealthChecksTests"


class DatabaseFeatures(PostgresFeatures):
    """The features of Django's own backend."""

    @cached_property
    def django_test_skips(self) -> dict[str, set[str]]:
        """Tests of Django's that do not apply, by reason."""
        skips: dict[str, Any] = dict(super().django_test_skips)
        skips["Connections are kept in pools, not from request to request (CONN_MAX_AGE)."] = {
            "servers.tests.LiveServerTestCloseConnectionTest.test_closes_connections",
            f"{_HEALTH}.test_health_checks_enabled",
            f"{_HEALTH}.test_health_checks_enabled_errors_occurred",
            f"{_HEALTH}.test_health_checks_disabled",
            f"{_HEALTH}.test_set_autocommit_health_checks_enabled",
        }
        skips["Django's own pool is refused."] = {
            f"{_POOL}.test_connect_pool",
            f"{_POOL}.test_connect_pool_set_to_true",
            f"{_POOL}.test_connect_pool_with_timezone",
            f"{_POOL}.test_pooling_health_checks",
            f"{_POOL}.test_pooling_not_support_persistent_connections",
        }
        return skips
