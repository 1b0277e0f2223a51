"""One watch per machine: what it saves, and what happens when the process that watches ends or hangs under load.

    python -m benchmarks.shared_watch [--processes 1,16,64] [--seconds 20] [--trials 5] [--writers 16] [--json FILE]

Each process has a router to the same three hosts and is forked from this one, as a server does. With the shared watch
and without, the first part tells for each number of idle processes the probe connections and probes per second of each
host, and the processor time of all processes. In the second part all processes write while the primary is killed and a
standby promoted; the process that watches is left alone, killed or stopped at the same moment.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import statistics
import tempfile
import threading
import time
from pathlib import Path

import psycopg

import pgroute
from pgroute.testing import LocalCluster

SLOTS = 200
"""max_connections of the servers: each process of 64 that do not share has a probe and pools of its own."""
COUNTED = """SELECT count(*), pg_stat_get_db_xact_commit(min(datid)) FROM pg_stat_activity
WHERE application_name LIKE '%pgroute-monitor%'"""


class Writer:
    """Writes all the time, and keeps when it succeeded where, and how often it failed."""

    def __init__(self, router):
        self.writes, self.errors = [], 0
        self.router = router
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.write)
        self.thread.start()

    def write(self):
        while not self.stopped.is_set():
            try:
                with self.router.writer() as conn:
                    conn.execute("INSERT INTO written DEFAULT VALUES")
                self.writes.append((time.monotonic(), conn.info.port))
            except psycopg.Error:
                self.errors += 1
            self.stopped.wait(0.01)

    def stop(self):
        self.stopped.set()
        self.thread.join()
        return [self.writes, self.errors]


def serve(commands, dsn, share):
    """Be one process of the application."""
    writer = None
    with pgroute.Router(dsn, probe=pgroute.ProbeOptions(share=share)) as router:
        while command := commands.recv(100).decode():
            told = True
            match command:
                case "up":
                    told = [host.state.value for host in router.topology.hosts].count("up")
                case "cpu":
                    told = time.process_time()
                case "modes":
                    told = [watch.mode for watch in router.stats().watches.values()]
                case "write":
                    writer = Writer(router)
                case "stop":
                    told = writer.stop()
            commands.send(json.dumps(told).encode())


class Process:
    """One process of the application."""

    def __init__(self, dsn, share):
        self.commands, other = socket.socketpair()
        self.pid = os.fork()
        if not self.pid:
            try:
                self.commands.close()
                serve(other, dsn, share)
            finally:
                os._exit(0)
        other.close()

    def ask(self, command):
        self.commands.send(command.encode())
        data = b""
        while True:
            data += self.commands.recv(1 << 20)
            try:
                return json.loads(data)
            except ValueError:
                continue

    def end(self):
        for number in (signal.SIGCONT, signal.SIGTERM):
            os.kill(self.pid, number)
        os.waitpid(self.pid, 0)
        self.commands.close()


class Processes:
    """So many of them, all of which know all hosts."""

    def __init__(self, count, cluster, share):
        self.all = [Process(cluster.dsn, share) for _ in range(count)]
        for process in self.all:
            while process.ask("up") < len(cluster.nodes):
                time.sleep(0.02)

    def __enter__(self):
        return self.all

    def __exit__(self, *_):
        for process in self.all:
            process.commands.close()
        for process in self.all:
            process.end()


def counted(cluster):
    """Return the probe connections and the transactions so far of each host."""
    time.sleep(1.2)  # the servers tell their counters once in a second
    return [node.execute(COUNTED)[0] for node in cluster.nodes]


def idle(cluster, count, share, seconds):
    """Return what idle processes cost."""
    with Processes(count, cluster, share) as processes:
        time.sleep(2.0)
        began, before = time.monotonic(), counted(cluster)
        cpu = sum(process.ask("cpu") for process in processes)
        time.sleep(seconds)
        after = counted(cluster)
        cpu = sum(process.ask("cpu") for process in processes) - cpu
        passed = time.monotonic() - began
    return {
        "processes": count,
        "shared": share,
        "connections per host": max(n for n, _ in after),
        "probes per second and host": statistics.mean(
            (later - earlier - 1) / passed for (_, earlier), (_, later) in zip(before, after, strict=True)
        ),
        "cores, all processes": cpu / passed,
    }


def failover(count, share, fault, rng):
    """Return when processes wrote again after a promotion was seen, and the errors that they saw."""
    with LocalCluster(settings={"max_connections": str(SLOTS)}) as cluster:
        cluster.primary.execute("CREATE TABLE written (at timestamptz DEFAULT clock_timestamp())")
        cluster.catch_up()
        with Processes(count, cluster, share) as processes:
            for process in processes:
                process.ask("write")
            time.sleep(1.0)
            watching = [process for process in processes if "shared" in process.ask("modes")]
            old, new = cluster.nodes[:2]
            old.kill()
            if fault != "none":
                for process in watching:
                    os.kill(process.pid, signal.SIGKILL if fault == "killed" else signal.SIGSTOP)
            time.sleep(0.5 + 2.0 * rng.random())
            with psycopg.connect(new.conninfo, autocommit=True) as conn:
                conn.execute("SELECT pg_promote(false)")
                while conn.execute("SELECT pg_is_in_recovery()").fetchone() != (False,):
                    time.sleep(0.001)
                seen_at = time.monotonic()
            time.sleep(3.0)
            left = processes if fault == "none" else [p for p in processes if p not in watching]
            told = [process.ask("stop") for process in left]
    firsts = [min((at for at, port in writes if port == new.port), default=None) for writes, _ in told]
    return {
        "firsts": [None if first is None else first - seen_at for first in firsts],
        "errors": [errors for _, errors in told],
    }


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--processes", default="1,16,64")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--writers", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    meeting = tempfile.TemporaryDirectory(
        prefix="pgroute-"
    )  # where they share their watch; a killed one leaves files
    os.environ["TMPDIR"] = meeting.name
    measured = {"idle": [], "failover": []}
    with LocalCluster(settings={"max_connections": str(SLOTS)}) as cluster:
        for count in map(int, filter(None, args.processes.split(","))):
            for share in (False, True):
                row = idle(cluster, count, share, args.seconds)
                measured["idle"].append(row)
                print(", ".join(f"{name}: {value:.4g}" for name, value in row.items()), flush=True)
    rng = random.Random(args.seed)
    for share, fault in ((False, "none"), (True, "none"), (True, "killed"), (True, "stopped")):
        trials = [failover(args.writers, share, fault, rng) for _ in range(args.trials)]
        firsts = [first for trial in trials for first in trial["firsts"]]
        errors = [n for trial in trials for n in trial["errors"]]
        measured["failover"].append({"shared": share, "watching": fault, "trials": trials})
        if trials:
            never = firsts.count(None)
            known = sorted(1e3 * first for first in firsts if first is not None)
            print(
                f"shared: {share}, the one that watches: {fault}; first write of a process after the promotion:"
                f" median {statistics.median(known):.1f} ms, last {known[-1]:.1f} ms, never {never};"
                f" sessions failed per process: {statistics.mean(errors):.2f}, most {max(errors)}",
                flush=True,
            )
    if args.json:
        args.json.write_text(json.dumps(measured, indent=1) + "\n")


if __name__ == "__main__":
    main()
