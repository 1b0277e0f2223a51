"""A Flask application for any server; its first request in each process opens the router."""

from __future__ import annotations

import os
from typing import Any

from flask import Flask

from pgroute.contrib.flask import PGRoute

app = Flask(__name__)
db = PGRoute(app, os.environ["DATABASE_URL"])


@app.get("/")
def index() -> dict[str, Any]:
    """Answer with the process and its session."""
    with db.writer() as conn:
        return {"pid": os.getpid(), "backend": conn.info.backend_pid}
