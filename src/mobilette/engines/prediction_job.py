"""A job of predictions: many images, a file of answers, stopped and continued."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from mobilette.data.formats import UnusableImage
from mobilette.data.video import camera_frames, is_video, video_frames
from mobilette.engines.answer_files import AnswerFile, Key
from mobilette.engines.answers import Failure, Prediction
from mobilette.engines.images import ImageLike, NamedImage, name_of
from mobilette.engines.predictor import BATCH, Predictor
from mobilette.errors import InputError, shown
from mobilette.files import is_file
from mobilette.progress import SILENT, Reporter

NAMED = 5  # unusable images that are listed
# Probabilities of the same model differ by less, whatever the engine and its threads.
_SAME = 0.02


@dataclass(kw_only=True)
class Written:
    """What a job has done so far.

    Attributes:
        images: answered, unusable ones included, and not by an earlier job.
        before: answered by an earlier job.
        unusable: how many of ``images`` could not be read.
        first: the first few of them.
    """

    images: int = 0
    before: int = 0
    unusable: int = 0
    first: list[Failure] = field(default_factory=list)

    def count(self, answer: Prediction | Failure) -> None:
        """Count one answer."""
        self.images += 1
        if isinstance(answer, Failure):
            self.unusable += 1
            if len(self.first) < NAMED:
                self.first.append(answer)


def write_answers(
    predictor: Predictor,
    images: Iterable[ImageLike],
    file: AnswerFile,
    *,
    total: int = 0,
    top: int | None = None,
    threshold: float | None = None,
    resume: bool = False,
    workers: int | None = None,
    at_once: bool = False,
    reporter: Reporter = SILENT,
) -> Written:
    """Write the answers for ``images`` to ``file``, in their order, as each is known.

    Args:
        predictor: the result of `load`.
        images: as for `Predictor.predict_each`; read as they are needed.
        file: the result of `answer_file`.
        total: the number of images, for the reporter; 0 if it is unknown.
        top: as for `Predictor.predict_each`, like ``threshold``.
        threshold: the probability that an answer needs.
        resume: leave out the images whose answers ``file`` has.
        workers: threads that decode; by default one per core.
        at_once: answer each image before the next is asked for, as of a camera.
        reporter: receives the number of images answered.

    Raises:
        InputError: the file cannot be written or, to resume it, is damaged or another model's.
    """
    predictor.check_classifier()  # before the file is begun
    written, done = Written(), _done(file, predictor) if resume else Counter[Key]()
    left = max(total - done.total(), 0)
    missing = _without(images, done, file, written)
    if at_once:
        pairs = predictor.predict_pairs(missing, workers=0, top=top, threshold=threshold, batch=1)
    else:
        pairs = predictor.predict_pairs(missing, workers=workers, top=top, threshold=threshold)
    with file.writing(resume=resume) as write, closing(pairs):
        for image, answer in pairs:
            write(answer, seconds_of(image))
            written.count(answer)
            if written.images % BATCH == 0:
                reporter.reading(written.images, left)
    return written


def seconds_of(image: ImageLike) -> float | None:
    """Return when a frame of a video is shown; ``None`` for other images."""
    return image.seconds if isinstance(image, NamedImage) else None


def with_frames(images: Iterable[ImageLike], every: float | None) -> Iterator[ImageLike]:
    """Yield ``images`` with the frames of every video among them, which have its name.

    ``every`` is as for `video_frames`. A video that cannot be decoded any further ends in a
    `Failure`.
    """
    for image in images:
        if not (isinstance(image, str | Path) and is_video(image)):
            yield image
            continue
        name, seconds = str(image), None
        try:
            for frame in video_frames(image, every=every):
                seconds = frame.seconds
                yield NamedImage(name=name, content=frame.pixels, seconds=seconds)
        except UnusableImage as error:
            yield NamedImage(name=name, content=error, seconds=seconds)


def camera(number: int, every: float | None) -> Iterator[ImageLike]:
    """Yield the frames of a camera, called ``camera N``; `InputError` as for `camera_frames`."""
    for frame in camera_frames(number, every=every):
        yield NamedImage(name=f"camera {number}", content=frame.pixels, seconds=frame.seconds)


def _done(file: AnswerFile, predictor: Predictor) -> Counter[Key]:
    """Return the answers in the file; `InputError` if the first was another model's."""
    done: Counter[Key] = Counter()
    if not file.path.exists():
        return done
    compared = False
    for known in file.known():
        done[known.key] += 1
        path, seconds = known.key
        if compared or known.guess is None or seconds is not None or not is_file(Path(path)):
            continue
        compared = True
        (answer,) = predictor.predict_each([path], top=1)
        if isinstance(answer, Failure):
            continue
        label, probability = file.shown(answer.top[0].label), answer.top[0].probability
        if label != known.guess[0] or abs(probability - known.guess[1]) > _SAME:
            raise InputError(
                f"{file.path}: written by another model: {shown(path)} is {shown(known.guess[0])} "
                f"({known.guess[1]:.1%}) in it, here {shown(label)} ({probability:.1%}); give "
                "another --out, or --force to replace it"
            )
    return done


def _without(
    images: Iterable[ImageLike], done: Counter[Key], file: AnswerFile, written: Written
) -> Iterator[ImageLike]:
    """Yield the images that are not ``done``, and count those that are."""
    for image in images:
        key = file.shown(name_of(image)), seconds_of(image)
        if done and done[key]:
            done[key] -= 1
            written.before += 1
        else:
            yield image
