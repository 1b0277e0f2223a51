"""The files of a new primary: initdb, settings, access rules, password and database."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import files
from .password import RULES, make_verifier
from .server import USER, quoted

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from .binaries import ServerBinaries
    from .sandbox import Sandbox


SETTINGS = {
    "fsync": "off",  # matters only when the operating system crashes
    "shared_buffers": "16MB",
    "max_connections": "60",
    "wal_level": "replica",
    "max_wal_senders": "10",
    "max_replication_slots": "10",
    "wal_keep_size": "256MB",
    "wal_log_hints": "on",
    "wal_init_zero": "off",  # each promotion begins a WAL file on every node
    "hot_standby": "on",
    "wal_retrieve_retry_interval": "100ms",  # promotion and re-pointing wait this long; the default is 5 s
    "wal_receiver_status_interval": "1s",
    "dynamic_shared_memory_type": "mmap",  # in the data directory: SIGKILL leaves nothing in /dev/shm
    "log_line_prefix": "%m [%p] %b ",
}


def make_files(
    server: ServerBinaries,
    sandbox: Sandbox,
    folder: Path,
    *,
    settings: Mapping[str, str],
    password: str,
    dbname: str,
    timeout: float,
) -> None:
    """Make the files of a new primary in a new folder.

    Args:
        server: the PostgreSQL to use.
        sandbox: runs its programs.
        folder: the data directory.
        settings: the content of postgresql.conf.
        password: the superuser's.
        dbname: a database to create, if it is not there.
        timeout: seconds for each program.
    """
    run_initdb(server, sandbox, folder, timeout)
    files.append(
        folder, "postgresql.conf", "".join(f"{name} = {quoted(value)}\n" for name, value in settings.items())
    )
    files.write(folder, "pg_hba.conf", RULES)
    # This start also records max_connections and the like in the control file; a standby compares them.
    statements = f"ALTER ROLE {USER} PASSWORD '{make_verifier(password)}'\n"
    if dbname not in ("postgres", "template1"):
        statements += f'CREATE DATABASE "{dbname}"\n'
    options = ["-c", "synchronous_standby_names=", "postgres"]
    sandbox.run("postgres", "--single", "-D", folder, *options, stdin=statements, timeout=timeout)


def run_initdb(server: ServerBinaries, sandbox: Sandbox, folder: Path, timeout: float) -> None:
    """Run initdb in a new folder. Its pg_hba.conf rejects everybody until the caller replaces it."""
    options = f"-U {USER} -A reject -E UTF8 --locale=C -k --no-sync".split()
    if server.major >= 14:
        options.append("--no-instructions")
    # So that initdb leaves nothing in /dev/shm after SIGKILL; older versions have no such option.
    if server.major >= 16:
        options += ["-c", "dynamic_shared_memory_type=mmap"]
    sandbox.make_folder(folder)
    sandbox.run("initdb", "-D", folder, *options, timeout=timeout)
