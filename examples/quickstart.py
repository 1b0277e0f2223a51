"""Write to the primary, read from a standby, survive a failover: `python examples/quickstart.py [DSN]`.

Without a DSN it starts a throw-away cluster on this machine, and kills its primary; on a DSN it leaves nothing behind.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import psycopg

from pgroute import NoHostAvailable, Router
from pgroute.testing import LocalCluster


def brew(conn: psycopg.Connection[Any], name: str) -> int:
    """Do the work of a transaction; `run` may call this again, and commits it once."""
    conn.execute("CREATE TEMPORARY TABLE tea (name text) ON COMMIT DROP")
    conn.execute("INSERT INTO tea VALUES (%s)", (name,))
    return conn.info.port


def main(dsn: str, cluster: LocalCluster | None = None) -> None:
    """Write, read, and show what the router knows."""
    with Router(dsn) as router:
        router.wait(timeout=3.0)  # optional: reports a mistake in the DSN early

        with router.writer() as conn:  # a plain psycopg connection, in a transaction that commits at the end
            conn.execute("CREATE TEMPORARY TABLE tea (name text) ON COMMIT DROP")
            conn.execute("INSERT INTO tea VALUES (%s), (%s)", ("assam", "keemun"))
            rows = conn.execute("SELECT name FROM tea").fetchall()
            print(f"wrote {rows} to the primary, port {conn.info.port}")

        with router.reader() as conn:
            (standby,) = conn.execute("SELECT pg_is_in_recovery()").fetchone() or (None,)
            print(f"read from port {conn.info.port}, a standby: {standby}")

        try:
            with router.reader() as conn:
                conn.execute("CREATE TABLE never (id int)")
        except psycopg.errors.ReadOnlySqlTransaction as exc:
            print(f"a reader cannot write: {exc}")

        if cluster is not None:
            cluster.primary.kill()
            cluster.promote()  # normally done by a cluster manager
            print("the primary was killed, a standby was promoted")

        # A transaction in a function can be retried after a failover or a deadlock.
        print(f"run() wrote to the primary, port {router.run(brew, 'oolong')}")
        print(router.topology)


if __name__ == "__main__":
    logging.getLogger("pgroute").setLevel(
        logging.ERROR
    )  # hide the expected log message about the lost primary
    try:
        if len(sys.argv) > 1:
            main(sys.argv[1])
        else:
            with LocalCluster() as local:
                main(local.dsn, local)
    except NoHostAvailable as exc:
        sys.exit(str(exc))
