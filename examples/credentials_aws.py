"""Log in to RDS and Aurora with IAM tokens: a credentials function to copy.

Not tried with AWS. `tests/examples/test_credentials.py` runs it with a stand-in for boto3.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import pgroute

GOOD_FOR = 10 * 60.0
"""Seconds for which a token is used. AWS accepts one for 15 minutes, and lets connections that are open go on."""


class IamTokens:
    """The tokens of one database user, one for each host, signed anew when they are old or were refused.

    boto3 signs them on this machine. It may ask the instance for its AWS credentials before, which takes a moment.

    The DSN needs the hosts' own names, as the token is for one of them, and sslmode=require or stronger.

    Args:
        user: the database user, who has the role rds_iam.
        region: of the hosts.
        client: boto3's for "rds"; None: made when it is needed.
    """

    def __init__(self, user: str, region: str, client: Any = None) -> None:
        self._user = user
        self._region = region
        self._client = client
        self._lock = threading.Lock()
        self._tokens: dict[tuple[str, int], tuple[float, str]] = {}

    def __call__(self, request: pgroute.CredentialRequest) -> dict[str, str]:
        """Return the user and a token for the host."""
        where = (request.host, request.port)
        with self._lock:
            signed_at, token = self._tokens.get(where, (float("-inf"), ""))
            if request.refused or time.monotonic() - signed_at > GOOD_FOR:
                token = self._sign(*where)
                self._tokens[where] = (time.monotonic(), token)
        return {"user": self._user, "password": token}

    def _sign(self, host: str, port: int) -> str:
        if self._client is None:
            import boto3  # slow to import, and not needed to run the tests

            self._client = boto3.client("rds", region_name=self._region)
        token: str = self._client.generate_db_auth_token(
            DBHostname=host, Port=port, DBUsername=self._user, Region=self._region
        )
        return token


def router(hosts: str, user: str, region: str) -> pgroute.Router:
    """Return a router for these hosts; *hosts* is as in a DSN."""
    dsn = f"postgresql://{hosts}/shop?sslmode=verify-full&sslrootcert=/etc/pg/rds-global-bundle.pem"
    return pgroute.Router(dsn, credentials=IamTokens(user, region))
