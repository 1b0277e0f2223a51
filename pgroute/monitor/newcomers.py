"""Members that an adviser names and the router does not know: each is asked who it is before it becomes a host."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from pgroute.core.config.dns_names import Question, is_name
from pgroute.core.discovery.placing import Proof, prove
from pgroute.core.faults.classify import FaultKind
from pgroute.core.schedule import REJECTED_GAP
from pgroute.monitor.dialer import Dialer
from pgroute.monitor.errors import ProbeFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pgroute.core.model.roles import HostKey
    from pgroute.core.topology.observations import Answer
    from pgroute.core.topology.snapshot import Topology
    from pgroute.monitor.dns_watch import Names, Reader
    from pgroute.monitor.probe_login import ProbeLogin

_FIRST_GAP = 1.0
_LONGEST_GAP = 30.0
"""Seconds between two attempts at a member that cannot be reached; the gap doubles up to here."""


class Newcomers:
    """The members that are being tried. Used in the monitor's loop only.

    A member at a name or an address that leads nowhere from here, as in a network of the servers' own, never becomes a
    host: it would only be one that is always down.

    Args:
        login: returns how a probe logs in at a host.
        names: look names up.
        reader: the router, as the reader of names; has its probe options.
        topology: returns what is known of the hosts.
        on_proof: called when a proof has changed.
    """

    def __init__(
        self,
        *,
        login: Callable[[HostKey], ProbeLogin],
        names: Names,
        reader: Reader,
        topology: Callable[[], Topology],
        on_proof: Callable[[], None],
    ) -> None:
        self.proofs: dict[HostKey, Proof] = {}
        self._login = login
        self._names = names
        self._reader = reader
        self._topology = topology
        self._on_proof = on_proof
        self._answers: dict[HostKey, Answer] = {}
        self._tasks: dict[HostKey, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def review(self) -> None:
        """Judge the last answers again of those that are no hosts: more is known of the other hosts now."""
        for key, answer in self._answers.items():
            was, proof = self.proofs[key], self._judge(answer)
            if was.alias is not None and proof.alias is None:
                # The answer is from before its host has restarted, or has left.
                proof = replace(was, doubted=True)
            self.proofs[key] = proof

    def follow(self, tried: Iterable[HostKey], named: Iterable[HostKey]) -> None:
        """Try these members and no others; forget the proofs of those that are not *named* any more."""
        tried, named = set(tried), set(named)
        for key in [key for key in self._tasks if key not in tried]:
            self._end(key)
        self.proofs = {key: proof for key, proof in self.proofs.items() if key in named}
        # That of an alias too: a name such as an endpoint may lead to another server later.
        self._answers = {
            key: answer for key, answer in self._answers.items() if key in named and not self._joins(key)
        }
        for key in tried:
            if key not in self._tasks:
                task = asyncio.get_running_loop().create_task(self._try(key), name=f"pgroute-newcomer-{key}")
                self._tasks[key] = task

    async def end(self) -> None:
        """Try none any more; returns when the connections are closed."""
        for key in tuple(self._tasks):
            self._end(key)
        if self._ending:
            await asyncio.wait(self._ending)

    def _end(self, key: HostKey) -> None:
        task = self._tasks.pop(key)
        task.cancel()
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _try(self, key: HostKey) -> None:
        question = Question(key.host) if is_name(key) else None
        if question is not None:
            self._names.join(question, self._reader)
        dialer = Dialer(key, self._login(key), self._names)  # it knows which address did not answer
        try:
            gap = _FIRST_GAP
            while True:
                rejected = await self._ask(key, dialer)
                await asyncio.sleep(max(gap, REJECTED_GAP) if rejected else gap)
                gap = min(_LONGEST_GAP, 2 * gap)
        finally:
            if question is not None:
                await self._names.leave(question, self._reader)

    async def _ask(self, key: HostKey, dialer: Dialer) -> bool:
        """Ask a member once, and return whether it refused the login."""
        rejected = False
        self._answers.pop(key, None)
        try:
            answer = await self._answer(dialer)
        except ProbeFailed as exc:
            proof = self._unheard(key, exc.fault.reason)
            rejected = exc.fault.kind in (FaultKind.REJECTED, FaultKind.NO_CREDENTIALS)
        except Exception as exc:  # noqa: BLE001  (logged by the router)
            self._reader.log_error(f"trying the member at {key} failed", exc)
            proof = self._unheard(key, repr(exc))
        else:
            self._answers[key] = answer
            proof = self._judge(answer)
        if proof != self.proofs.get(key):
            self.proofs[key] = proof
            self._on_proof()
        return rejected

    def _unheard(self, key: HostKey, reason: str) -> Proof:
        """Return the proof while there is no answer: an alias stays one, unless its host has left."""
        was = self.proofs.get(key)
        known = was is not None and was.alias is not None and self._topology().host(was.alias) is not None
        return was if was is not None and known else Proof(reason=reason)

    def _joins(self, key: HostKey) -> bool:
        proof = self.proofs.get(key)
        return proof is not None and proof.joins

    def _judge(self, answer: Answer) -> Proof:
        return prove(answer, self._topology(), check_system_id=self._reader.options.check_system_id)

    async def _answer(self, dialer: Dialer) -> Answer:
        timeout = self._reader.options.timeout
        conn = await dialer.connect(timeout=timeout, on_loss=lambda: None)
        try:
            return await conn.ask(timeout, on_slow=lambda _: None)
        finally:
            conn.close()
