"""A web application with FastAPI that survives the loss of its primary: `python examples/fastapi_app.py [DSN]`.

Without a DSN it starts a throw-away cluster on this machine, whose primary a request may kill. In the database of a DSN
it makes the table pgroute_web_order and the schema pgroute, which stay.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

import psycopg
import uvicorn
from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

import pgroute
from pgroute.testing import ClusterError, LocalCluster

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

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

logger = logging.getLogger("orders")
api = APIRouter()
demo = APIRouter(prefix="/demo")


def get_router(request: Request) -> pgroute.AsyncRouter:
    """Return the router of the process, which the lifespan has opened."""
    router: pgroute.AsyncRouter = request.state.router
    return router


RouterOfProcess = Annotated[pgroute.AsyncRouter, Depends(get_router)]


async def open_reader(router: RouterOfProcess) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """Lend a read-only session on a standby, if there is one."""
    async with router.reader() as conn:
        yield conn


async def open_writer(router: RouterOfProcess) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """Lend a session on the primary; its transaction ends with the dependency."""
    async with router.writer() as conn:
        yield conn


# The scope "function" ends a session before the answer is sent. By default FastAPI does so afterwards: the client would
# be told "done" by a request whose COMMIT may still fail.
Reader = Annotated[psycopg.AsyncConnection[Any], Depends(open_reader, scope="function")]
Writer = Annotated[psycopg.AsyncConnection[Any], Depends(open_writer, scope="function")]
Key = Annotated[str, Header(alias="Idempotency-Key", min_length=1, max_length=200)]


class NewOrder(BaseModel):
    """What a client orders: printable text."""

    item: str = Field(min_length=1, max_length=200, pattern=r"^\P{C}+$")


async def insert_order(conn: psycopg.AsyncConnection[Any], item: str) -> dict[str, Any]:
    """Write one order; run() may call this several times, and commits it once."""
    statement = "INSERT INTO pgroute_web_order (item) VALUES (%s) RETURNING id"
    [(number,)] = await (await conn.execute(statement, (item,))).fetchall()
    return {"id": number, "item": item, "written_to": conn.info.port}


@api.post("/orders", status_code=201)
async def place_order(order: NewOrder, key: Key, router: RouterOfProcess) -> dict[str, Any]:
    """Write an order, once for each key."""
    # However often the client sends this key, the order is written once, and every answer is that of the first time.
    # With several users, the key must name the user too.
    written = await router.run(insert_order, order.item, once=f"web order {key}", timeout=PATIENCE)
    if written["item"] != order.item:
        raise HTTPException(422, "this Idempotency-Key belongs to an order of another item")
    return written


@api.get("/orders")
async def list_orders(conn: Reader) -> dict[str, Any]:
    """Return the last orders."""
    # From a standby, if there is one: what was written a moment ago may be missing.
    cursor = await conn.execute("SELECT id, item FROM pgroute_web_order ORDER BY id DESC LIMIT 20")
    orders = [{"id": number, "item": item} for number, item in await cursor.fetchall()]
    return {"orders": orders, "read_from": conn.info.port}


@api.delete("/orders/{number}", status_code=204)
async def cancel_order(number: int, conn: Writer) -> None:
    """Delete an order."""
    # Deleting twice is deleting once, so a plain session will do.
    await conn.execute("DELETE FROM pgroute_web_order WHERE id = %s", (number,))


@api.get("/health")
async def health(router: RouterOfProcess) -> JSONResponse:
    """Tell whether orders can be written."""
    # 503 takes the process out of the load balancer. It is no reason to restart it: the router finds the next primary
    # by itself.
    told = describe(router.topology)
    return JSONResponse(told, 200 if told["writable"] else 503)


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


async def commit_unknown(request: Request, error: Exception) -> JSONResponse:
    """Answer when the outcome is unknown."""
    # The answer to COMMIT was lost, and PATIENCE was over before the router found out. The same request with the same
    # key settles it; without a key the client would have to check first.
    logger.warning("%s %s: %s", request.method, request.url.path, error)
    told = "it is not known whether this was done: send the same request again"
    return JSONResponse({"error": told}, 503, {"Retry-After": "1"})


async def not_done(request: Request, error: Exception) -> JSONResponse:
    """Answer when nothing was written."""
    # AcquireTimeout: no session within PATIENCE, without a primary or a free connection. SessionLost and
    # psycopg's own errors: the connection was lost before COMMIT. The log has the reason.
    logger.warning("%s %s: %s", request.method, request.url.path, error)
    told = "this was not done: send the same request again"
    return JSONResponse({"error": told}, 503, {"Retry-After": "1"})


@demo.post("/kill-primary")
async def kill_primary(request: Request) -> JSONResponse:
    """Kill the primary of the throw-away cluster."""

    def kill() -> str:
        node = cluster.primary
        node.kill()
        return f"{node.host}:{node.port}"

    cluster: LocalCluster = request.state.cluster
    async with request.state.operator:
        try:
            return JSONResponse({"killed": await asyncio.to_thread(kill)})
        except ClusterError as error:
            return JSONResponse({"error": str(error)}, 409)


@demo.post("/promote")
async def promote(request: Request) -> JSONResponse:
    """Act as a cluster manager: promote a standby, and make the old primary a standby."""

    def take_over() -> str:
        new = cluster.promote()
        for node in dead:
            node.rejoin(new)
        return f"{new.host}:{new.port}"

    cluster: LocalCluster = request.state.cluster
    async with request.state.operator:
        dead = [node for node in cluster.nodes if not node.running]
        if not dead:
            return JSONResponse({"error": "the primary is alive: kill it first"}, 409)
        return JSONResponse({"promoted": await asyncio.to_thread(take_over)})


def make_app(dsn: str, cluster: LocalCluster | None = None) -> FastAPI:
    """Return the application; each process that serves it has one router, for as long as it serves."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
        async with pgroute.AsyncRouter(dsn, acquire_timeout=PATIENCE) as router:
            # Two promotions at a time would make two primaries: one operator for the demonstration.
            yield {"router": router, "cluster": cluster, "operator": asyncio.Lock()}

    app = FastAPI(title="orders", lifespan=lifespan)
    app.include_router(api)
    if cluster is not None:
        app.include_router(demo)
    app.add_exception_handler(pgroute.CommitUnknown, commit_unknown)
    app.add_exception_handler(psycopg.OperationalError, not_done)
    return app


