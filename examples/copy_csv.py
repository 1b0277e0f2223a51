"""COPY a file in and out while the primary is lost: `python examples/copy_csv.py [DSN] [--rows N]`.

Without a DSN it starts a throw-away cluster on this machine, kills its primary amid the copy and promotes a standby; on
a DSN it kills nothing, and drops its table again.
"""

from __future__ import annotations

import argparse
import csv
import logging
import tempfile
from pathlib import Path

from pgroute import CopyProgress, Router
from pgroute.testing import LocalCluster

TABLE = "pgroute_copied"


def write_file(path: Path, rows: int) -> None:
    """Write a file as a spreadsheet would."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "item"])
        writer.writerows((number, f"item {number}, boxed") for number in range(1, rows + 1))


def read_file(path: Path) -> list[list[str]]:
    """Return the rows of a file, whatever its line ends and quotes."""
    with path.open(newline="") as file:
        return list(csv.reader(file))


class Watch:
    """Shows how far a copy is, and loses the primary amid the first attempt, if that is wanted."""

    def __init__(self, cluster: LocalCluster | None) -> None:
        self._cluster = cluster

    def __call__(self, progress: CopyProgress) -> None:
        print(f"attempt {progress.attempt}: {progress.bytes / 2**20:.1f} MB sent")
        if self._cluster is not None:
            cluster, self._cluster = self._cluster, None
            cluster.primary.kill()
            cluster.promote()  # normally done by a cluster manager
            print("the primary was killed, a standby was promoted")


def main(dsn: str, rows: int, cluster: LocalCluster | None = None) -> None:
    """Copy a file into a table, and the table to another file."""
    with tempfile.TemporaryDirectory() as folder, Router(dsn) as router:
        source, target = Path(folder, "orders.csv"), Path(folder, "copy.csv")
        write_file(source, rows)
        router.execute(f"CREATE TABLE {TABLE} (id int PRIMARY KEY, item text)")
        if cluster is not None:
            cluster.catch_up()
        try:
            count = router.copy_to_table(TABLE, source, format="csv", header="match", progress=Watch(cluster))
            print(f"copied {count} rows in, once")
            query = f"SELECT * FROM {TABLE} ORDER BY id"  # noqa: S608  (a constant)
            count = router.copy_from(query, target, role="writer", format="csv", header=True)
            same = read_file(source) == read_file(target)
            print(f"copied {count} rows out; the files hold the same: {same}")
        finally:
            router.execute(f"DROP TABLE {TABLE}")


if __name__ == "__main__":
    logging.getLogger("pgroute").setLevel(logging.ERROR)  # hide the expected messages about the lost primary
    parser = argparse.ArgumentParser(description="COPY a file in and out while the primary is lost.")
    parser.add_argument("dsn", nargs="?", help="default: a throw-away cluster")
    parser.add_argument("--rows", type=int, default=100_000)
    arguments = parser.parse_args()
    if arguments.dsn:
        main(arguments.dsn, arguments.rows)
    else:
        with LocalCluster() as local:
            main(local.dsn, arguments.rows, local)
