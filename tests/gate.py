"""A stand-in for proxies that are run by somebody else: it reads each login, and refuses those that it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import struct
import threading
from collections.abc import Callable
from typing import Self

from pgroute.testing import Node
from tests.support import dsn_at

_NO_ENCRYPTION = (80877103, 80877104)
_CANCEL = 80877102


class Gate:
    """Stands in front of a server, in a thread of its own.

    Args:
        node: the server.
        refuse: from the parameters of a startup packet to the text of a refusal, None to let it in.

    Attributes:
        port: where it listens.
        logins: the parameters of each startup packet, in order, and whether it was let in.
    """

    def __init__(self, node: Node, refuse: Callable[[dict[str, str]], str | None]) -> None:
        self.port = 0
        self.logins: list[tuple[dict[str, str], bool]] = []
        self._node = node
        self._refuse = refuse

    @property
    def dsn(self) -> str:
        return dsn_at(f"127.0.0.1:{self.port}", self._node)

    def refused(self, **given: str) -> int:
        """Return how many logins with these parameters, among others, were refused."""
        return sum(given.items() <= params.items() for params, let_in in self.logins if not let_in)

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="gate")
        self._ready = threading.Event()
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()

    def _run(self) -> None:
        with contextlib.closing(self._loop):
            self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        self._end = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._end.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve_one(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            try:
                await self._let_in(reader, writer)
            finally:
                writer.close()

    async def _let_in(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readexactly(8)
            length, code = struct.unpack("!II", head)
            body = await reader.readexactly(length - 8)
            if code not in _NO_ENCRYPTION:
                break
            writer.write(b"N")
        if code != _CANCEL:
            words = body.decode().split("\0")
            params = dict(zip(words[::2], words[1::2], strict=False))
            text = self._refuse(params)
            self.logins.append((params, text is None))
            if text is not None:
                fields = f"SFATAL\0VFATAL\0CXX000\0M{text}\0\0".encode()
                writer.write(b"E" + struct.pack("!I", 4 + len(fields)) + fields)
                await writer.drain()
                return
        from_server, to_server = await asyncio.open_connection(self._node.host, self._node.port)
        try:
            to_server.write(head + body)
            pumps = [_pump(reader, to_server), _pump(from_server, writer)]
            await asyncio.wait(map(asyncio.ensure_future, pumps), return_when=asyncio.FIRST_COMPLETED)
        finally:
            to_server.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()
