"""The networks that `fit` chooses from: every family, width, resolution and start."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mobilette.arch.arch import Arch
from mobilette.arch.catalogue import get_arch, list_models
from mobilette.arch.layers import training_layers
from mobilette.arch.scale import Resolution, resolution_text, size_of
from mobilette.counting.budget import Constraint, Device, Quantity
from mobilette.counting.candidates import Candidate, Precision, Shortfall, candidates
from mobilette.counting.cost import cost
from mobilette.counting.latency import LatencyTable, predicted_latency
from mobilette.model.model import Model
from mobilette.search.artifact_sizes import ARENA, beside_weights
from mobilette.search.contender import AUTO, SCRATCH, Contender
from mobilette.search.prior import Setting, prior

_MISFITS = 6
# Larger networks are not trained within minutes or hours on what runs `fit`.
LARGEST_MADDS = 4_000_000_000
# Resolutions that are tried, as fractions of the images' own; multiples of 8.
_FRACTIONS = (0.5, 0.625, 0.75, 0.875, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 6.0)
_MULTIPLE = 8

# How much larger than those that weights were trained with, images may be.
_FURTHER = 1.5

# Between the usual widths; microcontrollers need narrower ones.
WIDTHS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.5, 0.6, 0.75, 0.85, 1.0, 1.25, 1.4, 1.5, 2.0)


def resolutions(own: int, *, largest: int) -> list[Resolution]:
    """Return the resolutions to try, ascending: multiples of 8 around the images' ``own``."""
    sides = {round(own * part / _MULTIPLE) * _MULTIPLE for part in _FRACTIONS}
    return sorted(side for side in sides if 16 <= side <= largest)


def within(
    budget: Sequence[Constraint],
    starts: Mapping[str, Model],
    *,
    names: Sequence[str],
    setting: Setting,
    target: str,
    precision: Precision,
    num_classes: int,
    tables: Mapping[Device, LatencyTable],
) -> list[Contender] | Shortfall:
    """Return the networks within ``budget``, best by the prior first, or why there are none.

    Networks of the catalogue start from random weights, or from published ones if they have the
    full form; those of ``starts`` (run folder → model) also from these, at their width or sliced.

    Args:
        budget: limits of what is counted.
        starts: initial weights of the user's.
        names: the networks of the catalogue to try.
        setting: images, time and machine.
        target: whose files are larger than the weights by a little per layer.
        precision: of ``size`` and ``ram``.
        num_classes: of the classifier.
        tables: predict the latencies that ``budget`` limits, by device.
    """
    seen = [_FURTHER * min(model.arch.size) for model in starts.values()]
    largest = math.ceil(max([_FURTHER * setting.own, *seen]))
    found = candidates(
        names,
        budget,
        resolutions=resolutions(setting.own, largest=max(largest, 32)),
        precision=precision,
        num_classes=num_classes,
        widths=WIDTHS,
        tables=tables,
    )
    own = [
        each
        for path, model in starts.items()
        if model.arch.name not in list_models()
        for each in _of_its_own(
            path, model.arch.with_classes(num_classes), budget, precision, tables
        )
    ]
    if isinstance(found, Shortfall) and not own:
        return found
    listed = [] if isinstance(found, Shortfall) else found
    made = [*own, *_of_catalogue(listed, starts, precision, setting)]
    limits = {term.quantity: term.limit for term in budget}
    beside = {name: beside_weights(name, target, precision) for name in {x.name for x in made}}

    def excess(each: Contender) -> float:
        """Return by what factor the file or the arena will be too large; at most 1 fits."""
        size = each.size_bytes + beside[each.name](each.width_mult or 1.0)
        ram = each.ram_bytes * (ARENA if target == "mcu" else 1.0)
        return max(size / limits.get("size", math.inf), ram / limits.get("ram", math.inf))

    # If none fits by these estimates, those that are nearest may still do.
    made = [each for each in made if excess(each) <= 1.0] or sorted(made, key=excess)[:_MISFITS]
    depths = {name: _depth(name) for name in {each.name for each in made}}
    rated = [
        replace(each, prior=prior(each, starts, setting, layers=depths[each.name])) for each in made
    ]
    return sorted(rated, key=lambda each: (-each.prior, each.key))


def _depth(name: str) -> int:
    """Return how many layers are trained of a network; 0 if it is in no catalogue."""
    return len(training_layers(get_arch(name))) if name in list_models() else 0


def _of_catalogue(
    listed: Sequence[Candidate],
    starts: Mapping[str, Model],
    precision: Precision,
    setting: Setting,
) -> Iterator[Contender]:
    for each in listed:
        if each.madds > LARGEST_MADDS:
            continue
        side = min(size_of(each.resolution))
        options = [AUTO if side > 64 else SCRATCH] if side <= _FURTHER * setting.own else []
        options += [
            path
            for path, model in starts.items()
            if model.arch.name == each.name
            and (model.origin.width_mult or 1.0) >= each.width_mult
            and side <= _FURTHER * min(model.arch.size)
        ]
        for start in options:
            yield Contender(
                key=_key(each.name, each.width_mult, each.resolution, start),
                name=each.name,
                width_mult=each.width_mult,
                resolution=each.resolution,
                start=start,
                params=each.params,
                madds=each.madds,
                size_bytes=each.counted("size", precision),
                ram_bytes=each.counted("ram", precision),
            )


def _of_its_own(
    path: str,
    arch: Arch,
    budget: Sequence[Constraint],
    precision: Precision,
    tables: Mapping[Device, LatencyTable],
) -> Iterator[Contender]:
    """Yield the network of a run that is in no catalogue, such as a pruned one."""
    needs = amounts(arch, precision)
    if all(term.is_met(amount_of(term, arch, needs, tables)) for term in budget):
        key = _key(arch.name, None, arch.resolution, path)
        yield contender_of(arch, key=key, start=path, precision=precision)


def contender_of(arch: Arch, *, key: str, start: str, precision: Precision) -> Contender:
    """Return a contender that is the network of the run ``start``, whatever the catalogue has."""
    needs = amounts(arch, precision)
    return Contender(
        key=key,
        name=arch.name,
        width_mult=None,
        resolution=arch.resolution,
        start=start,
        params=needs["params"],
        madds=needs["madds"],
        size_bytes=needs["size"],
        ram_bytes=needs["ram"],
    )


def amount_of(
    term: Constraint,
    arch: Arch,
    needs: Mapping[Quantity, int],
    tables: Mapping[Device, LatencyTable],
) -> float:
    """Return how much a network needs of what ``term`` limits; a latency is predicted.

    Args:
        term: of a budget.
        arch: the network.
        needs: its `amounts`.
        tables: one for each device of the budget.
    """
    if term.device is not None:
        return predicted_latency(arch, tables[term.device])
    return needs[term.quantity]


def amounts(arch: Arch, precision: Precision) -> dict[Quantity, int]:
    """Return what a network needs of each quantity that is counted."""
    counted = cost(arch)
    size: int = getattr(counted.size_bytes, precision)
    ram: int = getattr(counted.peak_activation_bytes, precision)
    return {"params": counted.params, "madds": counted.madds, "size": size, "ram": ram}


def _key(name: str, width_mult: float | None, resolution: Resolution, start: str) -> str:
    width = "" if width_mult is None else f"-x{width_mult:g}"
    place = "" if start in (SCRATCH, AUTO) else f"-from-{Path(start).name}"
    return f"{name}{width}-{resolution_text(resolution)}{place}"
