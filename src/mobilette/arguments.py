"""The arguments of public functions, checked by their signatures and annotations."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import cache, wraps
from inspect import Signature, signature
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from mobilette.errors import InputError, nearest, shown

P = ParamSpec("P")
T = TypeVar("T")

# What an annotation accepts, and what it is called. numpy's numbers are numbers.
_KINDS: dict[Any, tuple[Any, str]] = {
    int: (Integral, "a whole number"),
    float: (Real, "a number"),
    str: (str, "text"),
    bool: (bool, "True or False"),
    Path: (os.PathLike, "a path"),
    NoneType: (NoneType, "None"),
    Mapping: (Mapping, "a dictionary"),
    Callable: (Callable, "a function"),
}
# Words for arguments whose type does not say what they are.
_WORDS = {
    "data": "a folder, a list or the name of a set",
    "callbacks": "a list of functions",
    "resolution": "a whole number or (height, width)",
}


def checked(function: Callable[P, T]) -> Callable[P, T]:
    """Make ``function`` raise `InputError` for unknown arguments and wrong types.

    Types are those of its annotations. Text must not be empty, and the system must be able to look
    up a path.
    """
    expected = signature(function)

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            given = expected.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise _misfit(function.__name__, expected, args, kwargs) from error
        hints = _hints(function)
        for name, value in given.items():
            if name in hints:  # self and cls have none
                _check(function.__name__, name, value, hints[name])
        return function(*args, **kwargs)

    return call


def _misfit(
    function: str, expected: Signature, args: tuple[object, ...], kwargs: Mapping[str, object]
) -> InputError:
    """Return what is wrong with a call that does not fit the signature."""
    names = list(expected.parameters)
    for name in kwargs:
        if name not in names:
            near = nearest(name, names).replace("'", "") or f"; it has {', '.join(names)}"
            return InputError(f"{function}: no option {name!r}{near}")
    unnamed = [each.name for each in expected.parameters.values() if each.kind != each.KEYWORD_ONLY]
    if len(args) > len(unnamed):
        return InputError(
            f"{function}: {len(args)} positional arguments; only {', '.join(unnamed)} may be "
            "positional, write the others as name=value"
        )
    if twice := [name for name in unnamed[: len(args)] if name in kwargs]:
        return InputError(f"{function}: {twice[0]} is given twice")
    missing = [
        each.name
        for each in expected.parameters.values()
        if each.default is each.empty and each.name not in {*unnamed[: len(args)], *kwargs}
    ]
    return InputError(f"{function}: {' and '.join(missing)} must be given")


@cache
def _hints(function: Callable[..., object]) -> dict[str, Any]:
    return get_type_hints(function)


def _check(function: str, name: str, value: object, hint: object) -> None:
    what = f"{function}: {name}"
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if not any(_is(value, option) for option in options):
        words = _WORDS.get(name) or " or ".join(map(_in_words, options))
        near = nearest(value, [text for option in options for text in _texts(option)])
        raise InputError(f"{what} is {shown(value)}, not {words}{near}")
    if isinstance(value, str) and not value.strip():
        raise InputError(f"{what} is empty")
    if Path in options and isinstance(value, str | os.PathLike):
        try:
            Path(value).stat()
        except (FileNotFoundError, NotADirectoryError):
            pass
        except (OSError, ValueError) as error:  # too long a name, no right to look, a zero byte
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"{what}: {shown(str(value))} cannot be read ({reason})") from error


def _is(value: object, option: Any) -> bool:
    origin: Any = get_origin(option)
    if origin is Literal:
        return isinstance(value, str) and value in _texts(option)
    kind = origin or option
    if getattr(kind, "_is_protocol", False):  # which the function itself tells
        return True
    if isinstance(value, bool) and option is not bool:
        return False
    return isinstance(value, _KINDS[kind][0] if kind in _KINDS else kind)


def _texts(option: Any) -> tuple[str, ...]:
    return get_args(option) if get_origin(option) is Literal else ()


def _in_words(option: Any) -> str:
    if texts := _texts(option):
        return " or ".join(map(repr, texts))
    kind = get_origin(option) or option
    name = getattr(kind, "__name__", str(kind))
    return _KINDS[kind][1] if kind in _KINDS else f"a{'n' * (name[0] in 'AEIOU')} {name}"
