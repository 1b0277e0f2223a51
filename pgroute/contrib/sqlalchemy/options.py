"""What the URL and the connect_args of an engine say: the hosts, the role, the options of the router."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import tomllib
from dataclasses import field, fields
from typing import TYPE_CHECKING, Any

from psycopg.conninfo import make_conninfo

from pgroute._sync.router import Router
from pgroute.config_file.values import option_of
from pgroute.core.config.discreet import discreet
from pgroute.core.config.libpq import is_secret, keywords
from pgroute.core.config.options import PoolOptions, ProbeOptions
from pgroute.core.config.parameter_text import parameter_text
from pgroute.core.config.settings import is_secret_setting
from pgroute.core.late_dataclass import dataclass
from pgroute.core.model.roles import Role, SessionAttrs
from pgroute.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

_POOLS = ("writer", "reader")
_OBJECTS = ("writer", "reader", "probe", "kwargs")
"""Parameters of the router that hold other options; in a URL those are written as "reader.max_size"."""
_NO_TEXT = (*_OBJECTS, "host_options", "retry", "settings")
_ARGUMENTS = {
    "autocommit": "bool | None",
    "prepare_threshold": "int | None",
    "cursor_factory": "Callable | None",
}
"""Arguments of psycopg.connect, and their types; SQLAlchemy needs the others itself."""
_ENGINE = ("router", "role", "target_session_attrs")
_OF_READERS = ("max_size_on_primary",)


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What an engine is told.

    Attributes:
        role: of its sessions.
        attrs: the hosts that they accept; None: those of the role.
        router: the router that it was handed; None: it makes one.
        dsn: for the router that it makes.
        arguments: likewise.
    """

    role: Role
    attrs: SessionAttrs | None
    router: Any
    dsn: str = field(repr=False)
    arguments: Mapping[str, Any] = field(repr=False)

    def make(self, cls: Callable[..., Any]) -> Any:
        """Return a router of the class.

        Raises:
            ConfigError: an option is invalid.
        """
        return cls(self.dsn, **self.arguments)


def _annotations(cls: type[Any]) -> dict[str, str]:
    return {option.name: str(option.type) for option in fields(cls)}


def _router_parameters() -> dict[str, str]:
    known = inspect.signature(Router).parameters
    return {name: str(known[name].annotation) for name in known if name not in ("dsn", "unknown")}


_ROUTER = _router_parameters()
_POOL = _annotations(PoolOptions)
_PROBE = _annotations(ProbeOptions)


@discreet
def read_options(given: Mapping[str, Any]) -> EngineOptions:
    """Return what an engine is told.

    Args:
        given: parameters by name. Texts stand for numbers and the like, as in a URL.

    Raises:
        ConfigError: a parameter is unknown, or has an invalid value.
    """
    params: dict[str, str] = {}
    arguments: dict[str, Any] = {}
    kwargs: dict[str, Any] = {}
    both: dict[str, Any] = {}
    parts: dict[str, dict[str, Any]] = {"writer": {}, "reader": {}, "probe": {}}
    for name, value in given.items():
        part, _, option = name.partition(".")
        if name in _ENGINE:
            continue
        if name in _ROUTER:
            arguments[name] = _value(name, value, _ROUTER[name])
        elif name in _POOL:
            (parts["reader"] if name in _OF_READERS else both)[name] = _value(name, value, _POOL[name])
        elif part in parts and option in (known := _PROBE if part == "probe" else _POOL):
            parts[part][option] = _value(name, value, known[option])
        elif name in _ARGUMENTS:
            kwargs[name] = _value(name, value, _ARGUMENTS[name])
        elif name in keywords():
            if value is not None:
                params[name] = _one(name, value)
        else:
            raise _unknown(name, value)
    router = given.get("router")
    if router is not None and len(given) > len(set(given) & set(_ENGINE)):
        other = next(name for name in given if name not in _ENGINE)
        accepted = "expected in the router that the engine was handed, whose hosts and options it uses"
        raise ConfigError(other, given[other], accepted, secret=is_secret(other))
    for pool in _POOLS:
        if parts[pool] or both:
            _refuse_object(pool, arguments, {**both, **parts[pool]})
            arguments[pool] = PoolOptions(**{**both, **parts[pool]})
    if parts["probe"]:
        _refuse_object("probe", arguments, parts["probe"])
        arguments["probe"] = ProbeOptions(**parts["probe"])
    if kwargs:
        arguments["kwargs"] = {**kwargs, **arguments.get("kwargs", {})}
    role, attrs = _role(given)
    return EngineOptions(role, attrs, router, make_conninfo("", **params), arguments)


