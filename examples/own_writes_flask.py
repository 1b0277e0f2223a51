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
import threading
from typing import Any

from flask import Flask, request
from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler

import pgroute
from pgroute.contrib.flask import PGRoute, add_error_handlers
from pgroute.testing import LocalCluster

Answer = tuple[dict[str, Any], int]

HOST = "127.0.0.1"
PATIENCE = 3.0
"""Seconds for a request to get a session."""

USAGE = """\
to try in another terminal:

  curl -c cookies -b cookies {url}/notes -H 'Content-Type: application/json' -d '{{"text": "tea"}}'
  curl -c cookies -b cookies {url}/notes    # the note is there
  curl {url}/notes                          # for another user it may not be there yet
"""


def set_up(dsn: str) -> None:
    """Make the table unless it is there; a real application leaves that to its migrations."""
    with pgroute.Router(dsn, acquire_timeout=PATIENCE) as router, router.writer() as conn:
        conn.execute(
            "CREATE TABLE IF NOT EXISTS pgroute_web_note"
            " (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, text text NOT NULL)"
        )


def make_app(dsn: str, secret: str) -> Flask:
    """Return the application.

    Args:
        dsn: of the cluster.
        secret: signs the cookie; the same in each process.
    """
    app = Flask("notes")
    app.secret_key = secret
    # This example speaks HTTP. Where the browser speaks TLS, leave out secure=False.
    db = PGRoute(app, dsn, read_your_writes=True, secure=False, acquire_timeout=PATIENCE)
    # 409 if a failover has lost what the user has written, 503 if there was no session, or it was lost.
    add_error_handlers(app)

    @app.post("/notes")
    def write_note() -> Answer:
        body = request.get_json()
        text = body.get("text") if isinstance(body, dict) else None
        if not (isinstance(text, str) and 1 <= len(text) <= 200 and text.isprintable()):
            return {"error": "expected a text of 1 to 200 characters"}, 400
        with db.writer() as conn:
            conn.execute("INSERT INTO pgroute_web_note (text) VALUES (%s)", (text,))
            return {"text": text, "written_to": conn.info.port}, 201

    @app.get("/notes")
    def list_notes() -> Answer:
        # From a standby that has the notes of this user, else from the primary.
        with db.reader() as conn:
            rows = conn.execute("SELECT text FROM pgroute_web_note ORDER BY id DESC LIMIT 20").fetchall()
            return {"notes": [text for (text,) in rows], "read_from": conn.info.port}, 200

    return app


class Handler(WSGIRequestHandler):
    """One request for each connection, and no waiting for silent clients: so that the server can end."""

    protocol_version = "HTTP/1.0"
    timeout = PATIENCE


class Server(ThreadedWSGIServer):
    """A thread for each request; closing it waits for those that are being answered."""

    daemon_threads = False

    def serve_until_signal(self) -> None:
        """Answer requests until Ctrl-C or SIGTERM.

        An exception of a signal handler could come between a request and the start of the thread that answers it.
        """

        def end(*_: object) -> None:
            for number in numbers:
                signal.signal(number, signal.default_int_handler)  # the next one interrupts what waits
            # A daemon, since the start of another thread may need a lock that is held where the signal comes.
            threading.Thread(target=self.shutdown, daemon=True).start()

        numbers = (signal.SIGINT, signal.SIGTERM)
        for number in numbers:
            signal.signal(number, end)
        self.serve_forever(poll_interval=0.1)


def serve(dsn: str, port: int, cluster: LocalCluster | None = None) -> None:
    """Answer requests until Ctrl-C or SIGTERM."""
    set_up(dsn)
    if cluster is not None:
        cluster.catch_up()
    secret = os.environ.get("SECRET_KEY") or secrets.token_hex()
    server = Server(HOST, port, make_app(dsn, secret), Handler)
    print(USAGE.format(url=f"http://{HOST}:{server.port}"), flush=True)
    server.serve_until_signal()


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description="A web application with Flask whose users see what they have written."
    )
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
    except KeyboardInterrupt:  # before the server was there to be ended, or a second one
        pass


if __name__ == "__main__":
    main()
