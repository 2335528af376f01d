"""Typed records: JSON and TOML values to frozen dataclasses, checked field by field.

Every structured file of the project (networks, recipes, contracts) is one dataclass and is read
here, so an unknown key or a wrong type gets the same answer everywhere. Checks of values (ranges,
agreement of fields) stand in the dataclasses' own ``__post_init__``.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from mobilette.errors import InputError, nearest

T = TypeVar("T")

_PLAIN: dict[Any, str] = {bool: "true or false", int: "a whole number", str: "text"}


def parse(kind: type[T], value: object, *, where: str) -> T:
    """Return ``value`` (JSON or TOML values) as a ``kind``.

    A ``kind`` is a dataclass whose fields are dataclasses, plain values, ``Literal``s, tuples,
    mappings from text, and unions of these; dataclasses in a union are told apart by their
    ``kind`` field. Whole numbers are taken for floats, never the other way round.

    Raises:
        InputError: one line with ``where``, the field at fault and what would be valid.
    """
    parsed: T = _parse(kind, value, where, "")
    return parsed


def _parse(kind: Any, value: Any, where: str, place: str) -> Any:
    origin, args = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        return _parse_dataclass(kind, value, where, place)
    if origin is Literal:
        if value in args and type(value) is type(args[args.index(value)]):
            return value
        raise _fault(where, place, value, "one of " + ", ".join(map(repr, args)))
    if origin in (Union, UnionType):
        return _parse_union(args, value, where, place)
    if origin is tuple and args[-1] is Ellipsis:
        if not isinstance(value, list | tuple):
            raise _fault(where, place, value, "a list")
        return tuple(_parse(args[0], v, where, _join(place, i)) for i, v in enumerate(value))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        items = _mapping(value, where, place).items()
        return {key: _parse(args[1], item, where, _join(place, key)) for key, item in items}
    if kind is float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            with suppress(OverflowError):
                return float(value)
        raise _fault(where, place, value, "a number")
    if type(value) is kind:
        return value
    raise _fault(where, place, value, _PLAIN[kind])


def _parse_dataclass(kind: Any, value: Any, where: str, place: str) -> Any:
    items = _mapping(value, where, place)
    known = {field.name: field for field in fields(kind)}
    for key in items:
        if key not in known:
            raise InputError(f"{where}: unknown key {_join(place, key)!r}{nearest(key, known)}")
    for name, field in known.items():
        needed = field.default is MISSING and field.default_factory is MISSING
        if needed and name not in items:
            raise InputError(f"{where}: key {_join(place, name)!r} is missing")
    types = get_type_hints(kind)
    parsed = {key: _parse(types[key], v, where, _join(place, key)) for key, v in items.items()}
    try:
        return kind(**parsed)
    except InputError as error:
        raise InputError(f"{where}: {place + ': ' if place else ''}{error}") from None


def _parse_union(args: tuple[Any, ...], value: Any, where: str, place: str) -> Any:
    if value is None and NoneType in args:
        return None
    kinds = [arg for arg in args if is_dataclass(arg)]
    others = [arg for arg in args if arg is not NoneType and not is_dataclass(arg)]
    if len(kinds) + len(others) == 1:
        return _parse((kinds + others)[0], value, where, place)
    if kinds and isinstance(value, Mapping):
        tags = {get_args(get_type_hints(kind)["kind"])[0]: kind for kind in kinds}
        tag = value.get("kind")
        if not isinstance(tag, str) or tag not in tags:
            valid = "one of " + ", ".join(tags) + nearest(str(tag), tags)
            raise _fault(where, _join(place, "kind"), tag, valid)
        return _parse(tags[tag], value, where, place)
    for other in others:
        if type(value) is other:
            return value
    raise _fault(where, place, value, " or ".join(_PLAIN.get(o, "a table") for o in others))


def _mapping(value: Any, where: str, place: str) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return value
    raise _fault(where, place, value, "a table of keys and values")


def _join(place: str, key: object) -> str:
    return f"{place}.{key}" if place else str(key)


def _fault(where: str, place: str, value: object, valid: str) -> InputError:
    return InputError(f"{where}: {place or 'the content'} is {value!r:.60}, not {valid}")
