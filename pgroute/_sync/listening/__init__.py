# Generated from pgroute/_async/listening/__init__.py by .ci/unasync.py: edit that file, not this one.
"""The connection on which a router listens, and the thread or task that keeps it. Imported with the first listener."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pgroute.runtime.fork import forked

if TYPE_CHECKING:
    import psycopg

    from pgroute._sync.listening.hub import ListeningHub
    from pgroute.core.config.router_config import RouterConfig
    from pgroute.core.topology.snapshot import Topology
    from pgroute.monitor.cluster_watch import ClusterWatch
    from pgroute.runtime.connect_backoff import ConnectBackoff
    from pgroute.runtime.credentials import CredentialSource


class Listening:
    """The hub of a router's listeners, once there has been one.

    Args:
        config: the router's.
        connection_class: psycopg's, or the user's subclass.
        watch: on the hosts.
        backoff: the writers'.
        source: calls the user's credentials function; None: there is none.
        name: the router's.

    Attributes:
        closed: whether the router is closed: no listener receives anything any more.
    """

    def __init__(
        self,
        config: RouterConfig,
        connection_class: type[psycopg.Connection[Any]],
        watch: ClusterWatch,
        backoff: ConnectBackoff,
        source: CredentialSource | None,
        *,
        name: str,
    ) -> None:
        self._of_the_router = config, connection_class, watch, backoff, source
        self._name = name
        self._made: dict[str, ListeningHub] = {}
        self.closed: bool = False

    @property
    def made(self) -> ListeningHub | None:
        """The hub; None while there has been no listener."""
        return self._made.get("")

    @property
    def hub(self) -> ListeningHub:
        """The hub. It is made by the first who asks for it."""
        hub = self.made
        if hub is None:
            with forked.importing:
                from pgroute._sync.listening.hub import ListeningHub

            # Of two threads both get what the first has put in. A hub holds nothing before it has a listener.
            hub = self._made.setdefault("", ListeningHub(*self._of_the_router, name=self._name))
        if self.closed:  # whoever closes sets this before he looks whether there is a hub
            hub.close()
        return hub

    def on_snapshot(self, old: Topology, topology: Topology) -> None:
        """Leave a host that is not the primary any more; called in the monitor's thread."""
        if (hub := self.made) is not None:
            hub.on_snapshot(old, topology)

    def close(self) -> None:
        """End: listeners are told what waits for them, and no more. May be called again."""
        self.closed = True
        if (hub := self.made) is not None:
            hub.close()

    def join(self, timeout: float) -> None:
        """Wait at most *timeout* seconds for the worker to end."""
        if (hub := self.made) is not None:
            hub.join(timeout)
