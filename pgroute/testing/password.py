"""The password of a cluster: known to its servers by a verifier, to its clients by a file that nobody else may read."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from pathlib import Path

ITERATIONS = 1
"""Of SCRAM. More of them only slow down guessing, which is hopeless against chance of this size, and each login."""
LONGEST = 200

RULES = """\
# Any user of this machine can reach these ports and may try to reach these sockets: everybody is asked for a password.
local all         all           scram-sha-256
host  all         all 127.0.0.0/8 scram-sha-256
host  all         all ::1/128     scram-sha-256
local replication all           scram-sha-256
host  replication all 127.0.0.0/8 scram-sha-256
host  replication all ::1/128     scram-sha-256
"""
"""The content of pg_hba.conf."""


def make_password() -> str:
    """Return 192 bits of chance, as letters that no quoting changes."""
    return secrets.token_urlsafe(24)


def check_password(password: str) -> None:
    """Raise ValueError for a password that SCRAM would change, or a password file could not hold."""
    if not 0 < len(password) <= LONGEST or not password.isascii() or not password.isprintable():
        raise ValueError(f"password must be 1 to {LONGEST} printable ASCII characters")


def make_verifier(password: str) -> str:
    """Return what PostgreSQL stores of a password (RFC 5803), made here since a server would take more iterations."""
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, ITERATIONS)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    parts = [
        base64.b64encode(part).decode()
        for part in (salt, stored, hmac.digest(salted, b"Server Key", "sha256"))
    ]
    return f"SCRAM-SHA-256${ITERATIONS}:{parts[0]}${parts[1]}:{parts[2]}"


def file_content(password: str) -> str:
    """Return the content of a password file that says it for any server and any role."""
    escaped = password.replace("\\", "\\\\").replace(":", "\\:")
    return f"*:*:*:*:{escaped}\n"


def for_uri(passfile: Path | None) -> str:
    """Return the end of a libpq URI that has libpq look into the file."""
    if passfile is None:
        return ""
    return "?" + "&".join(f"{name}={quote(value, safe='/')}" for name, value in parameters(passfile).items())


def parameters(passfile: Path) -> dict[str, str]:
    """Return the parameters of libpq for that: an empty password keeps that of PGPASSWORD out."""
    return {"password": "", "passfile": str(passfile)}
