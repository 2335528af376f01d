"""The networks of the catalogue that fit a budget, at any width and resolution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mobilette.arch.arch import Arch
from mobilette.arch.catalogue import family_of, get_arch
from mobilette.arch.scale import Resolution, Settings, size_of
from mobilette.counting.budget import COUNTED_QUANTITIES, Constraint, Counted, Device
from mobilette.counting.cost import Bytes
from mobilette.counting.latency import LatencyTable, predicted_latency
from mobilette.counting.published import Accuracy, published_accuracy, published_widths
from mobilette.counting.resolution_costs import CostByResolution, cost_by_resolution
from mobilette.errors import InputError

Precision = Literal["fp32", "int8"]
ELEMENT_BYTES = {"fp32": 4, "int8": 1}
# The widths of the papers' grids; a network's other published widths are added.
USUAL_WIDTHS = (0.25, 0.35, 0.5, 0.75, 1.0, 1.25, 1.4, 1.5, 2.0)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A network at a width and a resolution, its cost and its published accuracy.

    ``accuracy`` is on ImageNet, whatever the number of classes; ``None`` if unpublished.
    ``latency_ms`` is predicted, by the devices in the budget.
    """

    name: str
    family: str
    width_mult: float
    resolution: Resolution
    params: int
    madds: int
    size_bytes: Bytes
    peak_activation_bytes: Bytes
    accuracy: Accuracy | None
    latency_ms: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """Return the candidate as JSON values; without an accuracy its three values are null."""
        known = self.accuracy
        latency = {"latency_ms": dict(self.latency_ms)} if self.latency_ms else {}
        return {
            "name": self.name,
            "family": self.family,
            "params": self.params,
            "madds": self.madds,
            "resolution": self.resolution,
            "width_mult": self.width_mult,
            "top1": known.top1 if known else None,
            "top1_interpolated": known.interpolated if known else None,
            "source": known.source if known else None,
            "size_bytes": asdict(self.size_bytes),
            "peak_activation_bytes": asdict(self.peak_activation_bytes),
            **latency,
        }

    def arch(self, num_classes: int) -> Arch:
        """Return the network, with a classifier for ``num_classes``."""
        settings = Settings(
            width_mult=self.width_mult, resolution=self.resolution, num_classes=num_classes
        )
        return get_arch(self.name, settings)

    def needs(self, constraint: Constraint, precision: Precision) -> float:
        """Return how much it needs of what ``constraint`` limits, in the same unit."""
        if constraint.quantity == "latency":
            return self.latency_ms[str(constraint.device)]
        return self.counted(_counted(constraint), precision)

    def counted(self, quantity: Counted, precision: Precision) -> int:
        """Return how much of ``quantity`` it needs."""
        size: int = getattr(self.size_bytes, precision)
        ram: int = getattr(self.peak_activation_bytes, precision)
        return {"params": self.params, "madds": self.madds, "size": size, "ram": ram}[quantity]


@dataclass(frozen=True, kw_only=True)
class Shortfall:
    """Why nothing fits.

    Attributes:
        tightest: the constraint that the nearest candidate misses by the largest factor.
        nearest: the candidate for which that factor is smallest.
        smallest: the candidate that needs the least of the tightest constraint's quantity.
    """

    tightest: Constraint
    nearest: Candidate
    smallest: Candidate


@dataclass(frozen=True)
class _Swept:
    """One network at one width: its costs at several resolutions."""

    name: str
    width_mult: float
    arch: Arch
    resolutions: list[Resolution]
    costs: CostByResolution
    tables: Mapping[Device, LatencyTable]

    def needs(self, constraint: Constraint, precision: Precision) -> NDArray[np.float64]:
        """Return how much it needs of what ``constraint`` limits, at each resolution."""
        if constraint.quantity == "latency":
            table = self.tables[_device(constraint)]
            return np.array([self.latency_ms(index, table) for index in range(len(self))])
        costs = self.costs
        amounts = {
            "params": costs.params,
            "madds": costs.madds,
            "size": getattr(costs.size_bytes, precision),
            "ram": ELEMENT_BYTES[precision] * costs.peak_activations,
        }
        needed = np.asarray(amounts[_counted(constraint)], dtype=np.float64)
        return np.broadcast_to(needed, costs.madds.shape)

    def __len__(self) -> int:
        return len(self.resolutions)

    def latency_ms(self, index: int, table: LatencyTable) -> float:
        return predicted_latency(self.arch.with_resolution(self.resolutions[index]), table)

    def candidate(self, index: int) -> Candidate:
        elements = int(self.costs.peak_activations[index])
        resolution = self.resolutions[index]
        return Candidate(
            name=self.name,
            family=family_of(self.name),
            width_mult=self.width_mult,
            resolution=resolution,
            params=self.costs.params,
            madds=int(self.costs.madds[index]),
            size_bytes=self.costs.size_bytes,
            peak_activation_bytes=Bytes(fp32=4 * elements, int8=elements),
            accuracy=published_accuracy(self.name, self.width_mult, resolution),
            latency_ms={
                str(device): self.latency_ms(index, table) for device, table in self.tables.items()
            },
        )


