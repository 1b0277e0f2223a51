# Generated from pgroute/_async/transaction/decorator.py by .ci/unasync.py: edit that file, not this one.
"""`@router.transaction`: makes a function of a connection one that runs as a transaction when it is called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Concatenate, Generic, Literal, Never, ParamSpec, TypeVar, overload

from psycopg_pool.abc import CT

from pgroute._sync.transaction.body import check_decorated
from pgroute._sync.transaction.runner import run_function
from pgroute.core.config.retry_policy import check_policy
from pgroute.core.model.roles import Role
from pgroute.core.transactions.decorated import Decorated, check_once_option

if TYPE_CHECKING:

    from collections.abc import Callable
    import psycopg

    from pgroute._sync.manager import SessionManager
    from pgroute.core.config.retry_policy import RetryPolicy

T = TypeVar("T")
P = ParamSpec("P")
Owner = TypeVar("Owner")
# Some overloads are for a router of Never. Only an Router[Any] passes for one. The other overloads would take the
# `self` of a method for its connection, as anything is Any; these ask for a connection.
Conn = TypeVar("Conn", bound="psycopg.Connection[Any]")


class TransactionDecorator(Generic[CT]):
    """What `transaction()` returns: a decorator.

    Args:
        manager: of the router.
        options: the keyword arguments of `run()`; *once* may be a function too.

    Raises:
        ConfigError: one of them is invalid.
    """

    def __init__(self, manager: SessionManager[CT], **options: Any) -> None:
        self._manager = manager
        self._once = options.pop("once")
        self._options = options
        check_policy(options["retry"])
        manager.request(**{name: value for name, value in options.items() if name != "retry"})
        writes = Role.parse(options["role"]) is Role.WRITER and not options["read_only"]
        check_once_option(self._once, writes=writes)

    @overload
    def __call__(
        self: TransactionDecorator[Never],
        fn: Callable[Concatenate[Conn, P], T],
        /,
    ) -> Callable[P, T]: ...

    @overload
    def __call__(  # type: ignore[overload-overlap]  # for no real router
        self: TransactionDecorator[Never],
        fn: Callable[Concatenate[Owner, Conn, P], T],
        /,
    ) -> Callable[Concatenate[Owner, P], T]: ...

    @overload
    def __call__(
        self,
        fn: Callable[Concatenate[CT, P], T],
        /,
    ) -> Callable[P, T]: ...

    @overload
    def __call__(
        self,
        fn: Callable[Concatenate[Owner, CT, P], T],
        /,
    ) -> Callable[Concatenate[Owner, P], T]: ...

    def __call__(self, fn: Callable[..., Any], /) -> Callable[..., Any]:
        """Decorate a function.

        Raises:
            ConfigError: it is no function of a connection, or *once* does not fit it.
        """
        check_decorated(fn)
        decorated = Decorated(fn, self._once)
        manager, options = self._manager, self._options

        def called(*args: Any, **kwargs: Any) -> Any:
            # One statement: on a line of its own, an interrupt after the COMMIT would carry no note.
            return run_function(
                manager, decorated.body(args, kwargs), (), once=decorated.key(args, kwargs), **options
            )

        return decorated.dress(called)


class Decorating(Generic[CT]):
    """The part of a router that decorates functions."""

    _manager: SessionManager[CT]

    @overload
    def transaction(
        self: Decorating[Never],
        fn: Callable[Concatenate[Conn, P], T],
        /,
    ) -> Callable[P, T]: ...

    @overload
    def transaction(  # type: ignore[overload-overlap]  # for no real router
        self: Decorating[Never],
        fn: Callable[Concatenate[Owner, Conn, P], T],
        /,
    ) -> Callable[Concatenate[Owner, P], T]: ...

    @overload
    def transaction(
        self,
        fn: Callable[Concatenate[CT, P], T],
        /,
    ) -> Callable[P, T]: ...

    @overload
    def transaction(
        self,
        fn: Callable[Concatenate[Owner, CT, P], T],
        /,
    ) -> Callable[Concatenate[Owner, P], T]: ...

    @overload
    def transaction(
        self,
        /,
        *,
        role: Literal["writer", "reader"] | Role = "writer",
        timeout: float | None = None,
        retry: RetryPolicy | None = None,
        once: str | bool | Callable[..., str] | None = None,
        isolation: psycopg.IsolationLevel | str | None = None,
        read_only: bool | None = None,
        deferrable: bool | None = None,
    ) -> TransactionDecorator[CT]: ...

    def transaction(
        self,
        fn: Callable[..., Any] | None = None,
        /,
        *,
        role: Literal["writer", "reader"] | Role = "writer",
        timeout: float | None = None,
        retry: RetryPolicy | None = None,
        once: str | bool | Callable[..., str] | None = None,
        isolation: psycopg.IsolationLevel | str | None = None,
        read_only: bool | None = None,
        deferrable: bool | None = None,
    ) -> Callable[..., Any]:
        """Decorate a function of a connection, to be called without it: each call is a transaction of `run()`.

        ::

            @router.transaction(once=lambda order: f"order {order}")
            def transfer(conn, source, target, amount, order):
                ...

            transfer(7, 8, 100, order=4711)

        The connection is the first argument of the function; of a method it is the second, behind ``self`` or ``cls``.
        All other arguments, by position or by name, come from the call.

        With *once*, each call needs its key. A function makes it from the arguments of the call that it names, or from
        all if it takes ``**kwargs``. A string is for a function without other arguments.

        Args:
            fn: the function, for a decorator without parentheses.
            role: as in `run()`, like all that follow.
            timeout: seconds for the whole call; None: the limit of the policy, and acquire_timeout for each session.
            retry: the policy of retries; None: the router's.
            once: a function that returns the key of a call, a key, or True for a new key in each call.
            isolation: of the transaction; None: the setting of the connection.
            read_only: of the transaction; None: the setting of the connection.
            deferrable: of the transaction; None: the setting of the connection.

        Raises:
            ConfigError: an argument is invalid, or *fn* is not a function of a connection. In a call: *once* has
                returned no key.
            Exception: in a call, as with `run()`.
        """
        decorator = TransactionDecorator(
            self._manager,
            role=role,
            timeout=timeout,
            retry=retry,
            once=once,
            isolation=isolation,
            read_only=read_only,
            deferrable=deferrable,
        )
        return decorator if fn is None else decorator(fn)
