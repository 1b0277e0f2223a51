"""Answers to requests that the database could not serve."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import psycopg
from starlette.responses import JSONResponse

from pgroute.contrib.web.answers import answer_to
from pgroute.core.faults.read_only_host import is_of_read_only_host
from pgroute.core.printable import printable

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request

logger: logging.Logger = logging.getLogger("pgroute")


def add_error_handlers(app: Starlette) -> None:
    """Have an application answer, instead of "500", when a session could not be had or was lost.

    CommitUnknown is 503 "it is not known whether this was done". PositionLost is 409. Any other
    psycopg.OperationalError is 503 with ``Retry-After: 1``, and so is a write of a writer's that a demoted host has
    refused. The error is logged as a WARNING of "pgroute".

    Args:
        app: a Starlette or a FastAPI.
    """
    app.add_exception_handler(psycopg.OperationalError, _answer)
    app.add_exception_handler(psycopg.errors.ReadOnlySqlTransaction, _answer_refused)


async def _answer(request: Request, error: Exception) -> JSONResponse:
    logger.warning("%s %s: %s", request.method, request.url.path, printable(str(error)))
    status, detail, headers = answer_to(error)
    return JSONResponse({"detail": detail}, status, headers)


async def _answer_refused(request: Request, error: Exception) -> JSONResponse:
    if not is_of_read_only_host(error):
        raise error
    return await _answer(request, error)
