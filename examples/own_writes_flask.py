"""A web application with Flask whose users see what they have written: `python examples/own_writes_flask.py [DSN]`.

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

import psycopg
from flask import Flask, Response, g, request
from itsdangerous import BadSignature, TimestampSigner
from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler

import pgroute
from pgroute.testing import LocalCluster

Answer = tuple[dict[str, Any], int]
Causal = pgroute.Causal[psycopg.Connection[Any]]

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


def set_up(router: pgroute.Router) -> None:
    """Make the table unless it is there; a real application leaves that to its migrations."""
    with router.writer() as conn:
        conn.execute(
            "CREATE TABLE IF NOT EXISTS pgroute_web_note"
            " (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, text text NOT NULL)"
        )


def begin(router: pgroute.Router, signer: TimestampSigner, cookie: str) -> Causal:
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
    response.set_cookie(COOKIE, value, max_age=COOKIE_AGE, httponly=True, samesite="Lax")


def make_app(router: pgroute.Router, secret: str) -> Flask:
    """Return the application; all of its threads share one router.

    Args:
        router: to the cluster. Under a server that forks its workers, open it in each worker.
        secret: signs the cookie; the same in each process.
    """
    app = Flask("notes")
    signer = TimestampSigner(secret, salt="position")

    @app.before_request
    def cookie_in() -> None:
        g.causal = begin(router, signer, request.cookies.get(COOKIE, ""))

    @app.after_request
    def cookie_out(response: Response) -> Response:
        remember(response, signer, g.causal)
        return response

    @app.post("/notes")
    def write_note() -> Answer:
        body = request.get_json()
        text = body.get("text") if isinstance(body, dict) else None
        if not (isinstance(text, str) and 1 <= len(text) <= 200 and text.isprintable()):
            return {"error": "expected a text of 1 to 200 characters"}, 400
        with g.causal.writer() as conn:
            conn.execute("INSERT INTO pgroute_web_note (text) VALUES (%s)", (text,))
            return {"text": text, "written_to": conn.info.port}, 201

    @app.get("/notes")
    def list_notes() -> Answer:
        # From a standby that has the notes of this user, else from the primary.
        with g.causal.reader() as conn:
            rows = conn.execute("SELECT text FROM pgroute_web_note ORDER BY id DESC LIMIT 20").fetchall()
            return {"notes": [text for (text,) in rows], "read_from": conn.info.port}, 200

    @app.errorhandler(pgroute.PositionLost)
    def position_lost(error: pgroute.PositionLost) -> Answer:
        # A failover has lost what the user has written or seen. The next request begins anew: remember() deletes the
        # cookie. This one was not done.
        app.logger.warning("%s %s: %s", request.method, request.path, error)
        g.causal = router.causal()
        return {"error": "your last change may be lost: look at the notes, then send this again"}, 409

    @app.errorhandler(psycopg.OperationalError)
    def not_served(error: psycopg.OperationalError) -> tuple[dict[str, Any], int, dict[str, str]]:
        # There was no session, or it was lost. flask_app.py tells more, and repeats safely.
        app.logger.warning("%s %s: %s", request.method, request.path, error)
        told = "this may not be done: look at the notes, then send it again"
        return {"error": told}, 503, {"Retry-After": "1"}

    return app


class Handler(WSGIRequestHandler):
    """One request for each connection, and no waiting for silent clients: so that the server can end."""

    protocol_version = "HTTP/1.0"
    timeout = PATIENCE


class Server(ThreadedWSGIServer):
    """A thread for each request; closing it waits for those that are being answered."""

    daemon_threads = False


def serve(dsn: str, port: int, cluster: LocalCluster | None = None) -> None:
    """Answer requests until Ctrl-C or SIGTERM."""
    with pgroute.Router(dsn, acquire_timeout=PATIENCE) as router:
        set_up(router)
        if cluster is not None:
            cluster.catch_up()
        secret = os.environ.get("SECRET_KEY") or secrets.token_hex()
        server = Server(HOST, port, make_app(router, secret), Handler)
        print(USAGE.format(url=f"http://{HOST}:{server.port}"), flush=True)
        server.serve_forever()


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
            serve(args.dsn, args.port)
        else:
            with LocalCluster(settings={"recovery_min_apply_delay": "2s"}) as cluster:
                serve(cluster.dsn, args.port, cluster)
    except (pgroute.AcquireTimeout, pgroute.ConfigError) as error:
        raise SystemExit(f"cannot begin: {error}") from None
    except KeyboardInterrupt:  # before the server was there to be ended
        pass


if __name__ == "__main__":
    main()
