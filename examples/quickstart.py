"""Write to the primary, read from a standby: `python examples/quickstart.py [DSN]`.

Without a DSN it starts a throw-away cluster on this machine.
"""

from __future__ import annotations

import sys

import psycopg

from pgroute import Router
from pgroute.testing import LocalCluster


def main(dsn: str) -> None:
    """Write, read, and show what the router knows."""
    with Router(dsn) as router:
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

        print(router.topology)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(sys.argv[1])
    else:
        with LocalCluster() as cluster:
            main(cluster.dsn)
