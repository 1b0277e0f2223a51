"""Base classes that name the right face when an object is used with the wrong kind of `with` or `for`."""

from __future__ import annotations

from typing import TYPE_CHECKING


class Face:
    """An object for `with` that refuses `async with`. Hidden from type checkers, which report that themselves."""

    __slots__ = ()

    if not TYPE_CHECKING:

        async def __aenter__(self) -> None:
            raise TypeError("a Router and its sessions are for `with`; for `async with`, use AsyncRouter")

        async def __aexit__(self, *_: object) -> None: ...


class AsyncFace:
    """An object for `async with` that refuses `with`. Hidden from type checkers, which report that themselves."""

    __slots__ = ()

    if not TYPE_CHECKING:

        def __enter__(self) -> None:
            raise TypeError("an AsyncRouter and its sessions are for `async with`; for `with`, use Router")

        def __exit__(self, *_: object) -> None: ...


class LoopFace:
    """An iterator for `for` that refuses `async for`."""

    if not TYPE_CHECKING:

        def __aiter__(self) -> None:
            raise TypeError("the attempts of a Router are for `for`; for `async for`, use AsyncRouter")


class AsyncLoopFace:
    """An iterator for `async for` that refuses `for`."""

    if not TYPE_CHECKING:

        def __iter__(self) -> None:
            raise TypeError("the attempts of an AsyncRouter are for `async for`; for `for`, use Router")
