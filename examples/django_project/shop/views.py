"""What the shop answers."""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from django.db import Error, connections, transaction
from django.http import HttpRequest, HttpResponse, JsonResponse

import pgroute
from pgroute.contrib.django import get_router
from shop.models import Order

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger("shop")


class ErrorMiddleware:
    """Tells clients what they can do about errors of the database.

    Args:
        get_response: the next middleware, or the view.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Serve a request."""
        return self._get_response(request)

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        """Answer a request whose view has raised an error."""
        if not isinstance(error, Error):
            return None
        logger.warning("%s %s: %s", request.method, request.path, error)
        if isinstance(error, pgroute.PositionLost):
            # A failover has lost what the user has written or seen. The next request begins anew.
            return JsonResponse(
                {"error": "your last change may be lost: look, then send this again"}, status=409
            )
        told = "this was not done: send the same request again"
        if isinstance(error, pgroute.CommitUnknown):
            # The answer to COMMIT was lost. The same request settles it: its key is unique.
            told = "it is not known whether this was done: send the same request again"
        return JsonResponse({"error": told}, status=503, headers={"Retry-After": "1"})


def orders(request: HttpRequest) -> HttpResponse:
    """List the last orders, or place one."""
    if request.method == "POST":
        return place(request)
    # From a standby that has what this user has written; see PositionMiddleware.
    found = Order.objects.order_by("-id")[:20]
    told = [{"id": order.id, "item": order.item} for order in found]
    return JsonResponse({"orders": told, "read_from": connections[found.db].connection.info.port})


def place(request: HttpRequest) -> HttpResponse:
    """Place an order, once for each key."""
    try:
        body = json.loads(request.body)
    except ValueError:
        body = None
    item = body.get("item") if isinstance(body, dict) else None
    key = request.headers.get("Idempotency-Key", "")
    if not (isinstance(item, str) and 1 <= len(item) <= 200 and item.isprintable() and 1 <= len(key) <= 200):
        error = "expected an item, and a header Idempotency-Key, of 1 to 200 characters"
        return JsonResponse({"error": error}, status=400)
    with transaction.atomic():
        order, _ = Order.objects.get_or_create(key=key, defaults={"item": item})
    if order.item != item:
        return JsonResponse({"error": "this Idempotency-Key belongs to an order of another item"}, status=422)
    written_to = connections["default"].connection.info.port
    return JsonResponse({"id": order.id, "item": item, "written_to": written_to}, status=201)


def order(request: HttpRequest, number: int) -> HttpResponse:
    """Cancel an order."""
    if request.method != "DELETE":
        return HttpResponse(status=405)
    with transaction.atomic():
        Order.objects.filter(id=number).delete()
    return HttpResponse(status=204)


def health(request: HttpRequest) -> HttpResponse:
    """Tell whether orders can be written: 503 takes the process out of the load balancer."""
    router = get_router()
    if not router.topology.initial_scan_done:  # opened by this request: it has not seen the hosts yet
        with suppress(pgroute.AcquireTimeout):
            router.wait(timeout=1)
    topology = router.topology
    reasons = [f"{host.key} is {host.state.value}: {host.reason}" for host in topology.hosts if host.reason]
    if not topology.writable:
        reasons.insert(0, topology.why_not_writable)
    told = {
        "writable": topology.writable,
        "primary": str(topology.primary.key) if topology.primary else None,
        "standbys": [str(host.key) for host in topology.standbys],
        "reasons": reasons,
    }
    return JsonResponse(told, status=200 if topology.writable else 503)
