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
from typing import Any

import uvicorn
from fastapi import APIRouter, FastAPI
from pydantic import BaseModel, Field

import pgroute
from pgroute.contrib.fastapi import Reader, ReadYourWrites, Writer, add_error_handlers, lifespan
from pgroute.testing import LocalCluster

HOST = "127.0.0.1"
PATIENCE = 3.0
"""Seconds for a request to get a session."""

USAGE = """\
to try in another terminal:

  curl -c cookies -b cookies {url}/notes -H 'Content-Type: application/json' -d '{{"text": "tea"}}'
  curl -c cookies -b cookies {url}/notes    # the note is there
  curl {url}/notes                          # for another user it may not be there yet
"""

api = APIRouter()


class NewNote(BaseModel):
    """What a user writes: printable text."""

    text: str = Field(min_length=1, max_length=200, pattern=r"^\P{C}+$")


@api.post("/notes", status_code=201)
async def write_note(note: NewNote, conn: Writer) -> dict[str, Any]:
    """Write a note, on the primary."""
    await conn.execute("INSERT INTO pgroute_web_note (text) VALUES (%s)", (note.text,))
    return {"text": note.text, "written_to": conn.info.port}


@api.get("/notes")
async def list_notes(conn: Reader) -> dict[str, Any]:
    """Return the last notes, from a standby that has those of this user, else from the primary."""
    cursor = await conn.execute("SELECT text FROM pgroute_web_note ORDER BY id DESC LIMIT 20")
    notes = [text for (text,) in await cursor.fetchall()]
    return {"notes": notes, "read_from": conn.info.port}


def make_app(dsn: str, secret: str) -> FastAPI:
    """Return the application.

    Args:
        dsn: of the cluster.
        secret: signs the cookie; the same in each process.
    """
    app = FastAPI(title="notes", lifespan=lifespan(dsn, acquire_timeout=PATIENCE))
    app.include_router(api)
    # This example speaks HTTP. Where the browser speaks TLS, leave out secure=False.
    app.add_middleware(ReadYourWrites, secret_key=secret, secure=False)
    # 409 if a failover has lost what the user has written, 503 if there was no session, or it was lost.
    add_error_handlers(app)
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
    parser = argparse.ArgumentParser(
        description="A web application with FastAPI whose users see what they have written."
    )
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
