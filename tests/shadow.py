"""Has every router of the tests be told by another watch what it observes: with `-p tests.shadow`.

Before a router's watch begins, another one of the same hosts begins in the same process. It has another application
name, so it is not shared within the process, but as between processes: through files and a socket. It leads, and so the
router's own watch is told. No test should notice, unless it counts connections or looks into the watch.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pgroute.core.config.dsn import Params
from pgroute.monitor.cluster_watch import ClusterWatch
from pgroute.monitor.membership import HostSource
from pgroute.monitor.thread import Monitor

_begin, _end = ClusterWatch.begin, ClusterWatch.end


class Nobody:
    """As the router behind a watch."""

    def on_snapshot(self, *_: Any) -> None: ...

    def sessions_at(self, *_: Any) -> int:
        return 0

    def abort(self, *_: Any) -> None: ...

    def log_error(self, text: str, exc: BaseException | None) -> None:
        print(text, repr(exc))


NOBODY = Nobody()


def begin(self: ClusterWatch, monitor: Monitor) -> None:
    source = self._source

    self.options = replace(self.options, share=True)

    def params(key: Any) -> Params:
        return Params({**source.params(key), "application_name": "shadow pgroute-monitor"})

    shadow = ClusterWatch(
        source.entries,
        params,
        self.options,
        self._rules,
        resolver=source.resolver,
        mode=source.mode,
        targets=source.targets,
        source=source.credentials,
    )
    assert isinstance(shadow._source, HostSource)
    shadow._listener = lambda: NOBODY
    _begin(shadow, monitor)
    self.__dict__["_shadow"] = shadow
    _begin(self, monitor)


async def end(self: ClusterWatch) -> None:
    shadow = self.__dict__.pop("_shadow", None)
    await _end(self)
    if shadow is not None:
        await _end(shadow)


ClusterWatch.begin = begin  # type: ignore[method-assign]
ClusterWatch.end = end  # type: ignore[method-assign]
