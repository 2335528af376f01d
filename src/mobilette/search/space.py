"""The networks that `fit` chooses from: every family, width, resolution and start."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from mobilette.arch.arch import Arch
from mobilette.arch.catalogue import family_of, list_models
from mobilette.arch.scale import Resolution, resolution_text, size_of
from mobilette.counting.budget import Constraint, Device, Quantity
from mobilette.counting.candidates import Candidate, Precision, Shortfall, candidates
from mobilette.counting.cost import cost
from mobilette.counting.latency import LatencyTable, predicted_latency
from mobilette.limits import AMOUNT, RESOLUTION, WIDTH_MULT, Range
from mobilette.model.model import Model
from mobilette.records import Ranged
from mobilette.search.artifact_sizes import ARENA, beside_weights
from mobilette.search.scenes import Wanted

SCRATCH, AUTO = "scratch", "auto"
_MISFITS = 6
# Larger networks are not trained within minutes or hours on what runs `fit`.
LARGEST_MADDS = 4_000_000_000
POINTS = Range(-1e6, 1e6)
# Resolutions that are tried, as fractions of the images' own; multiples of 8.
_FRACTIONS = (0.5, 0.625, 0.75, 0.875, 1.0, 1.25, 1.5, 2.0, 3.0)
_MULTIPLE = 8

# How much larger than those that weights were trained with, images may be.
_FURTHER = 1.5

# Between the usual widths; microcontrollers need narrower ones.
WIDTHS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.5, 0.6, 0.75, 0.85, 1.0, 1.25, 1.4, 1.5, 2.0)
# The prior, in percentage points. Its constants only order the networks that are tried first; they
# were chosen by hand (docs/fit.md says what each race then measured).
_PER_DOUBLING = 2.0  # of the mult-adds, if there is time to train them
_PER_MISSING_DOUBLING = 4.0  # of the epochs, below those that a network needs
_EPOCHS_FROM_SCRATCH, _EPOCHS_FROM_WEIGHTS = 15.0, 4.0
_FROM_WEIGHTS = 12.0  # what weights trained on ImageNet are worth
_PER_HALVED_WIDTH = 8.0  # lost of it where they are sliced
_PER_HALVED_IMAGE, _PER_DOUBLED_IMAGE = 6.0, 2.0
_SAME_FAMILY, _SAME_NETWORK = 1.5, 1.0  # less, for each that is on the list already


@dataclass(frozen=True, kw_only=True)
class Contender(Ranged):
    """A network that may be trained.

    Attributes:
        key: names it, and its folder.
        name: in the catalogue; that of ``start``'s own network if it is not of the catalogue.
        start: its initial weights: ``scratch``, ``auto`` (published ones, if there are any) or a
            run's folder.
        size_bytes: of the weights, at the precision that is asked for.
        ram_bytes: of the activations alive at once.
        prior: percentage points by which it is expected to do better than others.
    """

    key: str
    name: str
    width_mult: Annotated[float, WIDTH_MULT] | None
    resolution: Annotated[Resolution, RESOLUTION]
    start: str
    params: Annotated[int, AMOUNT]
    madds: Annotated[int, AMOUNT]
    size_bytes: Annotated[int, AMOUNT]
    ram_bytes: Annotated[int, AMOUNT]
    prior: Annotated[float, POINTS] = 0.0

    @property
    def family(self) -> str:
        """The family in the catalogue; the network's own name if it is in none."""
        return family_of(self.name) if self.name in list_models() else self.name

    def cost(self, wanted: Wanted) -> float:
        """Return how much it needs of the quantity that a budget limits first, or mult-adds."""
        needs = {
            "params": self.params,
            "madds": self.madds,
            "size": self.size_bytes,
            "ram": self.ram_bytes,
        }
        return next((needs[x.quantity] for x in wanted.counted), self.madds)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What the prior knows of the images, the time and the machine.

    Attributes:
        own: the resolution that does not enlarge the images.
        images: to train on.
        seconds: for the training of the network that is chosen.
        madds_per_second: mult-adds that a training step does, forward; measured, or a guess.
    """

    own: int
    images: int
    seconds: float
    madds_per_second: float


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
    largest = 3 * setting.own if starts else math.ceil(1.5 * setting.own)
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
    rated = [replace(each, prior=prior(each, starts, setting)) for each in made]
    return sorted(rated, key=lambda each: (-each.prior, each.key))


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


def prior(contender: Contender, starts: Mapping[str, Model], setting: Setting) -> float:
    """Return the percentage points by which a network is expected to do better than others.

    More mult-adds are better as long as there is time to train them; weights of a start are worth a
    lot, the less the narrower they are sliced; images are best as large as they are.
    """
    enlarged = math.log2(min(size_of(contender.resolution)) / setting.own)
    points = _PER_DOUBLING * math.log2(max(contender.madds, 1))
    needed = _EPOCHS_FROM_SCRATCH
    model = starts.get(contender.start)
    if model is not None:
        needed = _EPOCHS_FROM_WEIGHTS
        width = contender.width_mult or 1.0
        sliced = math.log2((model.origin.width_mult or width) / width)
        points += max(_FROM_WEIGHTS - _PER_HALVED_WIDTH * sliced, 0.0)
        # They have seen larger objects: enlarged images cost nothing but time.
        points -= 0.0 if enlarged > 0 else _PER_HALVED_IMAGE * -enlarged
    else:
        points -= _PER_DOUBLED_IMAGE * enlarged if enlarged > 0 else _PER_HALVED_IMAGE * -enlarged
    steps = 3 * max(contender.madds, 1) * max(setting.images, 1)  # forward and backward
    epochs = setting.seconds * 3 * setting.madds_per_second / steps
    return points - _PER_MISSING_DOUBLING * max(math.log2(needed / max(epochs, 1e-9)), 0.0)


def shortlist(contenders: Sequence[Contender], count: int) -> list[Contender]:
    """Return ``count`` contenders, best first, that differ: in family, resolution and start.

    Each that is taken makes others of its family less attractive, and still more so others of the
    same network and start.
    """
    left, taken = list(contenders), list[Contender]()
    families, networks = Counter[tuple[str, str]](), Counter[tuple[str, str, Resolution]]()

    def attraction(each: Contender) -> float:
        same = families[each.family, each.start]
        alike = networks[each.name, each.start, each.resolution]
        return each.prior - _SAME_FAMILY * same - _SAME_NETWORK * alike

    while left and len(taken) < count:
        best = max(left, key=attraction)
        taken.append(best)
        families[best.family, best.start] += 1
        networks[best.name, best.start, best.resolution] += 1
        left.remove(best)
    return taken
