"""Calls that do not fit a public function's signature."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import mobilette
from mobilette.arguments import checked
from mobilette.errors import InputError


@checked
def stretch(data: str, size: int, *, epochs: int = 1, lr: float = 0.1) -> str:
    return data * size * epochs


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: f("a", 2, epoch=1), "stretch: no option 'epoch'; did you mean epochs?"),
        (lambda f: f("a", 2, zzz=1), "stretch: no option 'zzz'; it has data, size, epochs, lr"),
        (
            lambda f: f("a", 2, 3),
            "stretch: 3 positional arguments; only data, size may be positional, "
            "write the others as name=value",
        ),
        (lambda f: f("a", data="b"), "stretch: data is given twice"),
        (lambda f: f("a"), "stretch: size must be given"),
        (lambda f: f(epochs=1), "stretch: data and size must be given"),
        (lambda f: f("a", "b"), "stretch: size is 'b', not a whole number"),
    ],
)
def test_a_call_that_does_not_fit_names_the_argument(
    call: Callable[[Any], object], message: str
) -> None:
    with pytest.raises(InputError) as refused:
        call(stretch)
    assert str(refused.value) == message


def test_a_call_that_fits_is_made() -> None:
    assert stretch("a", size=2, epochs=2) == "aaaa"


@pytest.mark.parametrize("name", ["train", "evaluate", "export", "verify", "load", "create_model"])
def test_public_functions_refuse_what_they_do_not_know(name: str) -> None:
    with pytest.raises(InputError, match=f"{name}: no option 'nothing_like_it'; it has "):
        getattr(mobilette, name)(nothing_like_it=1)
