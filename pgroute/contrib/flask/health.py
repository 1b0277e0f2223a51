"""A blueprint for health checks."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from flask import Blueprint, jsonify

from pgroute.contrib.web.health import health_check
from pgroute.core.model.roles import Role

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flask import Response

    from pgroute.contrib.flask.extension import PGRoute

FIRST_LOOK = 1.0
"""Seconds for which a check waits for the first probes of a router."""


def health_blueprint(
    db: PGRoute, roles: Sequence[str | Role] = ("writer",), *, details: bool = False, name: str = "health"
) -> Blueprint:
    """Return routes for health checks, for ``app.register_blueprint(health_blueprint(db), url_prefix="/health")``.

    ``/live`` is always 200: a process without a primary needs no restart, its router finds the next one. ``/ready`` is
    200 if there is a host for each of *roles*, else 503. ``/writer`` and ``/reader`` ask for one role. No request asks
    a server; they tell what the last probes have seen. The first one opens the router and waits up to a second for
    them.

    Args:
        db: the extension.
        roles: what the application cannot do without: "writer", "reader" or both.
        details: tell the hosts and the reasons too: not for the public.
        name: of the blueprint.

    Raises:
        ConfigError: an argument is invalid.
    """
    check = health_check(roles, details=details)
    blueprint = Blueprint(name, __name__)

    def asking(role: Role | None) -> Callable[[], tuple[Response, int]]:
        def answer() -> tuple[Response, int]:
            topology = db.router.topology
            deadline = time.monotonic() + FIRST_LOOK
            while not (
                topology.initial_scan_done or check.ready(topology, role) or time.monotonic() > deadline
            ):
                time.sleep(0.005)
                topology = db.router.topology
            return jsonify(check.describe(topology)), 200 if check.ready(topology, role) else 503

        return answer

    def live() -> Response:
        return jsonify(live=True)

    blueprint.add_url_rule("/live", "live", live)
    blueprint.add_url_rule("/ready", "ready", asking(None))
    for role in Role:
        blueprint.add_url_rule(f"/{role.value}", role.value, asking(role))
    return blueprint
