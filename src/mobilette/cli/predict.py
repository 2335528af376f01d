"""``mobilette predict``: answers to files, folders, lists, videos and a camera."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mobilette.cli.options import Device, Force, Threads, ranged
from mobilette.errors import InputError
from mobilette.limits import CAMERA, EVERY, FRACTION, GUESSES, WORKERS
from mobilette.progress import Reporter

if TYPE_CHECKING:
    from mobilette.engines.answer_files import AnswerFile
    from mobilette.engines.answers import Prediction
    from mobilette.engines.images import ImageLike
    from mobilette.engines.prediction_job import Written
    from mobilette.engines.predictor import Predictor

_NAMED = 5  # files listed by name
GUESSED = 5
_PRINTED = 3  # guesses of an image, unless --top says how many

Every = Annotated[
    float | None, ranged("--every", EVERY, "Seconds between frames of a video [every frame].")
]
Camera = Annotated[
    int | None, ranged("--camera", CAMERA, "Camera to watch instead of images, counted from 0.")
]
DecodingThreads = Annotated[
    int | None, ranged("--workers", WORKERS, "Threads that decode images [one per core].")
]
JsonLines = Annotated[bool, typer.Option("--json", help="Print JSON, one object per line.")]


def predict(
    model: Annotated[
        str, typer.Argument(help="A run, an artifact, or a folder of several artifacts.")
    ],
    images: Annotated[
        list[str] | None,
        typer.Argument(
            help="Files, folders and patterns; - for an image on stdin, @FILE or @- for a list."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Write the answers to a .jsonl, .csv or .parquet file."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the file of a job that was stopped.")
    ] = False,
    top: Annotated[
        int | None, ranged("--top", GUESSES, "Guesses per image [5; 3 are printed].")
    ] = None,
    threshold: Annotated[
        float | None,
        ranged("--threshold", FRACTION, "Lowest probability of an answer; below it, unknown."),
    ] = None,
    recursive: Annotated[
        bool,
        typer.Option("--recursive/--no-recursive", help="Also search folders inside folders."),
    ] = True,
    every: Every = None,
    camera: Camera = None,
    force: Force = False,
    device: Device = "cpu",
    threads: Threads = None,
    workers: DecodingThreads = None,
    as_json: JsonLines = False,
) -> int:
    """Classify images, the frames of videos, or what a camera sees.

    With --json, one object per line. Exit status 2 if no image could be read.
    """
    from mobilette.engines.answer_files import answer_file
    from mobilette.engines.load import load

    if resume and out is None:
        raise InputError("--resume goes on with a file; name it with --out")
    if bool(images) == (camera is not None):
        raise InputError("give images, or --camera 0 to watch a camera, and not both")
    file = None
    if out is not None:
        file = answer_file(out, top=top or GUESSED, force=force, resume=resume)
    predictor = load(chosen_model(model), device=device, threads=threads or 0)
    asked = _asked(images, camera, every, recursive=recursive)
    answering = {"top": top, "threshold": threshold, "workers": workers}
    if file is None:
        return _print(predictor, asked, answering, as_json=as_json)
    return _write(predictor, asked, answering, file, resume=resume, as_json=as_json)


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What is to be answered: ``given`` images and, with frames in place of videos, ``images``."""

    given: list[ImageLike]
    images: Iterable[ImageLike]
    total: int = 0  # or unknown
    at_once: bool = False


def _asked(
    images: list[str] | None, camera: int | None, every: float | None, *, recursive: bool
) -> _Asked:
    from mobilette.data.video import is_video
    from mobilette.engines import prediction_job as job

    if camera is not None:
        return _Asked(given=[], images=job.camera(camera, every), at_once=True)
    given = asked_for(images or [], recursive=recursive)
    videos = any(isinstance(image, str | Path) and is_video(image) for image in given)
    if every is not None and not videos:
        raise InputError("--every is for videos and --camera; there is no video among the images")
    frames = job.with_frames(given, every) if videos else given
    return _Asked(given=given, images=frames, total=0 if videos else len(given))


def _write(
    predictor: Predictor,
    asked: _Asked,
    answering: dict[str, Any],
    file: AnswerFile,
    *,
    resume: bool,
    as_json: bool,
) -> int:
    """Write the answers to a file; return the status."""
    from mobilette.cli.output import console, print_json, progress_bar, remarks
    from mobilette.engines.prediction_job import write_answers

    started = time.perf_counter()
    with progress_bar("predicting images") as progress:
        written = write_answers(
            predictor,
            asked.images,
            file,
            total=asked.total,
            resume=resume,
            at_once=asked.at_once,
            reporter=Reporter(reading=partial(progress, "predicting images")),
            **answering,
        )
    seconds = time.perf_counter() - started
    report_animated(asked.given)
    report_unusable(written)
    if as_json:
        counts = {"images": written.images, "unusable": written.unusable, "before": written.before}
        print_json({"path": str(file.path), **counts, "seconds": seconds})
    else:
        rate = f", {written.images / seconds:,.1f} images/s" if written.images else ""
        before = f", {written.before:,} were there before" if written.before else ""
        console().print(f"{file.path}: {written.images:,} answers{before}{rate}")
    if written.before:
        remarks().print(
            f"{file.path}: the {written.before:,} answers before are as they were, whatever --top "
            "and --threshold are now"
        )
    return 0 if written.before or written.unusable < written.images else 2


