"""What type checkers see of the classes of Django that pgroute builds on: Django has no annotations. Never imported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import TracebackType


class AppConfig:
    """An application."""

    verbose_name: str


class OperationalError(Exception):
    """Django's error of that name."""


class ErrorWrapper:
    """The wrapper around calls of the driver."""

    def __init__(self, wrapper: Any) -> None: ...
    def __enter__(self) -> None: ...
    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None: ...


class Client:
    """The shell of the backend for PostgreSQL."""

    @classmethod
    def settings_to_cmd_args_env(
        cls, settings_dict: dict[str, Any], parameters: list[str]
    ) -> tuple[list[str], dict[str, str] | None]:
        """See Django's."""
        raise NotImplementedError


class Creation:
    """The test databases of the backend for PostgreSQL."""

    connection: Any

    def _clone_test_db(self, suffix: str, verbosity: int, keepdb: bool = False) -> None: ...
    def _destroy_test_db(self, test_database_name: str, verbosity: int) -> None: ...
    def set_as_test_mirror(self, primary_settings_dict: dict[str, Any]) -> None:
        """See Django's."""


class Features:
    """What the backend for PostgreSQL can do."""

    django_test_skips: dict[str, set[str]]


class Wrapper:
    """The connection of the backend for PostgreSQL."""

    alias: str
    allow_thread_sharing: bool
    autocommit: bool
    errors_occurred: bool
    in_atomic_block: bool
    ops: Any
    settings_dict: dict[str, Any]
    timezone: Any
    timezone_name: Any
    wrap_database_errors: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...
    def close(self) -> None:
        """See Django's."""

    def close_if_health_check_failed(self) -> None:
        """See Django's."""

    def create_cursor(self, name: str | None = None) -> Any:
        """See Django's."""

    def get_connection_params(self: Any) -> dict[str, Any]:
        """See Django's."""
        raise NotImplementedError

    def set_autocommit(
        self, autocommit: bool, force_begin_transaction_with_broken_autocommit: bool = False
    ) -> None:
        """See Django's."""

    def validate_no_atomic_block(self) -> None:
        """See Django's."""

    def _configure_timezone(self, connection: Any) -> bool:
        raise NotImplementedError
