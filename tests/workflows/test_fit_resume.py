"""A fit that was stopped, or has ended: what is kept, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from mobilette.cli.main import run as command
from mobilette.errors import InputError
from mobilette.training.events import EpochDone, Event, Sitting
from mobilette.workflows.fit import go_on, resume_fit, run_fit
from mobilette.workflows.fit_record import FIT, LINES, Clock, Fitted, Journal
from tests.training.runs import Ticks
from tests.workflows.fits import asked

pytest.importorskip("optuna")


def test_a_stopped_fit_goes_on(data: Path, tmp_path: Path) -> None:
    """Whatever is in hand is continued; nothing that is finished is done again."""
    events = 0

    def stop(event: Event) -> None:
        nonlocal events
        events += isinstance(event, EpochDone)
        if events == 6:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        run_fit(asked(data), out=out, sitting=Sitting(now=Ticks(0.04), report=stop))
    before = [(line["key"], line["round"]) for line in Journal(out, print).lines("trained")]
    found = go_on(out, asked(data), sitting=Sitting(now=Ticks(0.04)))
    after = [(line["key"], line["round"]) for line in Journal(out, print).lines("trained")]
    assert after[: len(before)] == before
    assert len(after) == len(set(after))
    assert found.passed


def test_a_finished_fit_is_returned(fitted: Fitted) -> None:
    again = resume_fit(fitted.path)
    assert again.artifact is not None
    assert again.to_json() | {"seconds": 0} == fitted.to_json() | {"seconds": 0}


def test_other_images_are_refused(fitted: Fitted, data: Path, tmp_path: Path) -> None:
    place = Path(shutil.copytree(fitted.path, tmp_path / "fit"))
    values = json.loads((place / FIT).read_text())
    fewer = Path(shutil.copytree(data, tmp_path / "set"))
    next(fewer.rglob("*.png")).unlink()
    (place / FIT).write_text(json.dumps(values | {"data": str(fewer)}))
    with pytest.raises(InputError, match="the images have changed since the fit was begun"):
        resume_fit(place)


def test_other_pixels_in_the_same_files_are_refused(
    fitted: Fitted, data: Path, tmp_path: Path
) -> None:
    place = Path(shutil.copytree(fitted.path, tmp_path / "fit"))
    values = json.loads((place / FIT).read_text())
    other = Path(shutil.copytree(data, tmp_path / "set"))
    (place / FIT).write_text(json.dumps(values | {"data": str(other)}))
    assert resume_fit(place).passed  # the same ones in another place
    path = next(other.rglob("*.png"))
    with Image.open(path) as image:
        size = image.size
    Image.new("RGB", size).save(path)
    with pytest.raises(InputError, match="as many, with other content; start a new fit"):
        resume_fit(place)


def test_half_a_line_of_a_killed_process_is_no_line(tmp_path: Path) -> None:
    journal = Journal(tmp_path, lambda line: None)
    journal.add("trained", key="a")
    with (tmp_path / LINES).open("a") as file:
        file.write('{"what": "tra')
    journal.add("trained", key="b")
    assert [line["key"] for line in journal.lines("trained")] == ["a", "b"]


def test_a_process_that_joins_later_ends_when_the_first_does(tmp_path: Path) -> None:
    """Its clock began at what was recorded, which is never the very last."""
    first = Clock(tmp_path, 60.0, Sitting(now=lambda: 40.0))
    second = Clock(tmp_path, 60.0, Sitting(now=lambda: 33.0))
    first.save()
    second.save()
    assert second.left == first.left == 20.0
    first.save()
    assert first.left == 20.0


def test_a_lost_artifact_is_no_success(fitted: Fitted, tmp_path: Path) -> None:
    place = Path(shutil.copytree(fitted.path, tmp_path / "fit"))
    shutil.rmtree(place / "artifact")
    found = resume_fit(place)
    assert not found.passed
    assert found.artifact is None


def test_resuming_takes_no_images(data: Path, tmp_path: Path) -> None:
    assert command(["fit", str(data), "--resume", str(tmp_path)]) == 2
    assert command(["fit", "--resume", str(tmp_path)]) == 2
