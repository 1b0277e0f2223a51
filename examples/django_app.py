"""A Django project that survives the loss of its primary: `python examples/django_app.py [DSN]`.

It serves the project in examples/django_project, of which you would paste the DATABASES, DATABASE_ROUTERS and
MIDDLEWARE. Without a DSN it starts a throw-away cluster on this machine, whose primary a request may kill. In the
database of a DSN it makes the table pgroute_web_order and Django's own django_migrations, which stay.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict

import pgroute
from pgroute.testing import ClusterError, LocalCluster

HOST = "127.0.0.1"
PROJECT = Path(__file__).parent / "django_project"

USAGE = """\
to try in another terminal:

  curl {url}/health
  curl -X POST {url}/orders -H 'Content-Type: application/json' -H 'Idempotency-Key: 1' -d '{{"item": "tea"}}'
  curl {url}/orders
"""
DEMO_USAGE = """\
  curl -X POST {url}/demo/kill-primary    # /health is 503 now, and an order waits 3 s for a primary
  curl -X POST {url}/demo/promote         # a standby takes over: send the order again, with its key
"""


def set_up(dsn: str) -> None:
    """Load the project, with its database where the DSN leads, and make its tables."""
    told = conninfo_to_dict(dsn)
    for variable, name in (
        ("DB_HOST", "host"),
        ("DB_PORT", "port"),
        ("DB_NAME", "dbname"),
        ("DB_USER", "user"),
    ):
        os.environ[variable] = str(told.get(name, ""))
    for variable, name in (("PGPASSWORD", "password"), ("PGPASSFILE", "passfile")):
        if told.get(name):
            os.environ[variable] = str(told[name])
    os.environ["DJANGO_SETTINGS_MODULE"] = "shop.settings"
    sys.path.insert(0, str(PROJECT))
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0)


def add_demo(cluster: LocalCluster) -> None:
    """Add requests that kill the primary of the throw-away cluster and promote a standby."""
    from django.http import HttpRequest, HttpResponse, JsonResponse
    from django.urls import path
    from shop import urls

    operator = threading.Lock()  # two promotions at a time would make two primaries

    def kill_primary(request: HttpRequest) -> HttpResponse:
        with operator:
            try:
                node = cluster.primary
            except ClusterError as error:
                return JsonResponse({"error": str(error)}, status=409)
            node.kill()
        return JsonResponse({"killed": f"{node.host}:{node.port}"})

    def promote(request: HttpRequest) -> HttpResponse:
        with operator:
            dead = [node for node in cluster.nodes if not node.running]
            if not dead:
                return JsonResponse({"error": "the primary is alive: kill it first"}, status=409)
            new = cluster.promote()
            for node in dead:
                node.rejoin(new)
        return JsonResponse({"promoted": f"{new.host}:{new.port}"})

    urls.urlpatterns += [path("demo/kill-primary", kill_primary), path("demo/promote", promote)]


def serve(dsn: str, port: int, cluster: LocalCluster | None = None) -> None:
    """Answer requests until Ctrl-C or SIGTERM."""
    set_up(dsn)
    from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler
    from django.core.wsgi import get_wsgi_application

    from pgroute.contrib.django import get_router

    class Handler(WSGIRequestHandler):
        """No waiting for silent clients: so that the server can end."""

        timeout = 3.0

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

    if cluster is not None:
        add_demo(cluster)
        cluster.catch_up()
    with Server((HOST, port), Handler) as server:
        server.set_app(get_wsgi_application())
        usage = USAGE if cluster is None else USAGE + DEMO_USAGE
        print(f"orders are kept by {get_router().name}")
        print(usage.format(url=f"http://{HOST}:{server.server_port}"), flush=True)
        server.serve_until_signal()


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="A Django project that survives the loss of its primary.")
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
            with LocalCluster(synchronous=True) as cluster:
                serve(cluster.dsn, args.port, cluster)
    except (pgroute.AcquireTimeout, pgroute.ConfigError) as error:
        raise SystemExit(f"cannot begin: {error}") from None
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
