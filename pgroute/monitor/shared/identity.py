"""What the observations of a host depend on: only processes that agree in all of it may share a watch."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from psycopg import pq

from pgroute.core.config.dns_names import is_name
from pgroute.core.model.version import VERSION
from pgroute.core.topology.wire import WIRE_FORMAT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pgroute.core.config.lookups import ResolverSpec
    from pgroute.core.config.options import ProbeOptions
    from pgroute.core.model.roles import HostKey
    from pgroute.runtime.credentials import CredentialSource

_NAMESPACES = ("mnt", "net", "time", "user")
_ENVIRONMENT = frozenset(
    {
        "HOME", "HOSTALIASES", "KRB5CCNAME", "KRB5_CONFIG", "LOCALDOMAIN", "OPENSSL_CONF", "RES_OPTIONS",
        "SSL_CERT_DIR", "SSL_CERT_FILE",
    }
)  # fmt: skip
_FILES = ("passfile", "servicefile", "sslcert", "sslcrl", "sslcrldir", "sslkey", "sslrootcert")
_NAMES_ONLY = frozenset({"application_name", "fallback_application_name"})
_NO_PATH = frozenset({"", "system"})


class Identity:
    """What the observations depend on, as bytes. It holds a password: only a keyed digest of it may be told.

    Args:
        values: can be written as JSON.
    """

    __slots__ = ("_data",)

    def __init__(self, values: object) -> None:
        self._data = json.dumps(values).encode()

    def digest(self, key: bytes, size: int) -> str:
        """Return *size* bytes as hexadecimal digits, which say nothing to anybody who does not have the key."""
        import hmac

        # Not BLAKE2: Pythons that keep to FIPS refuse it.
        return hmac.digest(key, self._data, "sha256")[:size].hex()


class NotShareable(Exception):
    """Other processes cannot share this watch; the text says why."""


class NotKnown(NotShareable):
    """It cannot be told now whether they can: there is no descriptor left, say."""


def identity(
    key: HostKey,
    params: Mapping[str, str],
    *,
    resolver: ResolverSpec,
    options: ProbeOptions,
    source: CredentialSource | None,
) -> Identity:
    """Return what the observations of a host depend on.

    Args:
        key: the host.
        params: the parameters of the probe connection.
        resolver: looks the names up.
        options: the probe options.
        source: calls the credentials function of the router; None: it has none.

    Raises:
        NotShareable: they depend on what other processes do not have.
        NotKnown: it cannot be found out now.
    """
    if not options.share:
        raise NotShareable("share=False")
    if sys.platform != "linux":
        raise NotShareable("this needs Linux")
    if source is not None:
        raise NotShareable("a credentials function belongs to its process")
    if is_name(key) and not isinstance(resolver, str):
        raise NotShareable("a resolver of its own belongs to its process")
    named: list[object] | None = None
    if is_name(key):  # where it leads, and whether it is followed to another cluster
        named = [resolver, options.min_ttl, options.max_ttl, options.lookup_timeout]
        named += [options.check_system_id, options.system_id]
    # In no variable: a traceback may be shown with all of them.
    return Identity(
        [
            [WIRE_FORMAT, VERSION, pq.version()],
            [key.host, key.port, key.hostaddr],
            options.timeout,  # what is true of a slow host depends on it
            sorted((name, value) for name, value in params.items() if name not in _NAMES_ONLY),
            named,
            _process(),
            sorted((name, value) for name, value in os.environ.copy().items() if _matters(name)),
            _working_directory() if _has_relative_path(params) else None,
        ]
    )


def _working_directory() -> str:
    try:
        return str(Path.cwd())
    except OSError as exc:
        raise NotKnown(f"the working directory cannot be told: {exc.strerror}") from None


def _matters(name: str) -> bool:
    return name in _ENVIRONMENT or (name.startswith("PG") and name != "PGAPPNAME")


def _has_relative_path(params: Mapping[str, str]) -> bool:
    return any(
        not (path in _NO_PATH or path.startswith("/"))
        for path in (
            *(params.get(name, "") for name in _FILES),
            *(os.environ.get(f"PG{name.upper()}", "") for name in _FILES),
        )
    )


def _process() -> list[object]:
    """Return whose process this is, and which machine, network, file system and clock it sees."""
    try:
        places = [Path(path).stat() for path in (*(f"/proc/self/ns/{name}" for name in _NAMESPACES), "/")]
        return [
            os.geteuid(),
            os.getegid(),
            sorted(os.getgroups()),
            [(place.st_dev, place.st_ino) for place in places],
            Path("/proc/sys/kernel/random/boot_id").read_text("ascii"),
            # Rules of a firewall may be of a group of processes.
            Path("/proc/self/cgroup").read_text("utf-8", "surrogateescape"),
        ]
    except OSError as exc:
        raise NotKnown(f"cannot tell in which namespaces this process is: {exc.strerror}") from None
