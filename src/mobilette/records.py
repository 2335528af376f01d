"""Typed records: JSON and TOML values to frozen dataclasses, checked field by field.

A number's range is part of its field's type (``Annotated[int, RESOLUTION]``) and is checked by
`check_ranges`, which ``__post_init__`` of the dataclasses calls, beside how fields agree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from mobilette.errors import InputError, nearest, shown
from mobilette.limits import Range

T = TypeVar("T")

# Most entries of a list or table, and characters of a text. Lists of plain values may be longer:
# metrics have one value per epoch.
LONGEST, LONGEST_PLAIN = 65_536, 2**20
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


def check_ranges(record: Any) -> None:
    """Check every number of a dataclass by the range in its field's type.

    Every entry of a list or table is checked; ``None`` is skipped.

    Raises:
        InputError: naming the field, the number and the range.
    """
    kind: Any = type(record)
    for name, within in _ranges(kind):
        value = getattr(record, name)
        for number in (value,) if type(value) is int else _numbers(value):
            within.check(name, number)


class Ranged:
    """A dataclass whose numbers are checked with `check_ranges`."""

    def __post_init__(self) -> None:
        check_ranges(self)


def _numbers(value: Any) -> Iterator[Any]:
    """Yield ``value``, or what is in it if it is a list or a table; not ``None``."""
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, tuple):
        for each in value:
            yield from _numbers(each)
    elif value is not None:
        yield value


@cache
def _ranges(kind: Any) -> tuple[tuple[str, Range], ...]:
    """Return the fields that have a range: ``Annotated`` itself, or one of a union."""
    hints = get_type_hints(kind, include_extras=True)
    found = []
    for field in fields(kind):
        hint = hints[field.name]
        options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        for option in options:
            if get_origin(option) is Annotated:
                found += [(field.name, extra) for extra in option.__metadata__]
    return tuple(found)


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


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
        longest = LONGEST_PLAIN if args[0] in (*_PLAIN, float) else LONGEST
        _check_length(value, where, place, longest=longest)
        return tuple(_parse(args[0], v, where, _join(place, i)) for i, v in enumerate(value))
    if origin is tuple:
        if not isinstance(value, list | tuple) or len(value) != len(args):
            raise _fault(where, place, value, f"a list of {len(args)} values")
        pairs = enumerate(zip(args, value, strict=True))
        return tuple(_parse(arg, v, where, _join(place, i)) for i, (arg, v) in pairs)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        items = _mapping(value, where, place).items()
        return {key: _parse(args[1], item, where, _join(place, key)) for key, item in items}
    if kind is float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            with suppress(OverflowError):
                return float(value)
        raise _fault(where, place, value, "a number")
    if type(value) is kind:
        if kind is str:
            _check_length(value, where, place)
        return value
    raise _fault(where, place, value, _PLAIN[kind])


def _parse_dataclass(kind: Any, value: Any, where: str, place: str) -> Any:
    items, types = _mapping(value, where, place), _hints(kind)
    known = {field.name: field for field in fields(kind)}
    for key in items:
        if key not in known:
            raise InputError(
                f"{where}: unknown key {shown(_join(place, key))}{nearest(key, known)}"
            )
    for name, field in known.items():
        needed = field.default is MISSING and field.default_factory is MISSING
        if needed and name not in items:
            raise InputError(f"{where}: key {_join(place, name)!r} is missing")
    parsed = {key: _parse(types[key], v, where, _join(place, key)) for key, v in items.items()}
    try:
        return kind(**parsed)
    except InputError as error:
        raise InputError(f"{where}: {place + ': ' if place else ''}{error}") from None


def _parse_union(args: tuple[Any, ...], value: Any, where: str, place: str) -> Any:
    if value is None and NoneType in args:
        return None
    kinds: list[Any] = [arg for arg in args if is_dataclass(arg)]
    others = [arg for arg in args if arg is not NoneType and not is_dataclass(arg)]
    if len(kinds) + len(others) == 1:
        return _parse((kinds + others)[0], value, where, place)
    if kinds and isinstance(value, Mapping):
        tags = {get_args(_hints(kind)["kind"])[0]: kind for kind in kinds}
        tag = value.get("kind")
        if not isinstance(tag, str) or tag not in tags:
            valid = "one of " + ", ".join(tags)
            valid += nearest(tag, tags) if isinstance(tag, str) else ""
            raise _fault(where, _join(place, "kind"), tag, valid)
        return _parse(tags[tag], value, where, place)
    for other in others:
        if type(value) is other:
            return value
        if get_origin(other) is tuple and isinstance(value, list | tuple):
            return _parse(other, value, where, place)
    raise _fault(where, place, value, " or ".join(map(_in_words, others)))


def _in_words(kind: Any) -> str:
    if get_origin(kind) is tuple:
        return f"a list of {len(get_args(kind))}"
    return _PLAIN.get(kind, "a table")


def _mapping(value: Any, where: str, place: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _fault(where, place, value, "a table of keys and values")
    _check_length(value, where, place)
    return value


def _check_length(value: Any, where: str, place: str, *, longest: int = LONGEST) -> None:
    if len(value) > longest:
        what = f"{len(value):,} {'characters' if isinstance(value, str) else 'entries'}"
        raise InputError(f"{where}: {place or 'the content'} has {what}; {longest:,} is the limit")


def _join(place: str, key: object) -> str:
    return f"{place}.{key}" if place else str(key)


def _fault(where: str, place: str, value: object, valid: str) -> InputError:
    return InputError(f"{where}: {place or 'the content'} is {shown(value)}, not {valid}")