def _refuse_object(name: str, arguments: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    if name in arguments:
        first = next(iter(options))
        raise ConfigError(first, options[first], f"expected within {name}=, which is given too")


def _role(given: Mapping[str, Any]) -> tuple[Role, SessionAttrs | None]:
    """Return the role and the hosts; target_session_attrs says both, as in a URL of the psycopg dialect."""
    attrs: SessionAttrs | None = None
    if (text := given.get("target_session_attrs")) is not None:
        attrs = SessionAttrs.parse(_one("target_session_attrs", text))
    if (role := given.get("role")) is None:
        return Role.WRITER if attrs is None else attrs.pool, attrs
    found = Role.parse(role if isinstance(role, Role) else _one("role", role))
    if attrs is not None and attrs.pool is not found:
        accepted = f"expected one that goes with target_session_attrs={attrs.value}: {attrs.pool.value!r}"
        raise ConfigError("role", found.value, accepted)
    return found, attrs


def _one(name: str, value: object) -> str:
    """Return a value as the text of a connection parameter."""
    if isinstance(value, (tuple, list)):
        raise ConfigError(
            name, None, "expected one value, it is given more than once", secret=is_secret(name)
        )
    return parameter_text(name, value)


def _value(name: str, value: object, annotation: str) -> object:
    """Return what a text from a URL means; anything else as it is."""
    option = option_of(annotation)
    if isinstance(value, (tuple, list)) and option.many:
        return value
    if isinstance(value, (tuple, list)):
        _one(name, value)
    if not isinstance(value, str):
        return value
    if option.many:
        return [value]
    if option.none and value == "none":
        return None
    # One that is text or an object, such as balance=, is text here.
    if name.rpartition(".")[2] in _NO_TEXT or (option.reference and not option.text):
        accepted = f"expected an object in connect_args={{{name!r}: ...}}, a URL cannot hold one"
        raise ConfigError(name, value, accepted, secret=True)
    if option.text:
        return value
    found = None
    # TOML would leave out a comment, and the lines after the first.
    if "#" not in value and value.isprintable():
        with contextlib.suppress(ValueError):  # no TOML, or a number of too many digits
            found = tomllib.loads(f"value = {value}")["value"]
    if isinstance(found, (bool, int, float)):
        return found
    raise ConfigError(name, value, "expected a number, true or false")


def _unknown(name: str, value: object) -> ConfigError:
    near = difflib.get_close_matches(name, _known(), n=1)
    guess = f"; did you mean {near[0]}?" if near else ""
    # It may be a misspelt password.
    secret = (
        is_secret_setting(name) or any(map(is_secret, near)) or not isinstance(value, (str, bool, int, float))
    )
    return ConfigError(name, value, f"an engine has no such parameter{guess}", secret=secret)


def _known() -> Iterable[str]:
    plain = [name for name in _ROUTER if name not in _OBJECTS]
    prefixed = [f"{role}.{name}" for role in _POOLS for name in _POOL]
    return [
        *_ENGINE,
        *plain,
        *_POOL,
        *prefixed,
        *(f"probe.{name}" for name in _PROBE),
        *_ARGUMENTS,
        *keywords(),
    ]
