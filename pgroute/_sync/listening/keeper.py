# Generated from pgroute/_async/listening/keeper.py by .ci/unasync.py: edit that file, not this one.
"""Keeps the connection on which a router listens: connects to the primary, listens, and begins again elsewhere."""

from __future__ import annotations

import logging
import math
import time
from typing import TYPE_CHECKING, Any

import psycopg

from pgroute._sync.listening.link import ListeningLink, Pooled
from pgroute.core.faults.classify import one_line
from pgroute.core.listening import (
    Drop,
    Join,
    Promotions,
    Resume,
    listen,
    primary_to_listen_at,
    unlisten,
    why_leave,
)

if TYPE_CHECKING:
    from pgroute._acompat import Doorbell
    from pgroute._sync.listening.listeners import Listeners
    from pgroute._sync.listening.subscriber import Subscriber
    from pgroute.core.config.router_config import RouterConfig
    from pgroute.core.model.host import HostInfo
    from pgroute.core.model.notifications import Notification
    from pgroute.core.model.roles import HostKey
    from pgroute.core.topology.snapshot import Topology
    from pgroute.monitor.cluster_watch import ClusterWatch
    from pgroute.runtime.connect_backoff import ConnectBackoff
    from pgroute.runtime.credentials import CredentialSource

logger = logging.getLogger("pgroute")

_FIRST_PAUSE, LONGEST_PAUSE = 0.1, 1.0
"""Seconds between attempts to connect to the same server."""


class LinkKeeper:
    """Keeps the connection for the listeners of one router, one step at a time, as its worker tells it to.

    Args:
        listeners: the listeners.
        config: the router's.
        connection_class: psycopg's, or the user's subclass.
        watch: on the hosts.
        backoff: the writers'.
        source: calls the user's credentials function; None: there is none.

    Attributes:
        failure: why the last attempt to listen at the primary failed; None: it did not.
        closed: the router is closed.
    """

    def __init__(
        self,
        listeners: Listeners,
        config: RouterConfig,
        connection_class: type[psycopg.Connection[Any]],
        *,
        watch: ClusterWatch,
        backoff: ConnectBackoff,
        source: CredentialSource | None,
    ) -> None:
        self.failure: psycopg.Error | None = None
        self.closed: bool = False
        self._listeners = listeners
        self._config = config
        self._class = connection_class
        self._watch = watch
        self._backoff = backoff
        self._source = source
        self._promotions = Promotions()
        self._heard_at: HostKey | None = None
        self._early: list[tuple[Notification, float]] | None = None
        self._link: ListeningLink | None = None
        self._pause = _FIRST_PAUSE

    def on_snapshot(self, old: Topology, topology: Topology) -> None:
        """Leave a host that is not the primary any more; called in the monitor's thread."""
        self._promotions.note(old, topology)
        link = self._link
        if link is not None and (reason := why_leave(topology, link.key, link.generation)):
            link.leave(reason)

    def close(self) -> None:
        """Leave for good, from any thread."""
        self.closed = True
        if (link := self._link) is not None:
            link.leave("the router is closed")

    def turn(self, bell: Doorbell) -> None:
        """Do the next step: wait for a primary, connect, listen, or wait for notifications and take them.

        Args:
            bell: ends each wait.
        """
        link = self._link
        if link is None:
            topology = self._watch.topology
            primary = primary_to_listen_at(topology)
            host = None if primary is None else topology.host(primary.key)
            if host is None:
                bell.wait(None, None)
            else:
                self._connect(host, bell)
            return
        try:
            self._serve(link, bell)
        except psycopg.Error as exc:
            self._lose(link, exc, bell)

    def end_link(self, reason: str = "") -> None:
        """Close the connection, if there is one.

        Args:
            reason: for the gap that listeners are told of.
        """
        link, self._link = self._link, None
        if link is not None:
            self._listeners.lost(reason, link.proven_at)
            link.close()

    def _connect(self, host: HostInfo, bell: Doorbell) -> None:
        self._early = []
        self._link = link = ListeningLink(
            self._config.writer,
            host,
            self._class,
            self._watch,
            self._backoff,
            source=self._source,
            on_notification=self._deliver,
        )
        if self.closed or why_leave(self._watch.topology, link.key, link.generation):
            link.leave("changed since")  # before anybody could tell the link
        try:
            link.open()
        except psycopg.Error as exc:
            self.failure, left = exc, link.closed
            self.end_link()
            if not left:
                self._rest(bell)

    def _serve(self, link: ListeningLink, bell: Doorbell) -> None:
        match step := self._listeners.step():
            case Resume(channels):
                link.ask(listen(channels))
                link.check_pooler()
                self._resume(link.key, channels)
            case Join():
                self._join(link, step)
            case Drop(channels):
                link.ask(unlisten(channels))
                self._listeners.dropped(step)
            case None:
                due = link.proven_at + self._config.probe.interval
                left = due - time.monotonic()
                if left <= 0:
                    link.ask()
                    return
                bell.wait(link.fd, left)
                link.read()

    def _resume(self, key: HostKey, channels: tuple[str, ...]) -> None:
        self.failure = None
        since = math.inf if key == self._heard_at else self._promotions.since(key)
        self._heard_at = key
        told = self._listeners.resumed(channels, since)
        early, self._early = self._early or (), None
        for notification, proven_at in early:
            self._listeners.deliver(notification, proven_at)
        for subscriber in told:
            subscriber.changes.notify()

    def _join(self, link: ListeningLink, step: Join[Subscriber]) -> None:
        try:
            link.ask(listen(step.channels))
        except psycopg.Error as exc:
            if link.lost or exc.sqlstate is None or isinstance(exc, Pooled):
                raise
            self._listeners.refused(step.subscriber, exc)
        else:
            self._listeners.joined(step, link.proven_at)

    def _deliver(self, notification: Notification) -> None:
        link = self._link
        assert link is not None
        if self._early is not None:
            self._early.append((notification, link.proven_at))  # the gap comes first
            return
        self._listeners.deliver(notification, link.proven_at)

    def _lose(self, link: ListeningLink, exc: psycopg.Error, bell: Doorbell) -> None:
        told = link.closed
        reason = link.reason if told else f"the connection to {link.key} was lost: {one_line(str(exc))}"
        self.end_link(reason)
        if isinstance(exc, Pooled):
            if not isinstance(self.failure, Pooled):
                logger.warning("%s", exc)
            self.failure = exc
            self._listeners.refused_all(exc)
        elif not told:
            self.failure = psycopg.OperationalError(reason)
            logger.info("listening: %s", reason)
            self._watch.kick(link.key)
        if time.monotonic() - link.made_at >= LONGEST_PAUSE:
            self._pause = _FIRST_PAUSE
        elif not told:
            self._rest(bell)

    def _rest(self, bell: Doorbell) -> None:
        pause, self._pause = self._pause, min(2 * self._pause, LONGEST_PAUSE)
        bell.wait(None, pause)
