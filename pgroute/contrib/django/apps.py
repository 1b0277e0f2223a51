"""The application for INSTALLED_APPS, which registers the system checks."""

from __future__ import annotations

from django.apps import AppConfig
from django.core.checks import register

from pgroute.contrib.django.checks import check_settings


class PgrouteConfig(AppConfig):
    """Registers the checks of DATABASES, DATABASE_ROUTERS and MIDDLEWARE."""

    name = "pgroute.contrib.django"
    label = "pgroute"
    verbose_name = "pgroute"

    def ready(self) -> None:
        """Called by Django when all applications are loaded."""
        register(check_settings)
