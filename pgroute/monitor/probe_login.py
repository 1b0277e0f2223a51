"""The parameters with which a probe logs in: always the same, or with what the user's credentials function gives."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import psycopg

from pgroute.core.config.credentials import login_of, request_for, with_credentials
from pgroute.core.config.dsn import Params
from pgroute.core.faults.classify import FaultKind, connect_fault
from pgroute.core.schedule import CREDENTIALS_GAP
from pgroute.monitor.errors import NoCredentials, ProbeFailed
from pgroute.monitor.stalls import stall_aware_wait
from pgroute.runtime.credential_call import HANGS, CredentialsFailed, end_in_loop, late, reason

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from pgroute.core.config.credentials import CredentialRequest
    from pgroute.core.model.roles import HostKey
    from pgroute.runtime.credential_call import CredentialCall
    from pgroute.runtime.credentials import CredentialSource

T = TypeVar("T")


class ProbeLogin:
    """Gives the parameters of each new probe connection to one host. Used in the monitor's loop only.

    Args:
        key: the host.
        params: the parameters without what the function gives.
        source: calls the user's credentials function; None: there is none.

    Attributes:
        trouble: why the function has given nothing when it was asked ahead; empty if it has.
    """

    def __init__(self, key: HostKey, params: Mapping[str, str], source: CredentialSource | None) -> None:
        self.trouble: str = ""
        self._key = key
        self._params = Params(params)
        self._source = source
        self._ahead: CredentialCall | None = None
        self._not_before = 0.0

    def ready(self, timeout: float, on_ready: Callable[[], None]) -> bool:
        """Return whether `log_in` would find credentials now. If not, have the function called.

        An open connection can be probed meanwhile, however long the function takes.

        Args:
            timeout: seconds after which that is a trouble.
            on_ready: called in the loop once the function has ended.
        """
        if self._source is None:
            return True
        now = time.monotonic()
        if self._ahead is None:
            if now < self._not_before:
                return False
            self._ahead = self._source.ask(self._source.first(request_for(self._key, "probe")))
            end_in_loop(self._ahead).add_done_callback(lambda _: on_ready())
        ahead = self._ahead
        if not ahead.done:
            if now - ahead.begun_at > timeout:
                self.trouble = reason(late(timeout))
            if now - ahead.begun_at > HANGS:
                self._ahead = None
            return False
        try:
            ahead.result()
        except CredentialsFailed as exc:
            self.trouble = reason(str(exc))
            self._ahead = None
            self._not_before = now + CREDENTIALS_GAP
            return False
        self.trouble = ""
        return True

    async def log_in(self, open_with: Callable[[Params], Awaitable[T]], timeout: float) -> T:
        """Return what *open_with* returns for the parameters of a new connection.

        A login that was refused is followed by one more if the function, asked afresh, gives other credentials. While
        logins go on to be refused, each attempt is made with fresh ones, once.

        Args:
            open_with: opens the connection.
            timeout: seconds for one answer of the function.

        Raises:
            NoCredentials: the function gave none.
            ProbeFailed: the connection could not be opened.
        """
        source = self._source
        if source is None:
            return await open_with(self._params)
        request = source.first(request_for(self._key, "probe"))
        given = await self._ask(source, request, timeout)
        try:
            return await self._try(source, request, given, open_with)
        except ProbeFailed as exc:
            if request.refused or exc.fault.kind is not FaultKind.REJECTED:
                raise
            refusal = exc.fault
        try:
            afresh = await self._ask(source, replace(request, refused=True), timeout)
        except NoCredentials as exc:
            text = f"{refusal.reason}; asked afresh: {exc.fault.reason}"
            raise ProbeFailed(replace(refusal, reason=text)) from None
        if afresh == given:
            raise ProbeFailed(refusal)
        return await self._try(source, request, afresh, open_with)

    async def _ask(self, source: CredentialSource, request: CredentialRequest, timeout: float) -> Params:
        call, self._ahead = self._ahead, None
        if call is None or call.request != request:
            call = source.ask(request)
        await stall_aware_wait(end_in_loop(call), timeout)
        if not call.done:
            call.missed = True
            raise NoCredentials(reason(late(timeout)))
        try:
            return call.result()
        except CredentialsFailed as exc:
            raise NoCredentials(reason(str(exc))) from None

    async def _try(
        self,
        source: CredentialSource,
        request: CredentialRequest,
        given: Params,
        open_with: Callable[[Params], Awaitable[T]],
    ) -> T:
        """Log in with these credentials, unless the host has refused them to a pool a moment ago."""
        params = with_credentials(self._params, given)
        login = login_of(params)
        text = source.refusal(request, login)
        if text is not None:
            source.note_refusal(request, None, text)
            raise ProbeFailed(connect_fault(psycopg.OperationalError(text)))
        try:
            opened = await open_with(params)
        except ProbeFailed as exc:
            if exc.fault.kind is FaultKind.REJECTED:
                source.note_refusal(request, login, exc.fault.reason)
            raise
        source.note_success(request)
        return opened
