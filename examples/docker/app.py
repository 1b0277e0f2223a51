"""Orders over HTTP, kept by a PostgreSQL cluster that fails over by itself: the application of the demonstration.

Its container runs `uvicorn app:app`; the environment's DSN lists all members of the cluster.
"""

from __future__ import annotations

import logging
import os
import uuid
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

import psycopg
from fastapi import FastAPI, Header, HTTPException, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

import pgroute

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PATIENCE = float(os.environ.get("PATIENCE", "60"))
"""Seconds for which a request waits for a primary: longer than the cluster takes to make another one."""

START = 180.0
"""Seconds for which the start waits for a primary: a new cluster has to elect its first."""

RETRY_AFTER = 2

SCHEMA = """
CREATE TABLE IF NOT EXISTS shop_order (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    item text NOT NULL
)
"""

logger = logging.getLogger("orders")


class Order(BaseModel):
    """What a client orders."""

    item: str = Field(min_length=1, max_length=200, pattern=r"^\P{C}+$")


async def create_table(conn: psycopg.AsyncConnection[Any]) -> None:
    """Make the table, unless it is there."""
    await conn.execute(SCHEMA)


async def insert_order(conn: psycopg.AsyncConnection[Any], item: str) -> dict[str, Any]:
    """Write one order; run() may call this several times, and commits it once."""
    statement = "INSERT INTO shop_order (item) VALUES (%s) RETURNING id"
    [(number,)] = await (await conn.execute(statement, (item,))).fetchall()
    return {"id": number, "item": item, "written_to": conn.info.host}


async def select_count(conn: psycopg.AsyncConnection[Any]) -> dict[str, Any]:
    """Count the orders; run() may call this several times, too."""
    [(count,)] = await (await conn.execute("SELECT count(*) FROM shop_order")).fetchall()
    return {"count": count, "read_from": conn.info.host}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open the router for as long as the process serves."""
    async with pgroute.AsyncRouter(os.environ["DSN"], acquire_timeout=PATIENCE) as router:
        await router.wait(timeout=START)
        await router.install()  # the tables of once=
        await router.run(create_table)
        app.state.router = router
        yield


app = FastAPI(title="orders", lifespan=lifespan)


@app.post("/orders", status_code=201)
async def place_order(
    order: Order,
    request: Request,
    key: Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=200)] = None,
) -> dict[str, Any]:
    """Write an order, once for each key; without a key, once for this request."""
    # A fresh key lets run() find out whether a COMMIT without an answer was done. Only with a key of its own may a
    # client send the request again.
    once = f"order {key or uuid.uuid4()}"
    router: pgroute.AsyncRouter = request.app.state.router
    written = await router.run(insert_order, order.item, once=once, timeout=PATIENCE)
    if written["item"] != order.item:
        raise HTTPException(422, "this Idempotency-Key belongs to an order of another item")
    return written


@app.get("/orders/count")
async def count_orders(request: Request) -> dict[str, Any]:
    """Count the orders, on a standby if there is one: what was written a moment ago may be missing."""
    router: pgroute.AsyncRouter = request.app.state.router
    # A standby that has to follow another primary may be restarted for it: run() asks elsewhere then.
    return await router.run(select_count, role="reader", timeout=PATIENCE)


@app.get("/health")
async def health(request: Request) -> JSONResponse:
    """Tell what the router knows of the hosts; 503 when orders cannot be written now."""
    topology = request.app.state.router.topology
    hosts = [
        {
            "host": str(host.key),
            "role": host.role.value if host.role else None,
            "state": host.state.value,
            "timeline": host.timeline,
            "lag_bytes": host.lag_bytes,
            "reason": host.reason,
        }
        for host in topology.hosts
    ]
    told = {"writable": topology.writable, "readable": topology.readable, "hosts": hosts}
    return JSONResponse({**told, "why_not": topology.why_not_writable}, 200 if topology.writable else 503)


@app.exception_handler(psycopg.OperationalError)
async def unavailable(request: Request, error: Exception) -> JSONResponse:
    """Ask the client to retry: no host within PATIENCE, or a lost session that could not be retried."""
    logger.warning("%s %s: %s", request.method, request.url.path, error)
    # After CommitUnknown the order may be there. With the same Idempotency-Key, sending it again is right either way.
    unknown = isinstance(error, pgroute.CommitUnknown)
    told = "it is not known whether this was done" if unknown else "this was not done"
    return JSONResponse({"error": told}, 503, {"Retry-After": str(RETRY_AFTER)})


logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
