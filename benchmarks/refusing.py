"""All hosts refuse: the cost of the router, and how often it tries each host, with waiting callers.

    python benchmarks/refusing.py [--seconds 10] [--hosts 3] [--waiters 20] [--json FILE]

Three kinds of hosts: closed ports, ports that close each connection (counted by a process of its own), and servers that
answer 57P03, "the database system is starting up". The figure is processor time of this process over elapsed time.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import socket
import threading
import time
from pathlib import Path

from versions import finish

import pgroute

STARTING = b"SFATAL\0VFATAL\0C57P03\0Mthe database system is starting up\0\0"
KINDS = ("closed", "hangs up", "starting")


def serve(listener, count, starting):
    """Count the connections, and close each, first telling that the server is starting if so wanted."""
    while True:
        peer, _ = listener.accept()
        with peer, contextlib.suppress(OSError):
            count.value += 1
            if starting:
                peer.settimeout(1.0)
                while (packet := peer.recv(1024))[4:8] in (b"\x04\xd2\x16\x2f", b"\x04\xd2\x16\x30"):
                    peer.sendall(b"N")  # neither TLS nor GSSAPI here
                if packet:
                    peer.sendall(b"E" + (len(STARTING) + 4).to_bytes(4, "big") + STARTING)


@contextlib.contextmanager
def hosts(kind, number):
    """Give the ports of a number of hosts, and the counts of connections, None if they cannot be counted."""
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [listener.getsockname()[1] for listener in listeners]
    counts = [multiprocessing.Value("i", 0) for _ in listeners]
    processes = []
    if kind != "closed":
        processes = [
            multiprocessing.Process(target=serve, args=(listener, count, kind == "starting"), daemon=True)
            for listener, count in zip(listeners, counts, strict=True)
        ]
    for process in processes:
        process.start()
    for listener in listeners:
        listener.close()
    try:
        yield ports, counts if processes else None
    finally:
        for process in processes:
            process.kill()
            process.join()


def wait_in_vain(router, seconds, late):
    begun = time.monotonic()
    with contextlib.suppress(pgroute.NoHostAvailable), router.writer(seconds):
        pass
    late.append(time.monotonic() - begun - seconds)


def measure(kind, args):
    late: list[float] = []
    with hosts(kind, args.hosts) as (ports, counts):
        dsn = "postgresql://postgres@" + ",".join(f"127.0.0.1:{port}" for port in ports) + "/postgres"
        with pgroute.Router(dsn) as router:
            threads = [
                threading.Thread(target=wait_in_vain, args=(router, args.seconds, late))
                for _ in range(args.waiters)
            ]
            start, cpu = time.monotonic(), time.process_time()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            took, cpu = time.monotonic() - start, time.process_time() - cpu
            states = sorted({host.state.value for host in router.topology.hosts})
        tried = [count.value for count in counts] if counts else None
    return {
        "hosts": kind,
        "states": states,
        "seconds": took,
        "cpu_percent": 100 * cpu / took,
        "attempts": tried,
        "attempts_per_host_and_second": max(tried) / took if tried else None,
        "latest_after_deadline_ms": max(late) * 1000,
    }


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="of the outage (default 10)")
    parser.add_argument("--hosts", type=int, default=3, help="in the DSN (default 3)")
    parser.add_argument("--waiters", type=int, default=20, help="threads that wait for a writer (default 20)")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    args = parser.parse_args()
    # Imports and the first use of everything are not what is measured.
    measure("closed", argparse.Namespace(seconds=0.2, hosts=1, waiters=1))
    rows = []
    print(f"{'hosts':<9} {'state':<9} {'CPU':>7}  {'attempts per host and second':>29} {'late':>9}")
    for kind in KINDS:
        row = measure(kind, args)
        rows.append(row)
        rate = row["attempts_per_host_and_second"]
        print(
            f"{kind:<9} {','.join(row['states']):<9} {row['cpu_percent']:>5.2f} %  "
            f"{'-' if rate is None else format(rate, '.2f'):>29} {row['latest_after_deadline_ms']:>6.1f} ms",
            flush=True,
        )
    finish(args, rows)


if __name__ == "__main__":
    main()
