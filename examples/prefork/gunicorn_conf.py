"""Hooks of gunicorn for plain.py: `gunicorn --config gunicorn_conf.py plain:application`, with or without --preload."""

from __future__ import annotations

from typing import Any

workers = 2


def post_fork(server: Any, worker: Any) -> None:  # noqa: ARG001  (as gunicorn calls it)
    """Open the router of a new worker."""
    from plain import router

    router.open()


def worker_exit(server: Any, worker: Any) -> None:  # noqa: ARG001  (as gunicorn calls it)
    """Close it: sessions in flight have 5 s."""
    from plain import router

    router.close()
