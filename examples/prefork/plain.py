"""A WSGI application without a framework, for servers that fork their workers.

The router may be made before the fork, but is opened behind it: by a hook of the server (gunicorn_conf.py), or here for
uWSGI. The database is that of DATABASE_URL.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pgroute

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment

router = pgroute.Router(os.environ["DATABASE_URL"])

try:
    from uwsgidecorators import postfork
except ImportError:  # another server
    pass
else:
    postfork(router.open)


def application(_: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer with the process and its session."""
    with router.writer() as conn:
        told = {"pid": os.getpid(), "backend": conn.info.backend_pid}
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(told).encode()]
