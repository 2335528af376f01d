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
_PER_MISSING_DOUBLING = 4.0  # of the epochs, below those that a network needs
_EPOCHS_FROM_SCRATCH, _EPOCHS_FROM_WEIGHTS = 15.0, 4.0
_FROM_WEIGHTS = 12.0  # what weights trained on ImageNet are worth
_PER_HALVED_WIDTH = 8.0  # lost of it where they are sliced
_PER_HALVED_IMAGE, _PER_DOUBLED_IMAGE = 6.0, 2.0
_SAME_FAMILY, _SAME_NETWORK = 1.5, 1.0  # less, for each that is on the list already
_READING = 25.0  # of the part of the time that reading at one more resolution takes


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
