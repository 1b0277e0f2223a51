"""Answers of Patroni, as it gives them."""

from __future__ import annotations

import json
from typing import Any

MEMBERS: tuple[dict[str, Any], ...] = (
    {
        "name": "pg1",
        "role": "leader",
        "state": "running",
        "api_url": "http://pg1:8008/patroni",
        "host": "pg1",
        "port": 5432,
        "timeline": 1,
    },
    {
        "name": "pg2",
        "role": "sync_standby",
        "state": "streaming",
        "api_url": "http://pg2:8008/patroni",
        "host": "pg2",
        "port": 5432,
        "timeline": 1,
        "receive_lag": 0,
        "receive_lsn": "0/4045928",
        "replay_lag": 128,
        "replay_lsn": "0/4045928",
        "lag": 0,
        "lsn": "0/4045928",
        "tags": {"zone": "eu-1", "nofailover": True},
    },
    {
        "name": "pg3",
        "role": "replica",
        "state": "in archive recovery",
        "api_url": "http://pg3:8008/patroni",
        "host": "pg3",
        "port": 5432,
        "lag": "unknown",
        "lsn": "unknown",
        "tags": {"noloadbalance": True, "zone": 7},
    },
)
"""Three members of Patroni 4.1; "tags" and "lag" are there if they say something."""


def cluster(*changes: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return an answer whose members have some changes, in their order."""
    changed = [*changes, *({} for _ in MEMBERS)]
    members = [{**member, **change} for member, change in zip(MEMBERS, changed, strict=False)]
    return {"members": members, "scope": "shop", **more}


def body(told: object) -> bytes:
    return json.dumps(told).encode()
