"""Budgets of a device: ``madds<=60M, size<=1MB, ram<=256KB``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor
from typing import Literal, get_args

from mobilette.errors import InputError, nearest, one_of

Quantity = Literal["params", "madds", "size", "ram"]
QUANTITIES: tuple[Quantity, ...] = get_args(Quantity)
COUNTED = {"": 1, "K": 1000, "M": 1000**2, "G": 1000**3}
BYTES = {
    "": 1,
    "B": 1,
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "KiB": 1024,
    "MiB": 1024**2,
    "GiB": 1024**3,
}
UNITS: Mapping[Quantity, Mapping[str, int]] = {
    "params": COUNTED,
    "madds": COUNTED,
    "size": BYTES,
    "ram": BYTES,
}


@dataclass(frozen=True, kw_only=True)
class Constraint:
    """An upper limit of a quantity.

    Attributes:
        quantity: ``params``; ``madds``; ``size``, bytes of the weights; ``ram``, bytes of the
            activations alive at once.
        at_most: inclusive: ``madds<60M`` is at most 59,999,999.
        text: as the user wrote it.
    """

    quantity: Quantity
    at_most: int
    text: str


def parse_budget(text: str) -> tuple[Constraint, ...]:
    """Return the constraints in ``text``, separated by commas, with ``<=`` or ``<``.

    ``params`` and ``madds`` take the suffixes K, M and G; ``size`` and ``ram`` take B, KB, MB, GB
    (powers of 1,000) or KiB, MiB, GiB (powers of 1,024). Case does not matter.

    Raises:
        InputError: a part is not a constraint, or a quantity is limited twice.
    """
    constraints = tuple(_constraint(part.strip()) for part in text.split(","))
    limited = [constraint.quantity for constraint in constraints]
    for quantity in limited:
        if limited.count(quantity) > 1:
            raise InputError(f"budget {text!r} limits {quantity} twice")
    return constraints


def _constraint(text: str) -> Constraint:
    match = re.fullmatch(r"(\w+)\s*(<=|<(?!=))\s*(\S+)", text, flags=re.ASCII)
    if match is None:
        raise InputError(
            f"budget {text!r} is not a limit such as madds<=60M, size<=1MB or ram<=256KB"
        )
    key, operator, amount = match.groups()
    one_of(key, QUANTITIES, "budget quantity")
    quantity = next(each for each in QUANTITIES if each == key)
    limit = _amount(amount, quantity, text)
    at_most = floor(limit) if operator == "<=" else ceil(limit) - 1
    return Constraint(quantity=quantity, at_most=at_most, text=text)


def _amount(text: str, quantity: Quantity, constraint: str) -> Fraction:
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([A-Za-z]*)", text)
    if match is None or len(text) > 30 or not Fraction(match[1]):
        raise InputError(
            f"budget {constraint!r}: {text!r} is not a positive number such as 60 or 1.5M"
        )
    units = {unit.lower(): factor for unit, factor in UNITS[quantity].items()}
    if match[2].lower() not in units:
        known = [unit for unit in UNITS[quantity] if unit]
        raise InputError(
            f"budget {constraint!r}: unit {match[2]!r} of {quantity} is not one of "
            f"{', '.join(known)}{nearest(match[2], known)}"
        )
    return Fraction(match[1]) * units[match[2].lower()]
