"""A network that a fit may train."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from mobilette.arch.catalogue import family_of, list_models
from mobilette.arch.scale import Resolution
from mobilette.limits import AMOUNT, RESOLUTION, WIDTH_MULT, Range
from mobilette.records import Ranged
from mobilette.search.scenes import Wanted

SCRATCH, AUTO = "scratch", "auto"
POINTS = Range(-1e6, 1e6)


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
