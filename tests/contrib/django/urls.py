"""The pages of these tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import chain
from typing import Any

from asgiref.sync import sync_to_async
from django.db import connections, transaction
from django.http import HttpRequest, JsonResponse, StreamingHttpResponse
from django.urls import path

from tests.contrib.django.models import Note


def port_of(alias: str) -> int:
    """Return where the connection of an alias in this thread leads."""
    connections[alias].ensure_connection()
    port: int = connections[alias].connection.info.port
    return port


def write(request: HttpRequest, text: str) -> JsonResponse:
    with transaction.atomic():
        Note.objects.create(text=text)
    return JsonResponse({"written_to": port_of("default")})


def write_without_transaction(request: HttpRequest, text: str) -> JsonResponse:
    Note.objects.create(text=text)
    return JsonResponse({"written_to": port_of("default")})


def read(request: HttpRequest) -> JsonResponse:
    found = Note.objects.order_by("id")
    texts = [note.text for note in found]
    return JsonResponse({"notes": texts, "alias": found.db, "read_from": port_of(found.db)})


async def write_async(request: HttpRequest, text: str) -> JsonResponse:
    await Note.objects.acreate(text=text)
    return JsonResponse({"written_to": await sync_to_async(port_of)("default")})


async def read_async(request: HttpRequest) -> JsonResponse:
    texts = [note.text async for note in Note.objects.order_by("id")]
    return JsonResponse({"notes": texts, "read_from": await sync_to_async(port_of)("reader")})


def stream(request: HttpRequest, text: str) -> StreamingHttpResponse:
    """Answer with the rows, of which the first is read before; one is written before."""
    Note.objects.create(text=text)
    connections["default"].close()  # so that the rows are read by the alias for reading
    rows = Note.objects.order_by("id").iterator(chunk_size=2)
    first = next(rows)
    return StreamingHttpResponse(f"{note.text} " for note in chain([first], rows))


def stream_late(request: HttpRequest, text: str) -> StreamingHttpResponse:
    """Answer with rows that are read while the answer is sent; one is written before."""
    Note.objects.create(text=text)
    return StreamingHttpResponse(f"{note.text} " for note in Note.objects.order_by("id").iterator())


async def stream_async(request: HttpRequest, text: str) -> StreamingHttpResponse:
    await Note.objects.acreate(text=text)

    async def rows() -> AsyncIterator[str]:
        async for note in Note.objects.order_by("id").aiterator():
            yield f"{note.text} "

    return StreamingHttpResponse(rows())


def nothing(request: HttpRequest) -> JsonResponse:
    return JsonResponse({})


urlpatterns: list[Any] = [
    path("write/<text>", write),
    path("write-plain/<text>", write_without_transaction),
    path("read", read),
    path("awrite/<text>", write_async),
    path("aread", read_async),
    path("stream/<text>", stream),
    path("stream-late/<text>", stream_late),
    path("astream/<text>", stream_async),
    path("nothing", nothing),
]
