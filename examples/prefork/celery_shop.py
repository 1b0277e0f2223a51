"""Tasks for Celery's prefork pool: `celery --app celery_shop worker`.

The broker and all other settings are those of the module that CELERY_CONFIG_MODULE names.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from celery import Celery
from celery.signals import worker_process_init, worker_process_shutdown

import pgroute

if TYPE_CHECKING:
    import psycopg

app = Celery("celery_shop")
app.config_from_envvar("CELERY_CONFIG_MODULE")
router = pgroute.Router(os.environ["DATABASE_URL"])


@worker_process_init.connect
def open_router(**_: Any) -> None:
    """Open the router of a new worker process."""
    router.open()


@worker_process_shutdown.connect
def close_router(**_: Any) -> None:
    """Close it."""
    router.close()


def pay(conn: psycopg.Connection[Any], order: str) -> list[int]:
    """Do the work of a task in one transaction. The table is there: `CREATE TABLE pgroute_paid (order_name text)`."""
    conn.execute("INSERT INTO pgroute_paid VALUES (%s)", (order,))
    return [os.getpid(), conn.info.backend_pid]


# acks_late: a task whose process has died is delivered again. The key is that of the order, so it is paid once.
@app.task(acks_late=True)
def pay_order(order: str) -> list[int]:
    """Pay an order once, however often the task is delivered."""
    return router.run(pay, order, once=f"pay {order}")
