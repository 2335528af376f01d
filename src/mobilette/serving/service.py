"""`Service`: what the server does, without HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from mobilette.data.animated import is_animated
from mobilette.data.decoding import decode
from mobilette.data.formats import TooLarge, UnusableImage, WrongFormat
from mobilette.engines.predictor import Failure, Predictor
from mobilette.errors import InputError, visible
from mobilette.serving.batching import Engines, Row, fail
from mobilette.serving.bodies import Held, Refused, Upload, busy, read_body, uploads_of
from mobilette.serving.metrics import Metrics
from mobilette.serving.models import Served, choose, open_served
from mobilette.serving.settings import Limits, Work

# Bodies up to this size are taken apart between two others' turns; larger ones in a thread.
_SMALL = 2**16

Answer = dict[str, object]
"""What `mobilette predict --json` prints of an image and, of one with several frames, a note."""

FIRST_FRAME = "animated: only its first frame was looked at"


class Service:
    """Artifacts, their engines, and the requests under way.

    Raises:
        InputError: an artifact is damaged, or nothing here executes it.
    """

    def __init__(self, places: Mapping[str, Path], *, work: Work, limits: Limits) -> None:
        self.limits, self.metrics = limits, Metrics()
        self._places, self._work = dict(places), work
        self._held = Held(limits)
        self._images = 0
        self.served = open_served(places, work=work)
        self._decoders = ThreadPoolExecutor(work.workers, thread_name_prefix="decoding")
        self._engines = Engines(work, on_batch=self.metrics.batches.observe)
        self.accepted = self.answered = 0
        self.draining = False
        self._reloading = asyncio.Lock()

    def close(self) -> None:
        """End the threads once they have answered what waits."""
        self._decoders.shutdown()
        self._engines.close()

    async def reload(self) -> str:
        """Open the artifacts again and answer new requests by them; return what happened.

        Requests under way keep theirs. If one cannot be opened, all stay as they were.
        """
        async with self._reloading:  # in turn, so that what was opened last is what stays
            try:
                self.served = await asyncio.to_thread(open_served, self._places, work=self._work)
            except Exception as error:  # whatever it is: the server goes on with what it has
                self.metrics.reloads.labels("failed").inc()
                expected = isinstance(error, InputError | OSError)
                name = "" if expected else f"{type(error).__name__}: "
                return visible(f"not reloaded: {name}{error}")
        self.metrics.reloads.labels("done").inc()
        return f"reloaded {', '.join(self.served)}"

    def choose(self, name: str | None) -> Served:
        """Return the artifact called ``name``, or the first; `Refused` if there is none."""
        try:
            return choose(self.served, name)
        except InputError as error:
            raise Refused(404, str(error)) from None

    @property
    def full(self) -> str:
        """Why no more images are accepted now; empty if they are."""
        waiting = self._images
        return f"{waiting} images are waiting" if waiting >= self.limits.queue else ""

    def limits_said(self) -> dict[str, object]:
        """Return the limits of a request as JSON values."""
        return asdict(self.limits)

    async def predict(
        self,
        chunks: AsyncIterator[bytes],
        *,
        content_type: str,
        declared: str | None,
        model: str | None,
        top: int,
    ) -> tuple[Served, list[Answer], int]:
        """Return who answers, the answers to the images of a body, and the HTTP status for them.

        Args:
            chunks: the body.
            content_type: the header of this name; empty if missing.
            declared: the header Content-Length.
            model: the artifact's name; by default the first.
            top: how many guesses an answer has.

        Raises:
            Refused: there are too many requests, or this one is beyond a limit or not understood.
        """
        served = self.choose(model)
        body = await read_body(chunks, declared, limits=self.limits, held=self._held)
        size = len(body)
        try:
            uploads = await self._taken_apart(body, content_type)
            with self._admitted(len(uploads)):
                del body
                answers = await self._answers(served.predictor, uploads, top)
        finally:
            self._held.free(size)
        for answer, _ in answers:
            outcome = "unusable" if "error" in answer else "answered"
            self.metrics.images.labels(served.name, outcome).inc()
        return served, [answer for answer, _ in answers], _status(answers)

    async def _taken_apart(self, body: bytes, content_type: str) -> list[Upload]:
        if len(body) <= _SMALL or content_type.startswith("image/"):
            return uploads_of(body, content_type, limits=self.limits)
        return await asyncio.to_thread(uploads_of, body, content_type, limits=self.limits)

    @contextmanager
    def _admitted(self, images: int) -> Iterator[None]:
        """Count ``images`` as waiting; `Refused` if too many are."""
        if self._images + images > self.limits.queue:
            raise busy(f"{self._images} images are waiting")
        self._images += images
        self.metrics.queued.set(self._images)
        try:
            yield
        finally:
            self._images -= images
            self.metrics.queued.set(self._images)

    async def _answers(
        self, predictor: Predictor, uploads: list[Upload], top: int
    ) -> list[tuple[Answer, int]]:
        self._engines.announce(len(uploads))
        rows = [self._row(predictor, upload) for upload in uploads]
        try:
            async with asyncio.timeout(self.limits.seconds):
                found = await asyncio.gather(
                    *map(asyncio.wrap_future, rows), return_exceptions=True
                )
        except TimeoutError:
            raise busy(f"no answer within {self.limits.seconds:g} seconds") from None
        pairs = zip(uploads, found, strict=True)
        return [_answer(predictor, upload, row, top) for upload, row in pairs]

    def _row(self, predictor: Predictor, upload: Upload) -> Future[Row]:
        """Return the coming logits of an image; the future raises what is wrong with it."""
        row: Future[Row] = Future()
        self._decoders.submit(self._decode, predictor, upload, row)
        return row

    def _decode(self, predictor: Predictor, upload: Upload, row: Future[Row]) -> None:
        pixels = None
        try:
            if not row.cancelled():
                image = decode(upload.content, most_pixels=self.limits.pixels)
                upload.animated = is_animated(upload.content)
                pixels = predictor.preprocess.geometry(image, predictor.arch.resolution)
        except MemoryError:
            fail(row, TooLarge("too large for the memory"))
        except Exception as error:  # whatever it is: the request gets it, the thread goes on
            fail(row, error)
        if pixels is None:
            self._engines.give_up()
        else:
            self._engines.submit(predictor, pixels, row)


def _answer(
    predictor: Predictor, upload: Upload, row: Row | BaseException, top: int
) -> tuple[Answer, int]:
    """Return the answer by an image's logits or by what was raised, and HTTP's status for it."""
    if isinstance(row, UnusableImage):
        status = {WrongFormat: 415, TooLarge: 413}.get(type(row), 422)
        return Failure(path=upload.name, error=str(row)).to_json(), status
    if isinstance(row, BaseException):
        raise row
    answer = predictor.answer(upload.name, row, top=top)
    note: Answer = {"note": FIRST_FRAME} if upload.animated else {}
    return {**answer.to_json(), **note}, 500 if isinstance(answer, Failure) else 200


def _status(answers: list[tuple[Answer, int]]) -> int:
    """Return 200 if an image was answered, else what all have in common, or 422."""
    statuses = {status for _, status in answers}
    if 200 in statuses:
        return 200
    return statuses.pop() if len(statuses) == 1 else 422
