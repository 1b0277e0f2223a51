# Generated from pgroute/_async/listening/hub.py by .ci/unasync.py: edit that file, not this one.
"""The listeners of a router, and the thread or task that keeps the connection to the primary which they share."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import psycopg

from pgroute._acompat import (
    Doorbell,
    Worker,
    finished,
    join_all,
    spawn,
)
from pgroute._sync.listening.link import ListeningLink, Pooled
from pgroute.core.faults.classify import one_line
from pgroute.core.listening import (
    Drop,
    Join,
    Promotions,
    Resume,
    Subscriptions,
    listen,
    primary_to_listen_at,
    unlisten,
    why_leave,
)

if TYPE_CHECKING:
    from pgroute._sync.listening.subscriber import Subscriber
    from pgroute.core.config.router_config import RouterConfig
    from pgroute.core.model.host import HostInfo
    from pgroute.core.model.notifications import Gap, Notification
    from pgroute.core.model.roles import HostKey
    from pgroute.core.topology.snapshot import Topology
    from pgroute.monitor.cluster_watch import ClusterWatch
    from pgroute.runtime.connect_backoff import ConnectBackoff
    from pgroute.runtime.credentials import CredentialSource

logger = logging.getLogger("pgroute")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 1.0
"""Seconds between attempts to connect to the same server."""


class ListeningHub:
    """The listeners of one router.

    A worker keeps the connection while there are listeners. It begins with the first of them and ends with the last.

    Args:
        config: the router's.
        connection_class: psycopg's, or the user's subclass.
        watch: on the hosts.
        backoff: the writers'.
        source: calls the user's credentials function; None: there is none.
        name: the router's, for the name of the thread or task.

    Attributes:
        failure: why the last attempt to listen at the primary failed; None: it did not.
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
        self.failure: psycopg.Error | None = None
        self._config = config
        self._class = connection_class
        self._watch = watch
        self._backoff = backoff
        self._source = source
        self._name = f"pgroute-listener-{name}"
        self._lock = threading.Lock()
        self._subscriptions: Subscriptions[Subscriber] = Subscriptions()
        self._promotions = Promotions()
        self._heard_at: HostKey | None = None
        self._early: list[Notification] | None = None
        self._link: ListeningLink | None = None
        self._bell: Doorbell | None = None
        self._workers: list[Worker] = []
        self._running = False
        self._closed = False
        self._pause = _FIRST_PAUSE
        self._pid = os.getpid()

    @property
    def closed(self) -> bool:
        """Whether the router is closed: no listener receives anything any more."""
        return self._closed

    @property
    def idle(self) -> bool:
        """Whether there is no worker and no listener."""
        return not self._running and self._subscriptions.idle

    def add(self, subscriber: Subscriber) -> None:
        """Add a listener; `has_joined` tells when it receives.

        Raises:
            psycopg.OperationalError: a thread cannot be started.
        """
        with self._lock:
            self._subscriptions.add(subscriber)
            running = self._running
        try:
            if not running:
                self._pid = os.getpid()
                self._workers = [worker for worker in self._workers if not finished(worker)]
                self._workers.append(spawn(self._work, self._name))
        except RuntimeError as exc:
            raise psycopg.OperationalError(f"cannot listen: {exc}") from None
        self._ring()

    def remove(self, subscriber: Subscriber) -> None:
        """Forget a listener."""
        with self._lock:
            self._subscriptions.remove(subscriber)
        self._ring()

    def has_joined(self, subscriber: Subscriber) -> bool:
        """Return whether a listener receives what is sent from now on.

        Raises:
            psycopg.Error: the server has refused to listen to its channels.
        """
        with self._lock:
            if subscriber.failure is not None:
                raise subscriber.failure
            return self._subscriptions.has_joined(subscriber)

    def take(self, subscriber: Subscriber, taken: list[Notification | Gap]) -> None:
        """Move what came first for a listener, if anything waits, to a list."""
        with self._lock:
            subscriber.mailbox.take(taken)

    def put_back(self, subscriber: Subscriber, taken: list[Notification | Gap]) -> None:
        """Undo a `take` whose caller was interrupted."""
        with self._lock:
            subscriber.mailbox.put_back(taken)

    def on_snapshot(self, old: Topology, topology: Topology) -> None:
        """Leave a host that is not the primary any more; called in the monitor's thread."""
        self._promotions.note(old, topology)
        link = self._link
        if link is not None and (reason := why_leave(topology, link.key, link.generation)):
            link.leave(reason)
        self._ring()
        with self._lock:
            waiting = tuple(self._subscriptions.joining)
        for subscriber in waiting:
            subscriber.changes.notify()

    def close(self) -> None:
        """End: listeners are told what waits for them, and no more. May be called again."""
        self._closed = True
        if (link := self._link) is not None:
            link.leave("the router is closed")
        self._ring()
        with self._lock:
            everyone = self._subscriptions.everyone
        for subscriber in everyone:
            subscriber.changes.notify()

    def join(self, timeout: float) -> None:
        """Wait at most *timeout* seconds for the worker to end."""
        join_all(tuple(self._workers), timeout)

    def _ring(self) -> None:
        if (bell := self._bell) is not None:
            bell.ring()

    def _work(self) -> None:
        with self._lock:
            if self._running:
                return  # two listeners came at the same time
            self._running = True
        try:
            bell = self._bell = Doorbell()
            while self._go_on(bell):
                try:
                    self._turn(bell)
                except Exception as exc:
                    # A fault here must not leave listeners without a word.
                    logger.exception("listening failed")
                    self._end_link(f"listening failed: {one_line(str(exc))}")
                    bell.wait(None, _LONGEST_PAUSE)
        except OSError as exc:  # no descriptor for the bell
            self._running = False
            self._fail(psycopg.OperationalError(f"cannot listen: {exc}"))
        except BaseException:
            self._running = False
            if os.getpid() == self._pid:
                self._end_link()
            raise

    def _go_on(self, bell: Doorbell) -> bool:
        if os.getpid() != self._pid:
            return False  # the copy in a forked child, whose connection is its parent's
        if self._needed:
            return True
        self._end_link()
        with self._lock:  # who comes later starts another worker
            self._running = self._needed
            if not self._running:
                self._bell = None
                bell.close()
            return self._running

    @property
    def _needed(self) -> bool:
        return not (self._closed or self._subscriptions.empty)

    def _turn(self, bell: Doorbell) -> None:
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
        if self._closed or why_leave(self._watch.topology, link.key, link.generation):
            link.leave("changed since")  # before anybody could tell the link
        try:
            link.open()
        except psycopg.Error as exc:
            self.failure, left = exc, link.closed
            self._end_link()
            if not left:
                self._rest(bell)

    def _serve(self, link: ListeningLink, bell: Doorbell) -> None:
        with self._lock:
            step = self._subscriptions.step()
        match step:
            case Resume(channels):
                link.ask(listen(channels))
                link.check_pooler()
                self._resume(link.key, channels)
            case Join():
                self._join(link, step)
            case Drop(channels):
                link.ask(unlisten(channels))
                with self._lock:
                    self._subscriptions.dropped(step)
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
        with self._lock:
            told = self._subscriptions.resumed(channels, since)
            early, self._early = self._early or (), None
        for notification in early:
            self._deliver(notification)
        for subscriber in told:
            subscriber.changes.notify()

    def _join(self, link: ListeningLink, step: Join[Subscriber]) -> None:
        subscriber = step.subscriber
        try:
            link.ask(listen(step.channels))
        except psycopg.Error as exc:
            if link.lost or exc.sqlstate is None or isinstance(exc, Pooled):
                raise
            subscriber.failure = exc
            with self._lock:
                self._subscriptions.remove(subscriber)
        else:
            with self._lock:
                self._subscriptions.joined(step, link.proven_at)
        subscriber.changes.notify()

    def _deliver(self, notification: Notification) -> None:
        if self._early is not None:
            self._early.append(notification)  # the gap comes first
            return
        link = self._link
        assert link is not None
        with self._lock:
            receivers = self._subscriptions.deliver(notification, link.proven_at)
        for subscriber in receivers:
            subscriber.changes.notify()

    def _lose(self, link: ListeningLink, exc: psycopg.Error, bell: Doorbell) -> None:
        told = link.closed
        reason = link.reason if told else f"the connection to {link.key} was lost: {one_line(str(exc))}"
        self._end_link(reason)
        if isinstance(exc, Pooled):
            if not isinstance(self.failure, Pooled):
                logger.warning("%s", exc)
            self.failure = exc
            self._fail(exc)
        elif not told:
            self.failure = psycopg.OperationalError(reason)
            logger.info("listening: %s", reason)
            self._watch.kick(link.key)
        if time.monotonic() - link.made_at >= _LONGEST_PAUSE:
            self._pause = _FIRST_PAUSE
        elif not told:
            self._rest(bell)

    def _fail(self, exc: psycopg.Error) -> None:
        with self._lock:
            waiting = tuple(self._subscriptions.joining)
            for subscriber in waiting:
                subscriber.failure = exc
                self._subscriptions.remove(subscriber)
        for subscriber in waiting:
            subscriber.changes.notify()

    def _rest(self, bell: Doorbell) -> None:
        pause, self._pause = self._pause, min(2 * self._pause, _LONGEST_PAUSE)
        bell.wait(None, pause)

    def _end_link(self, reason: str = "") -> None:
        link, self._link = self._link, None
        if link is not None:
            with self._lock:
                self._subscriptions.lost(reason, link.proven_at)
            link.close()