def set_up(dsn: str) -> None:
    """Make the tables unless they are there, as a migration does before the application is started."""
    with pgroute.Router(dsn, acquire_timeout=PATIENCE) as router:
        router.install()  # the tables of once=
        with router.writer() as conn:
            conn.execute(
                "CREATE TABLE IF NOT EXISTS pgroute_web_order"
                " (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, item text NOT NULL)"
            )
        print(f"orders are kept by {router.name}")


def serve(dsn: str, port: int, cluster: LocalCluster | None = None) -> None:
    """Answer requests until Ctrl-C or SIGTERM."""
    set_up(dsn)
    usage = USAGE if cluster is None else USAGE + DEMO_USAGE
    print(usage.format(url=f"http://{HOST}:{port}", patience=PATIENCE), flush=True)
    # At the end requests may finish for as long as they may take at all.
    uvicorn.run(make_app(dsn, cluster), host=HOST, port=port, timeout_graceful_shutdown=int(PATIENCE) + 1)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description="A web application with FastAPI that survives the loss of its primary."
    )
    parser.add_argument("dsn", nargs="?", metavar="DSN")
    parser.add_argument("--port", type=int, default=8000, help="(default: 8000)")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    # Until uvicorn has its own, and again when that is over: by default SIGTERM would leave the cluster behind.
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
    except KeyboardInterrupt:  # before uvicorn was there to be ended
        pass


if __name__ == "__main__":
    main()
