"""The application for INSTALLED_APPS, which registers the system checks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.core.checks import register

from pgroute.contrib.django.checks import check_settings

if TYPE_CHECKING:
    from pgroute.contrib.django.stand_ins import AppConfig
else:
    from django.apps import AppConfig


class PgrouteConfig(AppConfig):
    """Registers the checks of DATABASES, DATABASE_ROUTERS and MIDDLEWARE."""

    name = "pgroute.contrib.django"
    label = "pgroute"
    verbose_name = "pgroute"

    def ready(self) -> None:
        """Called by Django when all applications are loaded."""
        register(check_settings)
