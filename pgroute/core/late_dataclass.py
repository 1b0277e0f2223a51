"""Frozen dataclasses with slots, whose methods are compiled when they are first used.

`dataclasses` compiles six functions for each class at import. With 67 classes that was half of the time that importing
pgroute takes, and most programs use few of the methods.
"""

from __future__ import annotations

import dataclasses
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def late(*, frozen: bool, slots: bool, kw_only: bool = False, repr: bool = True) -> Callable[[type], type]:  # noqa: A002 (its name there)
    """Do what `dataclasses.dataclass` does, but compile each method when it is first used.

    Args:
        frozen: has to be True.
        slots: has to be True.
        kw_only: whether the parameters of `__init__` are keyword-only.
        repr: whether the class gets a `__repr__`.

    Returns:
        The decorator.

    Raises:
        TypeError: the class is not to be frozen, or not to have slots.
    """
    if not (frozen and slots):
        message = "only frozen dataclasses with slots are made here"
        raise TypeError(message)

    def decorate(cls: type) -> type:
        made: Any = dataclasses.dataclass(init=False, repr=False, eq=False, slots=True, kw_only=kw_only)(cls)
        # dataclasses looks here when a frozen dataclass is derived from it, and other tools do.
        flags = made.__dataclass_params__
        flags.init, flags.repr, flags.eq, flags.frozen = True, repr, True, True
        names = sys.modules[cls.__module__].__dict__
        for name, write in _COMPILED.items():
            if made.__dict__.get(name) is None and (repr or name != "__repr__"):
                setattr(made, name, _late(made, name, partial(_compiled, made, name, write, names)))
        for name, function in _SHARED.items():
            if name not in made.__dict__:
                setattr(made, name, function)
        return made  # type: ignore[no-any-return]

    return decorate


# Tools that read the source, such as type checkers, see that of the standard library.
if not TYPE_CHECKING:
    dataclass = late
else:
    from dataclasses import dataclass as dataclass  # noqa: PLC0414


def _late(owner: type, name: str, make: Callable[[], Any]) -> Any:
    """Return what stands for a method until it is first used."""
    if name == "__init__":
        return LateInit(owner, make)

    # Not a descriptor: where CPython looks up these methods, it ignores what a descriptor raises, Ctrl-C too, and goes
    # on as if the class had no such method.
    def method(self: object, *args: object) -> Any:
        function = make()
        setattr(owner, name, function)
        return function(self, *args)

    method.__name__, method.__qualname__ = name, f"{owner.__qualname__}.{name}"
    return method


class LateInit:
    """Stands for `__init__` until somebody asks for it, to call it or for its signature.

    Args:
        owner: the class.
        make: makes the function; two threads at the same time may call it twice.
    """

    __slots__ = ("_owner", "make")

    def __init__(self, owner: type, make: Callable[[], Any]) -> None:
        self._owner = owner
        self.make: Callable[[], Any] = make

    def __get__(self, instance: object | None, owner: type | None = None) -> Any:
        """Put the function into the place of this, and return the method."""
        function = self.make()
        self._owner.__init__ = function  # type: ignore[misc]
        return function.__get__(instance, owner)


class _Source:
    """The text of a method.

    Args:
        parameters: its parameters, as in a `def`.
        body: its lines.
        names: what the text uses beside the names of its module.
        annotations: its annotations.
    """

    def __init__(
        self,
        parameters: str,
        body: list[str],
        names: dict[str, Any],
        annotations: dict[str, Any] | None = None,
    ) -> None:
        self._parameters = parameters
        self._body = body
        self._names = names
        self._annotations = annotations or {}

    def function(self, owner: type, name: str, module: dict[str, Any]) -> Any:
        """Compile it as a method of a class, among the names of its module."""
        body = "".join(f"\n  {line}" for line in self._body)
        # A function around it, as in dataclasses: its names must not hide the module's, which annotations refer to.
        text = f"def make({', '.join(self._names)}):\n def {name}({self._parameters}):{body}\n return {name}"
        made: dict[str, Any] = {}
        exec(text, module, made)  # noqa: S102 (names of fields only)
        function = made["make"](**self._names)
        function.__qualname__ = f"{owner.__qualname__}.{name}"
        function.__annotations__ = self._annotations
        return function


