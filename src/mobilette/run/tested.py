"""``test.json``: the best weights on images that nothing was chosen by."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Annotated, Literal

from mobilette.files import read_bytes, read_json, read_record, write_json
from mobilette.limits import AMOUNT, FRACTION, Range
from mobilette.model.directory import DATASET
from mobilette.records import Ranged
from mobilette.run.directory import Run
from mobilette.run.metrics import Metrics, wilson_interval
from mobilette.run.trained import TRAINED

TEST = "test.json"
_LOSS = Range(-1e30, 1e30)


@dataclass(frozen=True, kw_only=True)
class Tested(Ranged):
    """What `mobilette.evaluate` measures with ``split="test"``, once, at the end of a training.

    Attributes:
        weights_sha256: of the file of the weights that were measured.
    """

    top1: Annotated[float, FRACTION]
    top5: Annotated[float, FRACTION] | None
    loss: Annotated[float, _LOSS] | None
    images: Annotated[int, AMOUNT]
    mean_average_precision: Annotated[float, FRACTION] | None = None
    weights_sha256: str
    schema: Literal[1] = 1

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% Wilson interval of ``top1``."""
        return wilson_interval(self.top1, self.images)

    def to_json(self) -> dict[str, object]:
        """Return the numbers as JSON values, with the interval."""
        values = asdict(self)
        del values["weights_sha256"], values["schema"]
        return values | {"top1_interval": self.interval}


def read_tested(run: Run) -> Tested | None:
    """Return the test of a run's best weights; ``None`` if they were not tested.

    Raises:
        InputError: the record is damaged.
    """
    path = run.path / TEST
    found = read_record(path, Tested) if path.exists() else None
    return found if found is not None and found.weights_sha256 == _weights(run) else None


def write_tested(run: Run, metrics: Metrics) -> None:
    """Record ``metrics``, measured with the best weights of ``run``."""
    found = Tested(
        top1=metrics.top1,
        top5=metrics.top5,
        loss=metrics.loss,
        images=metrics.images,
        mean_average_precision=metrics.mean_average_precision,
        weights_sha256=_weights(run),
    )
    write_json(run.path / TEST, asdict(found))


def lacks_test(run: Run) -> bool:
    """Whether a run has images for a test, of this version, that was not made."""
    recorded = read_json(run.path / DATASET)
    if not isinstance(recorded, dict) or TRAINED not in recorded:
        return False
    return "test" in recorded.get("splits", ()) and read_tested(run) is None


def _weights(run: Run) -> str:
    return hashlib.sha256(read_bytes(run.weights_path)).hexdigest()
