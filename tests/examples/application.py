"""An example that serves HTTP, as a process, with a client for it and a look at what it leaves behind."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import quote

from pgroute.testing.ports import HOST, Port
from tests.support import eventually

ROOT = Path(__file__).parents[2]


class Reply(NamedTuple):
    """What a request was answered."""

    status: int
    body: Any
    retry_after: str | None
    set_cookie: str | None


class Application:
    """`python examples/NAME [ARGUMENT]...` on a free port, with temporary files in *folder* and its output in *log*.

    *modules* is a folder of modules that it may import.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        log: Path,
        *arguments: str,
        secret: str = "",
        modules: Path | None = None,
    ) -> None:
        self._port = Port()
        self._log = log
        self._temporary = folder
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-W",
                    "error",
                    f"examples/{name}",
                    *arguments,
                    "--port",
                    str(self._port.number),
                ],
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "TMPDIR": str(folder), "SECRET_KEY": secret}
                | ({} if modules is None else {"PYTHONPATH": _path_with(modules)}),
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(10)
        self._port.release()

    @property
    def output(self) -> str:
        return self._log.read_text()

    @property
    def dsn(self) -> str:
        """That of its own cluster."""
        [hosts] = re.findall(r"^orders are kept by (.+)$", self.output, re.MULTILINE)
        [passfile] = self._temporary.glob("pgroute-*/passfile")
        return f"postgresql://postgres@{hosts}/postgres?password=&passfile={quote(str(passfile))}"

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        key: str | None = None,
        cookie: str | None = None,
    ) -> Reply:
        """Send a request on a connection of its own. OSError, HTTPException: there was no answer."""
        headers = {} if body is None else {"Content-Type": "application/json"}
        if key is not None:
            headers["Idempotency-Key"] = key
        if cookie is not None:
            headers["Cookie"] = cookie
        connection = http.client.HTTPConnection(HOST, self._port.number, timeout=30)
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        told = (
            json.loads(text) if text and response.headers.get_content_type() == "application/json" else text
        )
        return Reply(response.status, told, response.headers["Retry-After"], response.headers["Set-Cookie"])

    def order(self, item: str, key: str) -> Reply:
        return self.request("POST", "/orders", {"item": item}, key)

    def wait_for_health(self, status: int) -> Any:
        """Return what the health endpoint tells once it does so with this status."""
        return self.wait_for("/health", status)

    def wait_for(self, path: str, status: int) -> Any:
        """Return what is answered to GET once that has this status."""

        def answer() -> Reply | None:
            assert self.process.poll() is None, self.output
            try:
                reply = self.request("GET", path)
            except ConnectionRefusedError:  # not there yet
                return None
            return reply if reply.status == status else None

        return eventually(answer, 30).body

    def end(self, number: signal.Signals) -> None:
        """Send a signal as the terminal does, to all that run in the foreground, and see the application end well."""
        os.killpg(self.process.pid, number)
        assert self.process.wait(30) == 0, self.output


def _path_with(folder: Path) -> str:
    return os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH", ""))))


def leftovers(folder: Path) -> list[str]:
    """What lives in a folder: files, and processes that work there or name it."""
    found = [str(path) for path in folder.iterdir()]
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if str(folder) in command or (entry / "cwd").readlink().is_relative_to(folder):
                    found.append(command)
            except OSError:
                continue
    return found
