"""Log in with a static role of HashiCorp Vault's database engine: a credentials function to copy.

Not tried with Vault. `tests/examples/test_credentials.py` runs it against a stand-in that speaks HTTP, and its
answers are those of Vault's documentation ("Database secrets engine", Get static credentials).
"""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from pathlib import Path

import pgroute

TIMEOUT = 2.0
"""Seconds for a request. A function that never returns keeps its thread."""

MARGIN = 5.0
"""Seconds before a rotation at which the password is fetched again for each connection."""


class VaultRole:
    """The user and password of a static role, kept until Vault rotates them.

    With a dynamic role (database/creds) Vault drops the user at the end of the lease: then max_lifetime of the pools
    must be shorter than that, and each connection of the probes as well, which live for a minute.

    Args:
        address: of Vault, such as "https://vault.example.com:8200".
        role: the name of the static role.
        token_file: the file with Vault's token, as its agent writes it; it is read for each request.
    """

    def __init__(self, address: str, role: str, token_file: Path) -> None:
        self._url = f"{address.rstrip('/')}/v1/database/static-creds/{role}"
        self._token_file = token_file
        self._lock = threading.Lock()
        self._until = float("-inf")
        self._known: dict[str, str] = {}

    def __call__(self, request: pgroute.CredentialRequest) -> dict[str, str]:
        """Return the user and password."""
        with self._lock:  # one request at a time, whose answer serves all
            if request.refused or time.monotonic() >= self._until:
                self._fetch()
            return self._known

    def _fetch(self) -> None:
        token = self._token_file.read_text("utf-8").strip()
        asked = urllib.request.Request(self._url, headers={"X-Vault-Token": token})  # noqa: S310  (our own URL)
        with urllib.request.urlopen(asked, timeout=TIMEOUT) as reply:  # noqa: S310
            data = json.load(reply)["data"]
        self._known = {"user": data["username"], "password": data["password"]}
        self._until = time.monotonic() + float(data["ttl"]) - MARGIN


def router(hosts: str, address: str, role: str) -> pgroute.Router:
    """Return a router for these hosts; *hosts* is as in a DSN."""
    function = VaultRole(address, role, Path("/var/run/secrets/vault-token"))
    # Probes have a second for their credentials by default: less than a request may take.
    probe = pgroute.ProbeOptions(timeout=3.0)
    return pgroute.Router(f"postgresql://{hosts}/shop", credentials=function, probe=probe)
