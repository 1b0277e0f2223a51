"""Makes the watchers of one process: shared with other processes where that is possible, and alone elsewhere."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING

from pgroute.monitor.host_watcher import HostWatcher
from pgroute.monitor.shared.batch import Batch
from pgroute.monitor.shared.folder import Folder
from pgroute.monitor.shared.identity import NotKnown, NotShareable, identity
from pgroute.monitor.shared.watcher import SharedWatcher

if TYPE_CHECKING:
    from pgroute.core.config.dsn import Params
    from pgroute.core.config.lookups import ResolverSpec
    from pgroute.core.config.options import ProbeOptions
    from pgroute.core.model.roles import HostKey
    from pgroute.monitor.dns_watch import Names
    from pgroute.runtime.credentials import CredentialSource

AnyWatcher = HostWatcher | SharedWatcher


class Sharing:
    """The folder in which this process meets others, from its first shared watch to its last. In the monitor's loop."""

    def __init__(self) -> None:
        import hmac  # noqa: F401  (in the thread that opens a router: a fork in C does not wait for the monitor's)

        self._folder: Folder | None = None
        self._users: set[SharedWatcher] = set()
        self._batch = Batch()

    def watcher(
        self,
        key: HostKey,
        params: Params,
        names: Names,
        *,
        resolver: ResolverSpec,
        options: ProbeOptions,
        source: CredentialSource | None,
    ) -> AnyWatcher:
        """Return the watcher of a host, not started.

        Args:
            key: the host.
            params: the parameters of the probe connection.
            names: give the addresses.
            resolver: looks the names up.
            options: the probe options.
            source: calls the credentials function of the router; None: it has none.
        """
        identify = partial(identity, key, params, resolver=resolver, options=options, source=source)
        try:
            with contextlib.suppress(NotKnown):  # it is asked again
                identify()
        except NotShareable as exc:
            return HostWatcher(key, params, names, source, alone=str(exc))
        except Exception as exc:  # noqa: BLE001  (a host must be watched, whatever is wrong here)
            # Its text may quote a parameter.
            return HostWatcher(key, params, names, source, alone=f"a fault in pgroute: {type(exc).__name__}")
        folder = self._folder = self._folder or Folder()
        watcher = SharedWatcher(key, params, names, folder, identify=identify, batch=self._batch)
        self._users.add(watcher)
        return watcher

    def left(self, watcher: AnyWatcher) -> None:
        """Take note that a watcher has stopped; the last one leaves the folder."""
        if isinstance(watcher, SharedWatcher):
            self._users.discard(watcher)
            if not self._users:
                self.close()

    def close(self) -> None:
        """Leave the folder."""
        folder, self._folder = self._folder, None
        if folder is not None:
            folder.close()
