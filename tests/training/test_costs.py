"""What is measured before the first step, and what is planned with it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from mobilette.data.dataset import Dataset, load_dataset
from mobilette.data.preprocess import preset
from mobilette.data.reading import Reading
from mobilette.data.sources import find_images
from mobilette.progress import Reporter
from mobilette.training import costs as costs_module
from mobilette.training.costs import measure_costs, plan_the_time
from mobilette.training.events import Sitting
from mobilette.training.recovery import Parts
from mobilette.training.state import Progress, state_bytes
from mobilette.training.step import Trainer
from mobilette.training.time_plan import Costs, TooShortError
from tests.data.sets import divided
from tests.training.runs import Ticks
from tests.training.test_step import batch, steps, trainer


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = divided(tmp_path_factory.mktemp("set"), train=40, val=10)
    return load(folder)


def load(folder: Path, *, cache: Path | None = None) -> Dataset:
    return load_dataset(
        find_images(folder),
        resolution=16,
        preprocess=preset("torch"),
        loader="resident" if cache is None else "streamed",
        reading=Reading(workers=0, cache=cache),
    )


def measured(made: Trainer, dataset: Dataset, progress: Progress, now: Ticks) -> Costs:
    parts = Parts(made.optimizer, batch=16, processes=1, remark=print)
    return measure_costs(made, progress, dataset, parts=parts, share=16, left=60.0, now=now)


def test_measuring_leaves_a_run_as_it_stands(dataset: Dataset) -> None:
    """Weights, average, momentum and the caller's random numbers, in the middle of a run."""
    made, progress = trainer(optimizer="adamw", frozen_epochs=2), Progress(epoch=1, index=3)
    steps(made, 3, pixels=batch())
    before, drawn = state_bytes(made, progress), torch.get_rng_state()
    costs = measured(made, dataset, progress, Ticks())
    assert state_bytes(made, progress) == before
    assert torch.equal(torch.get_rng_state(), drawn)
    assert costs.frozen_step > 0 < costs.validation


@pytest.mark.parametrize(("first", "number"), [(0.1, 2), (5.0, 1), (20.0, 2)])
def test_nobody_is_refused_for_what_a_first_step_makes(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, first: float, number: int
) -> None:
    """Compiled code: a step of 20 s, of which eight do not fit a minute, is taken once more."""
    now, taken, real = Ticks(), [0], Trainer.step

    def step(self: Trainer, *arguments: object, **options: object) -> torch.Tensor:
        taken[0] += 1
        now.time += 0.1 if taken[0] > 1 else first
        return real(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "step", step)
    costs = measured(trainer(), dataset, Progress(), now)
    assert taken[0] == number
    assert costs.step == pytest.approx(0.1 if number == 2 else first, abs=0.05)


def test_steps_are_measured_at_full_size_and_in_the_parts_that_fit(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    sides, loss_of = [], Trainer._loss_of

    def seen(self: Trainer, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if len(images) > 4:
            raise MemoryError
        sides.append(images.shape[2:])
        return loss_of(self, images, targets)

    monkeypatch.setattr(Trainer, "_loss_of", seen)
    progress = Progress()
    measured(trainer(start_resolution=1.0), dataset, progress, Ticks())
    assert progress.parts == 4
    assert set(sides) == {(16, 16)}


def test_images_that_are_not_decoded_yet_are_waited_for(tmp_path: Path) -> None:
    folder = divided(tmp_path / "set", train=40, val=10)
    streamed = load(folder, cache=tmp_path / "cache")
    store = streamed.store
    assert store is not None
    decoded = partial(getattr, store, "decoded")

    class ByDecoding(Ticks):
        def __call__(self) -> float:
            return super().__call__() + 0.5 * float(decoded())

    costs = measured(trainer(), streamed, Progress(), ByDecoding())
    assert costs.first_reading == pytest.approx(0.5 * 16, abs=1.0)  # one is read to begin with
    assert costs.reading < 0.5
    assert costs.validation > 0.5 * 25
    assert not costs.overlap
    streamed.close()


def planned(
    monkeypatch: pytest.MonkeyPatch, dataset: Dataset, progress: Progress, **keys: Any
) -> list[str]:
    """Return what is said of a minute with steps of 1 s, and 10 s for a validation."""
    costs = Costs(step=1.0, frozen_step=0.5, validation=10.0)
    monkeypatch.setattr(costs_module, "measure_costs", lambda *_, **__: costs)
    said: list[str] = []
    made = trainer(time_limit=60.0, batch_size=4, **keys)
    sitting = Sitting(now=lambda: 2.0, reporter=Reporter(remark=said.append))
    found = plan_the_time(made, progress, dataset, sitting=sitting)
    assert found == 10.0
    return said


def test_a_first_validation_is_planned_too(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that know the classes are validated before the first step."""
    (line,) = planned(monkeypatch, dataset, Progress())
    assert "about 45 steps" in line  # 60 - 2 - 1.15 * 11
    (line,) = planned(monkeypatch, dataset, Progress(trained_before=True))
    assert "about 35 steps" in line


def test_what_is_left_is_planned_on_resume(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    progress = Progress(epoch=1, index=20, elapsed=20.0, trained_before=True)
    (line,) = planned(monkeypatch, dataset, progress)
    assert "about 25 steps" in line
    # In the epoch of the classifier alone, that has half of what is left at most.
    progress = Progress(step=4, index=4, elapsed=10.0)
    (line,) = planned(monkeypatch, dataset, progress, frozen_epochs=1)
    assert "15 steps of the classifier alone" in line  # ((60 - 12 - 1.15 * 11) / 2 - 10) / 0.5
    assert progress.frozen_steps == 4 + 15


def test_a_run_that_has_begun_is_ended_where_too_little_is_left(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = Progress(epoch=1, index=20, elapsed=50.0)
    (line,) = planned(monkeypatch, dataset, begun)
    assert line.startswith("8.0 of 60 seconds are left, too few to train")
    with pytest.raises(TooShortError, match="would do"):
        planned(monkeypatch, dataset, Progress(elapsed=50.0))
