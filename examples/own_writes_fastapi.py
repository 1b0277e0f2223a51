"""A web application with FastAPI whose users see what they have written: `python examples/own_writes_fastapi.py [DSN]`.

Without a DSN it starts a throw-away cluster on this machine, whose standbys are two seconds late. In the database of a
DSN it makes the table pgroute_web_note, which stays.
"""

from __future__ import annotations

import argparse
import logging
import os
import secrets
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

import psycopg
import uvicorn
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from itsdangerous import BadSignature, TimestampSigner
from pydantic import BaseModel, Field

import pgroute
from pgroute.testing import LocalCluster

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.middleware.base import RequestResponseEndpoint

HOST = "127.0.0.1"
PATIENCE = 3.0
"""Seconds for a request to get a session."""

COOKIE = "position"
COOKIE_AGE = 600
"""Seconds after which the cookie is worthless: longer than any standby lags that is used."""

USAGE = """\
to try in another terminal:

  curl -c cookies -b cookies {url}/notes -H 'Content-Type: application/json' -d '{{"text": "tea"}}'
  curl -c cookies -b cookies {url}/notes    # the note is there
  curl {url}/notes                          # for another user it may not be there yet
"""

Causal = pgroute.AsyncCausal[psycopg.AsyncConnection[Any]]
logger = logging.getLogger("notes")
api = APIRouter()


def begin(router: pgroute.AsyncRouter, signer: TimestampSigner, cookie: str) -> Causal:
    """Return the sessions of one request; they go on where the user's last request has ended."""
    try:
        return router.causal(after=signer.unsign(cookie, max_age=COOKIE_AGE).decode())
    except (BadSignature, pgroute.ConfigError):
        # None, a forged or an old one, or one of another cluster.
        return router.causal()


def remember(response: Response, signer: TimestampSigner, causal: Causal) -> None:
    """Hand out the cookie for the user's next request."""
    if causal.position is None:
        response.delete_cookie(COOKIE)
        return
    value = signer.sign(str(causal.position)).decode()
    # Where the browser speaks TLS, also: secure=True.
    response.set_cookie(COOKIE, value, max_age=COOKIE_AGE, httponly=True, samesite="lax")


async def carry_position(request: Request, call_next: RequestResponseEndpoint) -> Response:
    """Cookie in, cookie out."""
    state = request.state
    state.causal = begin(state.router, state.signer, request.cookies.get(COOKIE, ""))
    response = await call_next(request)
    remember(response, state.signer, state.causal)
    return response


def get_causal(request: Request) -> Causal:
    """Return the sessions of this request."""
    causal: Causal = request.state.causal
    return causal


CausalOfRequest = Annotated[Causal, Depends(get_causal)]


class NewNote(BaseModel):
    """What a user writes: printable text."""

    text: str = Field(min_length=1, max_length=200, pattern=r"^\P{C}+$")


@api.post("/notes", status_code=201)
async def write_note(note: NewNote, causal: CausalOfRequest) -> dict[str, Any]:
    """Write a note, on the primary."""
    async with causal.writer() as conn:
        await conn.execute("INSERT INTO pgroute_web_note (text) VALUES (%s)", (note.text,))
        return {"text": note.text, "written_to": conn.info.port}


@api.get("/notes")
async def list_notes(causal: CausalOfRequest) -> dict[str, Any]:
    """Return the last notes, from a standby that has those of this user, else from the primary."""
    async with causal.reader() as conn:
        cursor = await conn.execute("SELECT text FROM pgroute_web_note ORDER BY id DESC LIMIT 20")
        notes = [text for (text,) in await cursor.fetchall()]
        return {"notes": notes, "read_from": conn.info.port}


async def position_lost(request: Request, error: Exception) -> JSONResponse:
    """Answer when a failover has lost what the user has written or seen."""
    # The next request begins anew: remember() deletes the cookie. This one was not done.
    logger.warning("%s %s: %s", request.method, request.url.path, error)
    request.state.causal = request.state.router.causal()
    told = "your last change may be lost: look at the notes, then send this again"
    return JSONResponse({"error": told}, 409)


async def not_served(request: Request, error: Exception) -> JSONResponse:
    """Answer when there was no session, or it was lost. fastapi_app.py tells more, and repeats safely."""
    logger.warning("%s %s: %s", request.method, request.url.path, error)
    told = "this may not be done: look at the notes, then send it again"
    return JSONResponse({"error": told}, 503, {"Retry-After": "1"})


def make_app(dsn: str, secret: str) -> FastAPI:
    """Return the application.

    Args:
        dsn: of the cluster.
        secret: signs the cookie; the same in each process.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
        async with pgroute.AsyncRouter(dsn, acquire_timeout=PATIENCE) as router:
            yield {"router": router, "signer": TimestampSigner(secret, salt="position")}

    app = FastAPI(title="notes", lifespan=lifespan)
    app.include_router(api)
    app.middleware("http")(carry_position)
    app.add_exception_handler(pgroute.PositionLost, position_lost)
    app.add_exception_handler(psycopg.OperationalError, not_served)
    return app


def set_up(dsn: str) -> None:
    """Make the table unless it is there, as a migration does before the application is started."""
    with pgroute.Router(dsn, acquire_timeout=PATIENCE) as router, router.writer() as conn:
        conn.execute(
            "CREATE TABLE IF NOT EXISTS pgroute_web_note"
            " (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, text text NOT NULL)"
        )


def serve(dsn: str, port: int) -> None:
    """Answer requests until Ctrl-C or SIGTERM."""
    print(USAGE.format(url=f"http://{HOST}:{port}"), flush=True)
    secret = os.environ.get("SECRET_KEY") or secrets.token_hex()
    uvicorn.run(make_app(dsn, secret), host=HOST, port=port, timeout_graceful_shutdown=int(PATIENCE) + 1)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("dsn", nargs="?", metavar="DSN")
    parser.add_argument("--port", type=int, default=8000, help="(default: 8000)")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        if args.dsn is not None:
            set_up(args.dsn)
            serve(args.dsn, args.port)
        else:
            with LocalCluster(settings={"recovery_min_apply_delay": "2s"}) as cluster:
                set_up(cluster.dsn)
                cluster.catch_up()
                serve(cluster.dsn, args.port)
    except (pgroute.AcquireTimeout, pgroute.ConfigError) as error:
        raise SystemExit(f"cannot begin: {error}") from None
    except KeyboardInterrupt:  # before uvicorn was there to be ended
        pass


if __name__ == "__main__":
    main()