class _Missing:
    """The default of a parameter whose field has a factory."""

    def __repr__(self) -> str:
        return "<factory>"


_MISSING = _Missing()


def _compiled(owner: type, name: str, write: Callable[[type], _Source], module: dict[str, Any]) -> Any:
    return write(owner).function(owner, name, module)


def _init(cls: type) -> _Source:
    parameters = ["self"]
    keyword_only: list[str] = []
    body: list[str] = []
    names: dict[str, Any] = {}
    annotations: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        value = parameter = field.name
        if field.default is not dataclasses.MISSING:
            default = f"_default_{field.name}"
            names[default] = field.default
            parameter = f"{field.name}={default}"
            value = field.name if field.init else default
        elif field.default_factory is not dataclasses.MISSING:
            factory = f"_factory_{field.name}"
            names[factory], names["_missing"] = field.default_factory, _MISSING
            parameter = f"{field.name}=_missing"
            value = (
                f"{factory}() if {field.name} is _missing else {field.name}" if field.init else f"{factory}()"
            )
        elif not field.init:
            continue
        if field.init:
            (keyword_only if field.kw_only else parameters).append(parameter)
            annotations[field.name] = field.type
        # The descriptor of the slot is faster than object.__setattr__, which has to look for it.
        names[f"_set_{field.name}"] = getattr(cls, field.name).__set__
        body.append(f"_set_{field.name}(self, {value})")
    if hasattr(cls, "__post_init__"):
        body.append("self.__post_init__()")
    if not body:
        body.append("pass")
    if keyword_only:
        parameters += ["*", *keyword_only]
    return _Source(", ".join(parameters), body, names, {**annotations, "return": None})


def _repr(cls: type) -> _Source:
    shown = ", ".join(
        f"{field.name}={{self.{field.name}!r}}" for field in dataclasses.fields(cls) if field.repr
    )
    return _Source("self", [f"return f'{{self.__class__.__qualname__}}({shown})'"], {})


def _eq(cls: type) -> _Source:
    names = [field.name for field in dataclasses.fields(cls) if field.compare]
    ours, theirs = ("".join(f"{side}.{name}, " for name in names) for side in ("self", "other"))
    body = [
        "if other.__class__ is self.__class__:",
        f" return ({ours}) == ({theirs})",
        "return NotImplemented",
    ]
    return _Source("self, other", body, {})


def _hash(cls: type) -> _Source:
    fields = dataclasses.fields(cls)
    hashed = [field.name for field in fields if (field.compare if field.hash is None else field.hash)]
    return _Source("self", [f"return hash(({''.join(f'self.{name}, ' for name in hashed)}))"], {})


_COMPILED = {"__init__": _init, "__repr__": _repr, "__eq__": _eq, "__hash__": _hash}


def _refuse(self: Any, verb: str, name: str) -> None:
    """Refuse a change of a field, and of anything in the class itself; a class derived from it may have a dict."""
    if name in self.__dataclass_fields__ or "__dataclass_fields__" in type(self).__dict__:
        message = f"cannot {verb} field {name!r}"
        raise dataclasses.FrozenInstanceError(message)


def _set(self: object, name: str, value: object) -> None:
    _refuse(self, "assign to", name)
    object.__setattr__(self, name, value)


def _delete(self: object, name: str) -> None:
    _refuse(self, "delete", name)
    object.__delattr__(self, name)


def _state(self: Any) -> list[Any]:
    return [getattr(self, field.name) for field in dataclasses.fields(self)]


def _restore(self: Any, state: list[Any]) -> None:
    for field, value in zip(dataclasses.fields(self), state, strict=False):
        object.__setattr__(self, field.name, value)


_SHARED = {"__setattr__": _set, "__delattr__": _delete, "__getstate__": _state, "__setstate__": _restore}
for _name, _function in _SHARED.items():
    _function.__name__ = _function.__qualname__ = _name
