"""Where the URL of a REST API leads, and the request that asks there."""

from __future__ import annotations

from typing import NamedTuple


class Target(NamedTuple):
    """Where a URL leads.

    Attributes:
        host: the name or address.
        port: the port.
        path: with which the path of the request begins; empty, or "/" and more.
        tls: whether TLS is used.
    """

    host: str
    port: int
    path: str
    tls: bool

    def request(self, path: str) -> bytes:
        """Return the request for a path.

        As HTTP/1.0, whose answers end with the connection and never come in chunks.
        """
        host = f"[{self.host}]" if ":" in self.host else self.host
        head = (
            f"GET {self.path}{path} HTTP/1.0",
            f"Host: {host}:{self.port}",
            "User-Agent: pgroute",
            "Accept: application/json",
            "Connection: close",
        )
        return "\r\n".join((*head, "", "")).encode("ascii", "replace")


def target_of(url: str) -> Target:
    """Return where an http or https URL leads.

    Raises:
        ValueError: it is none, or has more than host, port and path.
    """
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("not printable ASCII")
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    tls = parts.scheme == "https"
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("not an http or https URL")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError("it has more than host, port and path")
    port = (443 if tls else 80) if parts.port is None else parts.port
    if not port:
        raise ValueError("no port")
    return Target(parts.hostname, port, parts.path.rstrip("/"), tls)
