"""The arguments of public functions, checked by the annotations of these functions."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import cache, wraps
from inspect import signature
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from mobilette.errors import InputError, nearest, shown

P = ParamSpec("P")
T = TypeVar("T")

# What is taken for a type of an annotation, and what it is called. numpy's numbers are numbers.
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
# What an argument is, where its type does not say it.
_MEANT = {
    "data": "a folder, a list or the name of a set",
    "predictor": "what load returns",
}


def checked(function: Callable[P, T]) -> Callable[P, T]:
    """Let ``function`` refuse arguments of another type than it says, with an `InputError`.

    Empty text is no argument, and a path is one that the system can look up.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        names = list(signature(function).parameters)
        for name, value in (dict(zip(names, args, strict=False)) | kwargs).items():
            if name in names:  # else Python itself refuses the call
                _check(function.__name__, name, value, _hints(function)[name])
        return function(*args, **kwargs)

    return call


@cache
def _hints(function: Callable[..., object]) -> dict[str, Any]:
    return get_type_hints(function)


def _check(function: str, name: str, value: object, hint: object) -> None:
    what = f"{function}: {name}"
    options = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if not any(_is(value, option) for option in options):
        words = _MEANT.get(name) or " or ".join(map(_in_words, options))
        near = nearest(value, [text for option in options for text in _texts(option)])
        raise InputError(f"{what} is {shown(value)}, not {words}{near}")
    if isinstance(value, str) and not value.strip():
        raise InputError(f"{what} is {value!r:.20}, which is empty")
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
    if isinstance(value, bool) and option is not bool:
        return False
    kind = origin or option
    return isinstance(value, _KINDS[kind][0] if kind in _KINDS else kind)


def _texts(option: Any) -> tuple[str, ...]:
    return get_args(option) if get_origin(option) is Literal else ()


def _in_words(option: Any) -> str:
    if texts := _texts(option):
        return " or ".join(map(repr, texts))
    kind = get_origin(option) or option
    return _KINDS[kind][1] if kind in _KINDS else f"a {kind.__name__}"
