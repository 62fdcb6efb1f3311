"""Methods of a teammate as data: their names, what they take, and arguments converted to it.

Nothing that comes from a network reaches a method before it has the method's annotated types.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, Final, NamedTuple, get_type_hints

import msgspec

from covey.calls.markers import is_idempotent
from covey.errors import InvalidInputError, MisfitError, TeammateNotFoundError

# Hooks that covey calls itself; they are nobody else's to call.
HOOKS: Final = frozenset({"started", "stopping", "snapshot", "restore"})


class Parameter(NamedTuple):
    """One argument of a method."""

    name: str
    annotation: Any
    is_required: bool


class Method(NamedTuple):
    """One method that may be called from outside."""

    name: str
    parameters: tuple[Parameter, ...]
    summary: str
    call: Callable[..., Awaitable[object]]
    is_idempotent: bool = False

    def bind(self, body: bytes) -> dict[str, object]:
        """Return the arguments that a JSON body gives: an object by name, an array in order, nothing for none.

        Raises:
            InvalidInputError: it is not JSON.
            MisfitError: an argument is missing, unknown or of another type; the message names it.
        """
        given = self._given(body)
        unknown = [name for name in given if name not in {parameter.name for parameter in self.parameters}]
        if unknown:
            known = ", ".join(parameter.name for parameter in self.parameters) or "no arguments"
            raise MisfitError(f"{self.name}() has no argument {unknown[0][:80]!r}", hint=f"it takes {known}")
        arguments: dict[str, object] = {}
        for parameter in self.parameters:
            raw = given.get(parameter.name)
            if raw is not None:
                arguments[parameter.name] = self._convert(parameter, raw)
            elif parameter.is_required:
                raise MisfitError(f"{self.name}() needs the argument {parameter.name!r}")
        return arguments

    def _given(self, body: bytes) -> dict[str, msgspec.Raw]:
        if not body.strip():
            return {}
        try:
            given: dict[str, msgspec.Raw] | list[msgspec.Raw] = _body_decoder.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            message = f"the body is neither a JSON object of arguments nor an array of them: {error}"
            raise InvalidInputError(message) from error
        if isinstance(given, dict):
            return given
        if len(given) > len(self.parameters):
            raise MisfitError(f"{self.name}() takes {len(self.parameters)} arguments, {len(given)} were given")
        return {parameter.name: raw for parameter, raw in zip(self.parameters, given, strict=False)}

    def _convert(self, parameter: Parameter, raw: msgspec.Raw) -> object:
        try:
            return msgspec.json.decode(raw, type=parameter.annotation)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise MisfitError(f"{self.name}(): the argument {parameter.name!r} does not fit: {error}") from error


_body_decoder: Final = msgspec.json.Decoder(dict[str, msgspec.Raw] | list[msgspec.Raw])


def methods_of(teammate: object, *, only: Collection[str] | None = None) -> Mapping[str, Method]:
    """Return the methods that may be called from outside: public ``async def``s that are no hooks.

    Args:
        teammate: the object.
        only: further narrows them by name, for an object that has public methods of another kind.
    """
    methods: dict[str, Method] = {}
    for name in dir(type(teammate)):
        if name.startswith("_") or name in HOOKS or (only is not None and name not in only):
            continue
        function = inspect.getattr_static(type(teammate), name)
        if inspect.iscoroutinefunction(function):
            methods[name] = _method(name, function, getattr(teammate, name))
    return methods


def find_method(methods: Mapping[str, Method], teammate: str, name: str) -> Method:
    """Return the method of that name.

    Raises:
        TeammateNotFoundError: there is none; near names are in the hint.
    """
    method = methods.get(name)
    if method is None:
        near = difflib.get_close_matches(name, methods, n=3)
        hint = None if near else f"it has {', '.join(sorted(methods)) or 'no methods'}"
        raise TeammateNotFoundError(f"{teammate!r} has no method {name[:80]!r}", near=near, hint=hint)
    return method


def _method(name: str, function: Callable[..., object], bound: Callable[..., Awaitable[object]]) -> Method:
    hints = get_type_hints(function)
    parameters = [
        Parameter(parameter.name, hints.get(parameter.name, Any), parameter.default is parameter.empty)
        for parameter in inspect.signature(bound).parameters.values()
        if parameter.kind not in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}
    ]
    summary = (inspect.getdoc(function) or "").partition("\n")[0]
    return Method(name, tuple(parameters), summary, bound, is_idempotent(function))
