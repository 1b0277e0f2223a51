"""A DNS server on loopback whose zone is a script: answers change, fail, come late, or do not fit into a datagram."""

from __future__ import annotations

import socketserver
import struct
import threading
from collections import Counter
from typing import Any, Self

import dns.resolver
from dnslib import AAAA, CNAME, QTYPE, RCODE, RR, SRV, A, DNSRecord

SERVFAIL, NXDOMAIN, SILENCE, TRUNCATED = "SERVFAIL", "NXDOMAIN", "SILENCE", "TRUNCATED"


class NameServer:
    """The server, over UDP and TCP.

    Attributes:
        zone: by name, or by (name, type): addresses, a CNAME as "-> name", SRV records as (priority, weight, port,
            target), or one of the words above; TRUNCATED ahead of the rest has it told over TCP only.
        ttl: seconds, of every record.
        asked: how often each (name, type) was asked for.
    """

    def __init__(self) -> None:
        self.zone: dict[Any, Any] = {}
        self.ttl = 1
        self.asked: Counter[tuple[str, str]] = Counter()
        self.tcp = 0
        self._lock = threading.Lock()
        outer = self

        class Datagram(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                data, sock = self.request
                answer = outer.answer(data, tcp=False)
                if answer is not None:
                    sock.sendto(answer, self.client_address)

        class Stream(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                head = self.rfile.read(2)
                if len(head) < 2:
                    return  # the resolver has gone
                (size,) = struct.unpack("!H", head)
                answer = outer.answer(self.rfile.read(size), tcp=True)
                if answer is not None:
                    self.wfile.write(struct.pack("!H", len(answer)) + answer)

        while True:
            self._tcp = socketserver.TCPServer(("127.0.0.1", 0), Stream)
            self.port: int = self._tcp.server_address[1]
            try:
                self._udp = socketserver.UDPServer(("127.0.0.1", self.port), Datagram)
            except OSError:  # that port is somebody's for UDP
                self._tcp.server_close()
            else:
                break
        self._threads = [
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
            for server in (self._udp, self._tcp)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for server in (self._udp, self._tcp):
            server.shutdown()
            server.server_close()
        for thread in self._threads:
            thread.join()

    @property
    def resolver(self) -> dns.resolver.Resolver:
        """A dnspython resolver that asks this server."""
        resolver = dns.resolver.Resolver(configure=False)
        resolver.nameservers = ["127.0.0.1"]
        resolver.port = self.port
        return resolver

    def count(self, name: str = "") -> int:
        """Return how many questions came, about one name or all."""
        with self._lock:
            return sum(n for (asked, _), n in self.asked.items() if name in ("", asked))

    def answer(self, data: bytes, *, tcp: bool) -> bytes | None:
        """Return the answer to a question, None for silence."""
        request = DNSRecord.parse(data)
        name, kind = str(request.q.qname).rstrip("."), QTYPE[request.q.qtype]
        with self._lock:
            self.asked[name, kind] += 1
            self.tcp += tcp
        reply = request.reply()
        records = self.zone.get((name, kind), self.zone.get(name, NXDOMAIN))
        if records == SILENCE:
            return None
        if isinstance(records, str):
            reply.header.rcode = getattr(RCODE, records)
            return bytes(reply.pack())
        if TRUNCATED in records and not tcp:
            reply.header.tc = 1
            return bytes(reply.pack())
        for _ in range(10):
            aliases = [r[3:] for r in records if isinstance(r, str) and r.startswith("-> ")]
            if not aliases:
                break
            reply.add_answer(RR(name, QTYPE.CNAME, rdata=CNAME(aliases[0]), ttl=self.ttl))
            name = aliases[0]
            records = self.zone.get(name, [])
        for record in records:
            if isinstance(record, tuple) and kind == "SRV":
                reply.add_answer(RR(name, QTYPE.SRV, rdata=SRV(*record), ttl=self.ttl))
            elif isinstance(record, str) and record != TRUNCATED:
                version = "AAAA" if ":" in record else "A"
                if version == kind:
                    rdata = AAAA(record) if version == "AAAA" else A(record)
                    reply.add_answer(RR(name, getattr(QTYPE, kind), rdata=rdata, ttl=self.ttl))
        return bytes(reply.pack())