def chosen_model(model: str) -> str | Path:
    """Return the model, or the artifact to use of a folder of several, and say why that."""
    from mobilette.artifact.directory import find_artifacts, is_artifact
    from mobilette.cli.output import remarks
    from mobilette.run.directory import is_run

    place = Path(model)
    if is_artifact(place) or is_run(place) or not find_artifacts(place):
        return model
    from mobilette.verification.benchmark import choose_artifact

    chosen, why = choose_artifact(place)
    remarks().print(why)
    return chosen


def asked_for(images: list[str], *, recursive: bool) -> list[ImageLike]:
    """Return the images that the command line asks for, the one on stdin called ``-``."""
    from mobilette.data.asked import STDIN, asked_images
    from mobilette.engines.images import NamedImage

    stdin = sys.stdin.buffer if sys.stdin else io.BytesIO()  # it may be closed
    found = asked_images(images, stdin=stdin, recursive=recursive, on_skipped=say_skipped)
    return [
        NamedImage(name=STDIN, content=image) if isinstance(image, bytes) else image
        for image in found
    ]


def _print(predictor: Predictor, asked: _Asked, answering: dict[str, Any], *, as_json: bool) -> int:
    """Print an answer a line; return the status."""
    from mobilette.cli.output import print_json, remarks, say
    from mobilette.engines.answer_files import record_of
    from mobilette.engines.answers import Failure
    from mobilette.engines.prediction_job import Written, seconds_of

    counted = Written()
    if asked.at_once:
        answering = answering | {"workers": 0, "batch": 1}
    for image, answer in predictor.predict_pairs(asked.images, **answering):
        counted.count(answer)
        seconds = seconds_of(image)
        if as_json:
            print_json(record_of(answer, seconds))
        elif isinstance(answer, Failure):
            remarks().print(f"{answer.path}: {answer.error}")
        else:
            when = "" if seconds is None else f" at {seconds:.2f} s"
            say(f"{answer.path}{when}: {in_words(answer, answering['top'] or _PRINTED)}")
    report_animated(asked.given)
    if counted.unusable > 1:
        remarks().print(f"{counted.unusable:,} of {counted.images:,} images could not be read")
    return 0 if counted.unusable < counted.images else 2


def in_words(answer: Prediction, count: int) -> str:
    """Return an answer as it is printed, with at most ``count`` guesses."""
    best = ", ".join(f"{guess.label} {guess.probability:.1%}" for guess in answer.top[:count])
    return best if answer.answered else f"{answer.label} ({answer.reason}); perhaps {best}"


def report_unusable(written: Written) -> None:
    """Print to stderr how many images could not be read, and the first few."""
    from mobilette.cli.output import remarks

    if not written.unusable:
        return
    remarks().print(f"{written.unusable:,} of {written.images:,} images could not be read:")
    for failure in written.first:
        remarks().print(f"  {failure.path}: {failure.error}")
    if more := written.unusable - len(written.first):
        remarks().print(f"  and {more:,} more, all of them in the file")


def report_animated(images: list[ImageLike]) -> None:
    """Print to stderr which images have more than the frame that was looked at."""
    from mobilette.cli.output import remarks
    from mobilette.data.animated import is_animated
    from mobilette.engines.images import NamedImage, name_of

    found = []
    for image in images:
        content = image.content if isinstance(image, NamedImage) else image
        if isinstance(content, str | Path | bytes) and is_animated(content):
            found.append(name_of(image))
    if found:
        more = f" and {len(found) - _NAMED:,} more" if len(found) > _NAMED else ""
        noun = "image is animated" if len(found) == 1 else "images are animated"
        named = ", ".join(found[:_NAMED])
        remarks().print(f"{len(found):,} {noun}; the first frame is looked at: {named}{more}")


def say_skipped(folder: Path, files: list[Path]) -> None:
    """Print to stderr which files of a folder are not images."""
    from mobilette.cli.output import remarks

    if not files:
        remarks().print(f"{folder}: no images in this folder")
        return
    names = ", ".join(str(file.relative_to(folder)) for file in files[:_NAMED])
    more = f" and {len(files) - _NAMED:,} more" if len(files) > _NAMED else ""
    noun = "file is not an image" if len(files) == 1 else "files are not images"
    remarks().print(f"{folder}: {len(files):,} {noun}: {names}{more}")
