"""The password of a cluster: a SCRAM verifier for its servers, a private password file for its clients."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

ITERATIONS = 1
"""Iterations of SCRAM. More would slow down each login; a random password of this length needs no protection."""
LONGEST = 200

RULES = """\
# Any user of this machine can reach these ports, and perhaps the sockets: every login needs the password.
local all         all           scram-sha-256
host  all         all 127.0.0.0/8 scram-sha-256
host  all         all ::1/128     scram-sha-256
local replication all           scram-sha-256
host  replication all 127.0.0.0/8 scram-sha-256
host  replication all ::1/128     scram-sha-256
"""
"""The content of pg_hba.conf."""


def make_password() -> str:
    """Return 192 random bits, in letters that need no quoting."""
    return secrets.token_urlsafe(24)


def check_password(password: object) -> None:
    """Raise ValueError for a password that SCRAM would normalize or a password file cannot hold."""
    text = password if isinstance(password, str) else ""
    if not 0 < len(text) <= LONGEST or not text.isascii() or not text.isprintable():
        raise ValueError(f"password must be 1 to {LONGEST} printable ASCII characters")


def make_verifier(password: str) -> str:
    """Return the verifier that PostgreSQL stores (RFC 5803); a server would compute it with more iterations."""
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, ITERATIONS)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    parts = [
        base64.b64encode(part).decode()
        for part in (salt, stored, hmac.digest(salted, b"Server Key", "sha256"))
    ]
    return f"SCRAM-SHA-256${ITERATIONS}:{parts[0]}${parts[1]}:{parts[2]}"


def file_content(password: str) -> str:
    """Return the content of a password file that applies to any server and any role."""
    escaped = password.replace("\\", "\\\\").replace(":", "\\:")
    return f"*:*:*:*:{escaped}\n"


def parameters(passfile: Path) -> dict[str, str]:
    """Return the connection parameters for a password file; the empty password overrides PGPASSWORD."""
    return {"password": "", "passfile": str(passfile)}
