"""Which networks to try first: a prior, and a few that differ."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mobilette.arch.scale import Resolution, size_of
from mobilette.model.model import Model
from mobilette.search.contender import Contender

# The prior, in percentage points. Its constants only order the networks that are tried first; they
# were chosen by hand (docs/fit.md says what each race then measured).
_PER_DOUBLING = 2.0  # of the mult-adds, if there is time to train them
# Of the parameters, up to so many an image: what a network of a few thousand can learn is limited.
_PER_DOUBLED_SIZE, _PARAMS_PER_IMAGE = 1.0, 100.0
_PER_MISSING_DOUBLING = 4.0  # of the images trained on, below those that a network needs
_EPOCHS_FROM_SCRATCH, _EPOCHS_FROM_WEIGHTS = 15.0, 4.0
# Small sets need more epochs: steps count, too. And a first training says nothing before these.
_IMAGES_FROM_SCRATCH, _IMAGES_FROM_WEIGHTS = 15_000.0, 4_000.0
_FIRST_IMAGES = 700.0
_FROM_WEIGHTS = 12.0  # what weights trained on ImageNet are worth
_PER_HALVED_WIDTH = 8.0  # lost of it where they are sliced
_PER_HALVED_IMAGE, _PER_DOUBLED_IMAGE = 6.0, 2.0
_SAME_FAMILY, _SAME_NETWORK = 1.5, 1.0  # less, for each that is on the list already
_LAYER_SECONDS = 6e-6  # an image, whatever a layer computes: measured at 32 images a step
_READING = 25.0  # of the part of the time that reading at one more resolution takes


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What the prior knows of the images, the time and the machine.

    Attributes:
        own: the resolution that does not enlarge the images.
        images: to train on.
        seconds: for the training of the network that is chosen.
        first: seconds of a first training in the race.
        madds_per_second: mult-adds that a training step does, forward; measured, or a guess.
    """

    own: int
    images: int
    seconds: float
    first: float
    madds_per_second: float


def prior(
    contender: Contender, starts: Mapping[str, Model], setting: Setting, *, layers: int = 0
) -> float:
    """Return the percentage points by which a network of ``layers`` is expected to do better.

    More mult-adds are better as long as there is time to train them, and more parameters as long as
    there are few; weights of a start are worth a
    lot, the less the narrower they are sliced; images are best as large as those that the weights
    were trained with, or without weights as large as they are.
    """
    side = min(size_of(contender.resolution))
    points = _PER_DOUBLING * math.log2(max(contender.madds, 1))
    useful = min(contender.params, _PARAMS_PER_IMAGE * setting.images)
    points += _PER_DOUBLED_SIZE * math.log2(max(useful, 1))
    epochs, images = _EPOCHS_FROM_SCRATCH, _IMAGES_FROM_SCRATCH
    model = starts.get(contender.start)
    if model is not None:
        epochs, images = _EPOCHS_FROM_WEIGHTS, _IMAGES_FROM_WEIGHTS
        width = contender.width_mult or 1.0
        sliced = math.log2((model.origin.width_mult or width) / width)
        points += max(_FROM_WEIGHTS - _PER_HALVED_WIDTH * sliced, 0.0)
        # They know objects of the size that they were trained with, however small these are here.
        points -= _PER_HALVED_IMAGE * _doublings(min(model.arch.size), side)
    else:
        points -= _PER_HALVED_IMAGE * _doublings(setting.own, side)
        points -= _PER_DOUBLED_IMAGE * _doublings(side, setting.own)
    # Images per second.
    speed = 1 / (contender.madds / setting.madds_per_second + _LAYER_SECONDS * layers + 1e-9)
    missing = _doublings(max(epochs * setting.images, images), speed * setting.seconds)
    missing += _doublings(_FIRST_IMAGES, speed * setting.first)
    return points - _PER_MISSING_DOUBLING * missing


def _doublings(needed: float, there: float) -> float:
    """Return how many doublings ``there`` is below what is ``needed``."""
    return max(math.log2(needed / max(there, 1e-9)), 0.0)


def shortlist(
    contenders: Sequence[Contender], count: int, *, reading: float = 0.0
) -> list[Contender]:
    """Return ``count`` contenders, best first, that differ: in family, resolution and start.

    Each that is taken makes others of its family less attractive, and still more so others of the
    same network and start; one at a resolution that none has is the less attractive the larger the
    part of the time is that ``reading`` the images at it takes.
    """
    left, taken = list(contenders), list[Contender]()
    families, networks = Counter[tuple[str, str]](), Counter[tuple[str, str, Resolution]]()

    def attraction(each: Contender) -> float:
        same = families[each.family, each.start]
        alike = networks[each.name, each.start, each.resolution]
        unread = 0.0 if each.resolution in {other.resolution for other in taken} else reading
        return each.prior - _SAME_FAMILY * same - _SAME_NETWORK * alike - _READING * unread

    while left and len(taken) < count:
        best = max(left, key=attraction)
        taken.append(best)
        families[best.family, best.start] += 1
        networks[best.name, best.start, best.resolution] += 1
        left.remove(best)
    return taken