def candidates(
    names: Sequence[str],
    budget: Sequence[Constraint],
    *,
    resolutions: Sequence[Resolution],
    precision: Precision = "int8",
    num_classes: int = 1000,
    widths: Sequence[float] = USUAL_WIDTHS,
    tables: Mapping[Device, LatencyTable] | None = None,
) -> list[Candidate] | Shortfall:
    """Return the networks among ``names`` that fit ``budget``, highest published accuracy first.

    Each is tried at its published widths, ``widths`` and every resolution. Networks without a
    published accuracy come last; ties go to fewer mult-adds.

    Args:
        names: networks of the catalogue.
        budget: upper limits; if empty, everything fits.
        resolutions: of the input; networks have the small form up to a shorter side of 64 pixels.
        precision: at which ``size`` and ``ram`` are counted.
        num_classes: of the classifier.
        widths: width multipliers.
        tables: predict the latencies that ``budget`` limits, by device.

    Returns:
        The candidates, or why there are none.

    Raises:
        InputError: a resolution that no network can have, a limit of the accuracy, a device without
            a table, or a table of another precision.
    """
    tables = _tables(budget, tables or {}, precision)
    counted = [each for each in budget if each.quantity != "latency"]
    timed = [each for each in budget if each.quantity == "latency"]
    growing = [each for each in counted if each.quantity != "ram"]  # with the width, always
    swept = list[_Swept]()
    for name in names:
        for width_mult in sorted({*widths, *published_widths(name)}):
            forms = _sweep(name, width_mult, resolutions, num_classes, tables)
            swept += forms
            if all((_excess(form, growing, precision) > 1).all() for form in forms):
                break  # wider ones need even more
    found = [
        candidate
        for each in swept
        for index in np.flatnonzero(_excess(each, counted, precision) <= 1)
        for candidate in (each.candidate(int(index)),)
        if all(x.is_met(candidate.needs(x, precision)) for x in timed)
    ]
    if not found:
        return _shortfall(swept, budget, precision)
    return sorted(found, key=_rank)


def _tables(
    budget: Sequence[Constraint], given: Mapping[Device, LatencyTable], precision: Precision
) -> dict[Device, LatencyTable]:
    """Return the tables that ``budget`` needs."""
    tables = {}
    for constraint in budget:
        if constraint.quantity == "top1":
            raise InputError(
                f"budget {constraint.text!r}: accuracy depends on the images: mobilette fit"
            )
        if constraint.quantity == "latency":
            device = _device(constraint)
            if device not in given:
                raise InputError(f"budget {constraint.text!r}: no latency table of {device}")
            table = tables[device] = given[device]
            if table.precision != precision:
                raise InputError(
                    f"budget {constraint.text!r}: the latency table is of {table.precision}, not "
                    f"{precision}"
                )
    return tables


def _device(constraint: Constraint) -> Device:
    assert constraint.device is not None  # of every latency
    return constraint.device


def _counted(constraint: Constraint) -> Counted:
    return next(each for each in COUNTED_QUANTITIES if each == constraint.quantity)


def _rank(candidate: Candidate) -> tuple[float, int, str, float, tuple[int, int]]:
    top1 = candidate.accuracy.top1 if candidate.accuracy else 0.0
    place = (candidate.name, candidate.width_mult, size_of(candidate.resolution))
    return (-top1, candidate.madds, *place)


def _sweep(
    name: str,
    width_mult: float,
    resolutions: Sequence[Resolution],
    num_classes: int,
    tables: Mapping[Device, LatencyTable],
) -> list[_Swept]:
    """Return the costs of the small and the full form, as far as ``resolutions`` need them."""

    def settings(resolution: Resolution) -> Settings:
        return Settings(width_mult=width_mult, resolution=resolution, num_classes=num_classes)

    def is_full(resolution: Resolution) -> bool:
        return settings(resolution).is_full

    swept = []
    for _, group in groupby(
        sorted(set(resolutions), key=lambda x: (is_full(x), size_of(x))), is_full
    ):
        sides = list(group)
        arch = get_arch(name, settings(sides[0]))
        costs = cost_by_resolution(arch, sides)
        swept.append(_Swept(name, width_mult, arch, sides, costs, tables))
    return swept


def _excess(
    swept: _Swept, budget: Sequence[Constraint], precision: Precision
) -> NDArray[np.float64]:
    """Return the largest ratio of need to limit at each resolution; at most 1 fits."""
    worst = np.zeros(len(swept.resolutions))
    for constraint in budget:
        worst = np.maximum(worst, swept.needs(constraint, precision) / _limit(constraint))
    return worst


def _limit(constraint: Constraint) -> float:
    """Return the limit, never 0, so that it can be divided by."""
    least = 1e-6 if constraint.quantity == "latency" else 0.5
    return max(float(constraint.limit), least)


def _shortfall(
    swept: Sequence[_Swept], budget: Sequence[Constraint], precision: Precision
) -> Shortfall:
    def least(amounts: list[NDArray[np.float64]]) -> Candidate:
        row = min(range(len(swept)), key=lambda index: float(amounts[index].min()))
        return swept[row].candidate(int(amounts[row].argmin()))

    nearest = least([_excess(each, budget, precision) for each in swept])
    tightest = max(budget, key=lambda c: nearest.needs(c, precision) / _limit(c))
    needed = [each.needs(tightest, precision) for each in swept]
    return Shortfall(tightest=tightest, nearest=nearest, smallest=least(needed))
