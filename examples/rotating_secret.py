"""Rotate a password while sessions go on: `python examples/rotating_secret.py`.

It starts a throw-away cluster on this machine. Two login roles take turns, and a mounted secret says whose turn it is:
the other one gets a new password first, and when all hosts know it, the secret changes. So no login is ever refused.
"""

from __future__ import annotations

import os
import secrets
import tempfile
import threading
import time
from pathlib import Path

import pgroute
from pgroute.testing import LocalCluster

ROTATIONS = 6
WORKERS = 4


class MountedSecret:
    """The user and password in a folder, as Kubernetes mounts a secret of type kubernetes.io/basic-auth.

    The files are read for each new connection: that takes microseconds, and needs no notification of changes.

    Args:
        folder: it has the files *username* and *password*.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, request: pgroute.CredentialRequest) -> dict[str, str]:
        """Return what the files say now."""
        # Kubernetes replaces the link "..data" at once: both files are read from where it leads, or from no link.
        folder = (self._folder / "..data").resolve()
        folder = folder if folder.is_dir() else self._folder
        user, password = ((folder / name).read_text("utf-8").strip() for name in ("username", "password"))
        return {"user": user, "password": password}


def mount(folder: Path, user: str, password: str) -> None:
    """Replace the files of a mounted secret at once, as the kubelet does."""
    version = folder / f"..{time.monotonic_ns()}"
    version.mkdir(mode=0o700)
    (version / "username").write_text(user, "utf-8")
    (version / "password").write_text(password, "utf-8")
    link = folder / "..data_tmp"
    link.symlink_to(version.name)
    link.rename(folder / "..data")


def rotate(cluster: LocalCluster, folder: Path, user: str) -> None:
    """Give a role a new password, wait until all hosts know it, and make it the role of the secret."""
    password = secrets.token_urlsafe(24)
    cluster.primary.execute(f"ALTER ROLE {user} PASSWORD '{password}'")
    cluster.catch_up()
    mount(folder, user, password)


def work(router: pgroute.Router, stop: threading.Event, served: list[str]) -> None:
    """Have sessions, one after the other, and note whose they were."""
    while not stop.is_set():
        with router.writer() as conn:
            conn.execute("SELECT 1")
            served.append(conn.info.user)
        with router.reader() as conn:
            conn.execute("SELECT 1")
            served.append(conn.info.user)


def main(cluster: LocalCluster, folder: Path) -> None:
    """Rotate under load, and count."""
    users = ("shop_a", "shop_b")
    for user in users:
        cluster.primary.execute(f"CREATE ROLE {user} LOGIN")
    rotate(cluster, folder, users[0])
    hosts = ",".join(f"{node.host}:{node.port}" for node in cluster.nodes)
    # Short lives, so that many connections are opened here. The default is an hour.
    often = pgroute.PoolOptions(max_lifetime=0.3)
    served: list[str] = []
    stop = threading.Event()
    with pgroute.Router(
        f"postgresql://{hosts}/postgres", credentials=MountedSecret(folder), writer=often, reader=often
    ) as router:
        router.wait()
        workers = [threading.Thread(target=work, args=(router, stop, served)) for _ in range(WORKERS)]
        for worker in workers:
            worker.start()
        try:
            for number in range(1, ROTATIONS + 1):
                rotate(cluster, folder, users[number % 2])
                before = len(served)
                while len(served) < before + 200:
                    time.sleep(0.01)
        finally:
            stop.set()
            for worker in workers:
                worker.join()
    refused = sum(node.log().count("password authentication failed") for node in cluster.nodes)
    shares = ", ".join(f"{served.count(user)} as {user}" for user in users)
    print(f"{ROTATIONS} rotations, {len(served)} sessions ({shares}), {refused} logins refused")


if __name__ == "__main__":
    os.umask(0o077)
    with LocalCluster() as local, tempfile.TemporaryDirectory() as mounted:
        main(local, Path(mounted))
