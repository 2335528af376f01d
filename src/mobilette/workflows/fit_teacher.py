"""The teacher of a fit's last training: the most accurate network that was met on the way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from mobilette.counting.cost import cost
from mobilette.data.reading import Reading
from mobilette.engines.load import load
from mobilette.errors import InputError
from mobilette.progress import SILENT
from mobilette.run.directory import STATE, Run, is_run, open_run
from mobilette.run.metrics import measure
from mobilette.run.trained import read_trained
from mobilette.search.contender import Contender
from mobilette.training.state import read_state
from mobilette.verification.evaluate import labelled_images, read_split
from mobilette.workflows.fit_record import RUNS, FitRequest, Journal
from mobilette.workflows.fit_trial import Trial, accuracy

# Of accuracy, that a teacher is ahead: less is chance.
AHEAD = 0.01
# A teacher answers to every image of each step: it must leave time for so many passes.
PASSES = 10.0
_STEP = 3.0  # mult-adds of a step by those of an answer: forward and backward


@dataclass(frozen=True, kw_only=True)
class Met:
    """A trained network of the same classes, and its accuracy on images that are held out."""

    run: Run
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class Teachers:
    """Finds teachers among the networks that a fit has trained, and those it was given.

    Attributes:
        asked: what `fit` was asked for.
        journal: of the fit.
        trial: knows the runs.
    """

    asked: FitRequest
    journal: Journal
    trial: Trial

    def choose(self, student: Contender, seconds: float) -> str | None:
        """Return the teacher for the last ``seconds`` of a contender's training, and record it.

        It is the user's, if there is one; else the most accurate network met that is clearly ahead
        of the student and leaves time enough to train.
        """
        for line in self.journal.lines("taught"):
            if line["key"] == student.key:  # before a restart
                return str(line["by"])
        if self.asked.teacher is not None:
            self.journal.add("taught", key=student.key, by=self.asked.teacher)
            return self.asked.teacher
        if not is_run(self.trial.run_of(student)):
            return None  # nothing was trained in time
        run = open_run(self.trial.run_of(student))
        own = accuracy(run)
        able = [each for each in self.met(run) if self._leaves_time(each.run, run, seconds)]
        best = max(able, key=lambda each: each.accuracy, default=None)
        if best is None or best.accuracy < own + AHEAD:
            return None
        by = str(best.run.path.resolve())
        self.journal.add("taught", key=student.key, by=by, ahead=[best.accuracy, own])
        return by

    def met(self, run: Run) -> Iterator[Met]:
        """Yield the networks met so far other than ``run``, on whose held-out images they count."""
        for key in dict.fromkeys(line["key"] for line in self.journal.lines("trained")):
            other = self.trial.folder / RUNS / key
            if other != run.path and is_run(other):
                found = open_run(other)
                yield Met(run=found, accuracy=accuracy(found))
        yield from self.starts(run)

    def starts(self, run: Run) -> Iterator[Met]:
        """Yield the runs of ``--starts`` that have the same classes, measured like ``run``."""
        for path in filter(is_run, map(Path, self.asked.starts)):
            start = open_run(path)
            if has_same_classes(start, run):
                try:
                    yield Met(run=start, accuracy=self._measured(start, run))
                except InputError:  # it was trained on all that is held out
                    continue

    def _measured(self, start: Run, run: Run) -> float:
        held_out = read_trained(run.path)
        seen = held_out.images | read_trained(start.path).images
        reading = Reading(
            workers=self.asked.workers, max_unusable=self.asked.max_unusable, split="val"
        )
        labelled = labelled_images(
            self.asked.data,
            start.classes,
            reading=reading,
            trained=replace(held_out, images=seen),
            multi_label=start.multi_label,
        )
        predictor = load(start)
        read = read_split(predictor, labelled.choice, reading, SILENT)
        ids = [label.id for label in start.classes]
        return measure(predictor.logits(read.split.pixels[:]), read.split.labels, ids).score

    def _leaves_time(self, teacher: Run, student: Run, seconds: float) -> bool:
        progress = read_state(student.path / STATE).progress
        alone = seconds / max(progress.elapsed, 1e-9) * max(progress.epoch, 1)
        slower = 1 + cost(teacher.arch).madds / (_STEP * max(cost(student.arch).madds, 1))
        return alone / slower >= PASSES


def has_same_classes(start: Run, run: Run) -> bool:
    """Whether a run answers with the classes of another, so that it can teach it."""
    return (
        start.has_classifier
        and start.multi_label == run.multi_label
        and start.arch.in_channels in (run.arch.in_channels, 3)
        and sorted(label.id for label in start.classes) == sorted(label.id for label in run.classes)
    )
