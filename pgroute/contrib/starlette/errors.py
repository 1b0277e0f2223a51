"""Answers to requests that the database could not serve."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import psycopg
from starlette.responses import JSONResponse

from pgroute.contrib.web.answers import answer_to
from pgroute.core.printable import printable

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request

logger: logging.Logger = logging.getLogger("pgroute")


def add_error_handlers(app: Starlette) -> None:
    """Have an application answer, instead of "500", when a session could not be had or was lost.

    CommitUnknown is 503 "it is not known whether this was done". PositionLost is 409. Any other
    psycopg.OperationalError is 503 with ``Retry-After: 1``. The error is logged as a WARNING of "pgroute".

    Args:
        app: a Starlette or a FastAPI.
    """
    app.add_exception_handler(psycopg.OperationalError, _answer)


async def _answer(request: Request, error: Exception) -> JSONResponse:
    logger.warning("%s %s: %s", request.method, request.url.path, printable(str(error)))
    status, detail, headers = answer_to(error)
    return JSONResponse({"detail": detail}, status, headers)
