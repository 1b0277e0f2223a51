"""A FastAPI application for any server: `uvicorn --workers 2`, or gunicorn with `-k uvicorn_worker.UvicornWorker`."""

from __future__ import annotations

import os
from typing import Any

from fastapi import FastAPI

from pgroute.contrib.fastapi import Writer, lifespan

app = FastAPI(lifespan=lifespan(os.environ["DATABASE_URL"]))


@app.get("/")
async def index(conn: Writer) -> dict[str, Any]:
    """Answer with the process and its session."""
    return {"pid": os.getpid(), "backend": conn.info.backend_pid}
