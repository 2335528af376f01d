"""Budgets of a device: ``madds<=60M, size<=1MB, latency<=2ms@onnx, top1>=90%``."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor
from typing import Literal, get_args

from mobilette.errors import InputError, nearest, one_of, shown
from mobilette.limits import THREADS

Quantity = Literal["params", "madds", "size", "ram", "latency", "top1"]
# Known from the network alone.
Counted = Literal["params", "madds", "size", "ram"]
QUANTITIES: tuple[Quantity, ...] = get_args(Quantity)
COUNTED_QUANTITIES: tuple[Counted, ...] = get_args(Counted)
# Those that can be timed here; a microcontroller's latency is only known from its table.
TIMED_ENGINES = ("onnx", "litert", "openvino", "executorch", "ncnn", "keras", "web")
TABLE_SUFFIX = ".json"

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
UNITS: Mapping[Quantity, Mapping[str, Fraction | int]] = {
    "params": COUNTED,
    "madds": COUNTED,
    "size": BYTES,
    "ram": BYTES,
    "latency": {"us": Fraction(1, 1000), "ms": 1, "s": 1000},
    "top1": {"": 1, "%": Fraction(1, 100)},
}
_TERM = re.compile(r"(\w+)\s*(<=|>=|<(?!=)|>(?!=))\s*([^\s@]+)\s*(?:@\s*(\S.*))?", flags=re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Device:
    """Where a latency holds: on an engine of this machine, or on the device of a latency table.

    Attributes:
        engine: an export target of this machine, of `TIMED_ENGINES`; else ``None``.
        threads: of the engine.
        table: the path of a latency table's file; else ``None``.
    """

    engine: str | None = None
    threads: int = 1
    table: str | None = None

    def __str__(self) -> str:
        """The device as in a budget: ``onnx``, ``litert:2``, ``pi4.json``."""
        if self.table is not None:
            return self.table
        return f"{self.engine}:{self.threads}" if self.threads > 1 else str(self.engine)


@dataclass(frozen=True, kw_only=True)
class Constraint:
    """An upper limit of a quantity, or the lower limit of ``top1``.

    Attributes:
        quantity: ``params``; ``madds``; ``size``, bytes of the weights; ``ram``, bytes of the
            activations alive at once; ``latency``, milliseconds of one image; ``top1``, the
            accuracy, 0 to 1.
        limit: inclusive: ``madds<60M`` is at most 59,999,999. A whole number of everything counted.
        text: as the user wrote it.
        device: where a latency holds; ``None`` for other quantities.
    """

    quantity: Quantity
    limit: float
    text: str
    device: Device | None = None

    def is_met(self, amount: float) -> bool:
        """Whether ``amount``, in the unit of `limit`, is within the limit."""
        return amount >= self.limit if self.quantity == "top1" else amount <= self.limit


def parse_budget(text: str) -> tuple[Constraint, ...]:
    """Return the constraints in ``text``, separated by commas, with ``<=`` or ``<``.

    ``params`` and ``madds`` take the suffixes K, M and G; ``size`` and ``ram`` take B, KB, MB, GB
    (powers of 1,000) or KiB, MiB, GiB (powers of 1,024); ``latency`` takes us, ms or s, and says
    where: ``@onnx``, ``@litert:2`` (threads) or ``@pi4.json`` (a latency table). Case of units does
    not matter. ``top1``, with ``>=`` or ``>``, is 90% or 0.9.

    Raises:
        InputError: a part is not a constraint, or a quantity is limited twice (a latency: twice on
            one engine).
    """
    constraints = tuple(_constraint(part.strip()) for part in text.split(","))
    limited = [_subject(constraint) for constraint in constraints]
    for subject in limited:
        if limited.count(subject) > 1:
            raise InputError(f"budget {text!r} limits {subject} twice")
    return constraints


def _subject(constraint: Constraint) -> str:
    """Return what may be limited only once."""
    device = constraint.device
    if device is None:
        return constraint.quantity
    return f"{constraint.quantity} on {device.table or device.engine}"


def _constraint(text: str) -> Constraint:
    match = _TERM.fullmatch(text)
    if match is None:
        raise InputError(
            f"budget {text!r} is not a limit such as madds<=60M, size<=1MB, ram<=256KB, "
            "latency<=2ms@onnx or top1>=90%"
        )
    key, operator, amount, place = match.groups()
    one_of(key, QUANTITIES, "budget quantity")
    quantity = next(each for each in QUANTITIES if each == key)
    if operator.startswith(">") != (quantity == "top1"):
        right = "a lower limit, >= or >" if quantity == "top1" else "an upper limit, <= or <"
        raise InputError(f"budget {text!r} is not a limit of {quantity}, which is {right}")
    if place is not None and quantity != "latency":
        raise InputError(f"budget {text!r}: only latency has an @, an engine or a table's file")
    device = _device(place, text) if quantity == "latency" else None
    limit = _amount(amount, quantity, text)
    return Constraint(
        quantity=quantity, limit=_inclusive(limit, quantity, operator), text=text, device=device
    )


def _inclusive(limit: Fraction, quantity: Quantity, operator: str) -> float:
    """Return the last amount within the limit: whole of what is counted, else the last float."""
    if quantity in COUNTED_QUANTITIES:
        return floor(limit) if operator == "<=" else ceil(limit) - 1
    if operator in ("<=", ">="):
        return float(limit)
    return math.nextafter(float(limit), 0.0 if operator == "<" else math.inf)


def _device(place: str | None, constraint: str) -> Device:
    if place is None:
        raise InputError(
            f"budget {constraint!r} does not say where: {constraint}@onnx, or the file of a "
            "latency table"
        )
    if place.lower().endswith(TABLE_SUFFIX):
        return Device(table=place)
    engine, colon, threads = place.partition(":")
    if engine not in TIMED_ENGINES:
        raise InputError(
            f"budget {constraint!r}: {shown(engine)} is no engine that is timed here "
            f"({', '.join(TIMED_ENGINES)}) and no latency table, a {TABLE_SUFFIX} file"
            f"{nearest(engine, TIMED_ENGINES)}"
        )
    if not colon:
        return Device(engine=engine)
    if not re.fullmatch(r"[0-9]{1,9}", threads):
        raise InputError(f"budget {constraint!r}: {threads!r} is no number of threads")
    THREADS.check(f"budget {constraint!r}: threads", int(threads))
    return Device(engine=engine, threads=int(threads))


def _amount(text: str, quantity: Quantity, constraint: str) -> Fraction:
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([A-Za-z]*|%)", text)
    if match is None or len(text) > 30 or not Fraction(match[1]):
        raise InputError(
            f"budget {constraint!r}: {text!r} is not a positive number such as "
            f"{_EXAMPLES.get(quantity, '60 or 1.5M')}"
        )
    units = {unit.lower(): factor for unit, factor in UNITS[quantity].items()}
    if match[2].lower() not in units:
        known = [unit for unit in UNITS[quantity] if unit]
        raise InputError(
            f"budget {constraint!r}: unit {match[2]!r} of {quantity} is not one of "
            f"{', '.join(known)}{nearest(match[2], known)}"
        )
    amount = Fraction(match[1]) * units[match[2].lower()]
    if quantity == "top1" and amount > 1:
        raise InputError(f"budget {constraint!r}: top1 is at most 100%, such as 90% or 0.9")
    return amount


_EXAMPLES: Mapping[Quantity, str] = {"latency": "2ms or 300us", "top1": "90% or 0.9"}
