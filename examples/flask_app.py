"""A web application with Flask that survives the loss of its primary: `python examples/flask_app.py [DSN]`.

Without a DSN it starts a throw-away cluster on this machine, whose primary a request may kill. In the database of a DSN
it makes the table pgroute_web_order and the schema pgroute, which stay.
"""

from __future__ import annotations

import argparse
import logging
import signal
import threading
from typing import Any

import psycopg
from flask import Flask, request
from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler

import pgroute
from pgroute.testing import ClusterError, LocalCluster

Answer = tuple[dict[str, Any], int]
AnswerWithHeaders = tuple[dict[str, Any], int, dict[str, str]]

HOST = "127.0.0.1"
PATIENCE = 3.0
"""Seconds for a request to get a session, or to write; shorter than the timeout of its client."""

USAGE = """\
to try in another terminal:

  curl {url}/health
  curl -X POST {url}/orders -H 'Content-Type: application/json' -H 'Idempotency-Key: 1' -d '{{"item": "tea"}}'
  curl {url}/orders
"""
DEMO_USAGE = """\
  curl -X POST {url}/demo/kill-primary    # /health is 503 now, and an order waits {patience:.0f} s for a primary
  curl -X POST {url}/demo/promote         # a standby takes over: send the order again, with its key
"""


def set_up(router: pgroute.Router) -> None:
    """Make the tables unless they are there; a real application leaves that to its migrations."""
    router.install()  # the tables of once=
    with router.writer() as conn:
        conn.execute(
            "CREATE TABLE IF NOT EXISTS pgroute_web_order"
            " (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, item text NOT NULL)"
        )


def insert_order(conn: psycopg.Connection[Any], item: str) -> dict[str, Any]:
    """Write one order; run() may call this several times, and commits it once."""
    statement = "INSERT INTO pgroute_web_order (item) VALUES (%s) RETURNING id"
    [(number,)] = conn.execute(statement, (item,)).fetchall()
    return {"id": number, "item": item, "written_to": conn.info.port}


def describe(topology: pgroute.Topology) -> dict[str, Any]:
    """Return the hosts and their states for the health check. A topology contains no password."""
    reasons = [f"{host.key} is {host.state.value}: {host.reason}" for host in topology.hosts if host.reason]
    if not topology.writable:
        reasons.insert(0, topology.why_not_writable)
    primary = topology.primary
    return {
        "writable": topology.writable,
        "readable": topology.readable,
        "primary": str(primary.key) if primary else None,
        "standbys": [str(host.key) for host in topology.standbys],
        "reasons": reasons,
    }


def make_app(router: pgroute.Router) -> Flask:
    """Return the application; all of its threads share one router.

    Under a server that forks its workers, open the router in each worker: it does not outlive a fork.
    """
    app = Flask("orders")

    @app.post("/orders")
    def place_order() -> Answer:
        body = request.get_json()
        item = body.get("item") if isinstance(body, dict) else None
        if not (isinstance(item, str) and 1 <= len(item) <= 200 and item.isprintable()):
            return {"error": "expected an item of 1 to 200 characters"}, 400
        key = request.headers.get("Idempotency-Key", "")
        if not 1 <= len(key) <= 200:
            return {"error": "expected a header Idempotency-Key of 1 to 200 characters"}, 400
        # However often the client sends this key, the order is written once, and every answer is that of the first
        # time. With several users, the key must name the user too.
        order = router.run(insert_order, item, once=f"web order {key}", timeout=PATIENCE)
        if order["item"] != item:
            return {"error": "this Idempotency-Key belongs to an order of another item"}, 422
        return order, 201

    @app.get("/orders")
    def list_orders() -> Answer:
        # From a standby, if there is one: what was written a moment ago may be missing.
        with router.reader() as conn:
            rows = conn.execute("SELECT id, item FROM pgroute_web_order ORDER BY id DESC LIMIT 20").fetchall()
            orders = [{"id": number, "item": item} for number, item in rows]
            return {"orders": orders, "read_from": conn.info.port}, 200

    @app.delete("/orders/<int:number>")
    def cancel_order(number: int) -> tuple[str, int]:
        # Deleting twice is deleting once, so a plain session will do.
        with router.writer() as conn:
            conn.execute("DELETE FROM pgroute_web_order WHERE id = %s", (number,))
        return "", 204

    @app.get("/health")
    def health() -> Answer:
        # 503 takes the process out of the load balancer. It is no reason to restart it: the router finds the next
        # primary by itself.
        told = describe(router.topology)
        return told, 200 if told["writable"] else 503

    @app.errorhandler(pgroute.CommitUnknown)
    def commit_unknown(error: pgroute.CommitUnknown) -> AnswerWithHeaders:
        # The answer to COMMIT was lost, and PATIENCE was over before the router found out. The same request with the
        # same key settles it; without a key the client would have to check first.
        app.logger.warning("%s %s: %s", request.method, request.path, error)
        told = "it is not known whether this was done: send the same request again"
        return {"error": told}, 503, {"Retry-After": "1"}

    @app.errorhandler(psycopg.OperationalError)
    def not_done(error: psycopg.OperationalError) -> AnswerWithHeaders:
        # AcquireTimeout: no session within PATIENCE, without a primary or a free connection. SessionLost and
        # psycopg's own errors: the connection was lost before COMMIT. Nothing was written. The log has the reason.
        app.logger.warning("%s %s: %s", request.method, request.path, error)
        return {"error": "this was not done: send the same request again"}, 503, {"Retry-After": "1"}

    return app


def add_demo(app: Flask, cluster: LocalCluster) -> None:
    """Add requests that kill the primary of the throw-away cluster and promote a standby."""
    operator = threading.Lock()  # two promotions at a time would make two primaries

    @app.post("/demo/kill-primary")
    def kill_primary() -> Answer:
        with operator:
            node = cluster.primary
            node.kill()
        return {"killed": f"{node.host}:{node.port}"}, 200

    @app.post("/demo/promote")
    def promote() -> Answer:
        with operator:
            dead = [node for node in cluster.nodes if not node.running]
            if not dead:
                return {"error": "the primary is alive: kill it first"}, 409
            new = cluster.promote()
            for node in dead:
                node.rejoin(new)
        return {"promoted": f"{new.host}:{new.port}"}, 200

    @app.errorhandler(ClusterError)
    def refused(error: ClusterError) -> Answer:
        return {"error": str(error)}, 409


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
    with pgroute.Router(dsn, acquire_timeout=PATIENCE) as router:
        set_up(router)
        app = make_app(router)
        if cluster is not None:
            add_demo(app, cluster)
        server = Server(HOST, port, app, Handler)
        usage = USAGE if cluster is None else USAGE + DEMO_USAGE
        print(f"orders are kept by {router.name}")
        print(usage.format(url=f"http://{HOST}:{server.port}", patience=PATIENCE), flush=True)
        server.serve_until_signal()


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description="A web application with Flask that survives the loss of its primary."
    )
    parser.add_argument("dsn", nargs="?", metavar="DSN")
    parser.add_argument("--port", type=int, default=8000, help="(default: 8000)")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    # psycopg warns about each connection that the crash has ended.
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        if args.dsn is not None:
            serve(args.dsn, args.port)
        else:
            with LocalCluster(synchronous=True) as cluster:
                serve(cluster.dsn, args.port, cluster)
    except (pgroute.AcquireTimeout, pgroute.ConfigError) as error:
        raise SystemExit(f"cannot begin: {error}") from None
    except KeyboardInterrupt:  # before the server was there to be ended, or a second one
        pass


if __name__ == "__main__":
    main()
