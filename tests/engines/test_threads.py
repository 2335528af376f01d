"""One predictor, asked by several threads: every answer is that of one thread."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mobilette.data.machine import usable_cores
from mobilette.engines.artifact import ArtifactPredictor
from mobilette.engines.load import load
from mobilette.engines.predictor import Predictor
from mobilette.engines.sharing import Sessions
from mobilette.silence import silence

THREADS, ANSWERS = 8, 200
# tflite-micro starts a process for every call.
SIZES = {"tflite-micro": (ANSWERS,)}


def coloured(count: int, side: int = 16) -> NDArray[np.uint8]:
    """Return images, uint8 (N, 3, side, side), that no network answers alike."""
    generator = np.random.default_rng(0)
    colours = generator.integers(0, 200, (count, 3, 1, 1))
    return (colours + generator.integers(0, 56, (count, 3, side, side))).astype(np.uint8)


def together(*functions: Callable[[], object]) -> None:
    """Run functions in threads that begin at once; raise what one of them raised."""
    raised: list[BaseException] = []
    start = threading.Barrier(len(functions))

    def run(function: Callable[[], object]) -> None:
        try:
            start.wait()
            function()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(each,), daemon=True) for each in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    if raised:
        raise raised[0]
    assert not any(thread.is_alive() for thread in threads), "threads wait for each other"


def test_eight_threads_of_200_answers(model: Path) -> None:
    """Each has images of its own, in calls of different sizes."""
    predictor = load(model, threads=1)
    pixels = coloured(THREADS * ANSWERS)
    expected = predictor.batch_logits(pixels)
    if predictor.engine != "tflite-micro":  # whose answers have 256 steps
        assert np.abs(np.diff(expected, axis=0)).max(1).min() > 1e-3
    wrong: list[int] = []

    def ask(thread: int) -> None:
        sizes = SIZES.get(predictor.engine, (1, 3, 2, 7, 1, 16))
        first, last, turn = thread * ANSWERS, (thread + 1) * ANSWERS, thread
        while first < last:
            size = min(sizes[turn % len(sizes)], last - first)
            answer = predictor.batch_logits(pixels[first : first + size])
            off = np.abs(answer - expected[first : first + size]).max(1)
            wrong.extend(first + np.flatnonzero(~(off < 1e-4)))
            first, turn = first + size, turn + 1

    together(*(lambda thread=thread: ask(thread) for thread in range(THREADS)))
    assert not wrong


def test_threads_that_end_leave_nothing_behind(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server makes thousands of threads; sessions are made where calls meet, up to the cores."""
    predictor, pixels = load(model, threads=1), coloured(2)
    expected, made = predictor.logits(pixels), Counter[str]()

    def counted() -> Any:
        made.update(["session"])
        return plain()

    if isinstance(predictor, ArtifactPredictor):
        plain = predictor.open
        monkeypatch.setattr(predictor, "open", counted)
    for _ in range(3 if predictor.engine == "tflite-micro" else 40):
        together(lambda: np.testing.assert_allclose(predictor.logits(pixels), expected, atol=1e-4))
    assert not made
    together(*[lambda: predictor.logits(pixels)] * 6)
    assert made.total() < usable_cores()


def test_an_answer_stays_when_the_next_is_given(model: Path) -> None:
    predictor, pixels = load(model), coloured(2)
    first = predictor.batch_logits(pixels[:1])
    kept = first.copy()
    predictor.batch_logits(pixels[1:])
    np.testing.assert_array_equal(first, kept)


def test_coroutines_ask_in_threads(model: Path) -> None:
    predictor, pixels = load(model), coloured(6)
    expected = predictor.logits(pixels)

    async def ask() -> list[NDArray[np.float32]]:
        calls = [asyncio.to_thread(predictor.logits, pixels[i : i + 1]) for i in range(6)]
        return await asyncio.gather(*calls)

    np.testing.assert_allclose(np.concatenate(asyncio.run(ask())), expected, atol=1e-4)


def test_images_are_answered_while_others_are_and_models_are_loaded(
    model: Path, images: Path
) -> None:
    paths = sorted(images.rglob("*.png"))[::3]
    predictor = load(model)
    expected = predictor.predict(paths)
    state = (sys.stdout, sys.stderr, os.fstat(1), os.fstat(2), warnings.filters[:])

    def answer(predictor: Predictor) -> None:
        found = list(predictor.predict_each(paths, workers=2))
        assert [each.path for each in found] == [each.path for each in expected]
        assert [each.label for each in found] == [each.label for each in expected]  # type: ignore[union-attr]

    def load_and_answer() -> None:
        answer(load(model, threads=1))

    together(*[lambda: answer(predictor)] * 3, *[load_and_answer] * 2)
    assert state == (sys.stdout, sys.stderr, os.fstat(1), os.fstat(2), warnings.filters[:])


def test_silence_ends_when_the_last_thread_leaves_it(capfd: pytest.CaptureFixture[str]) -> None:
    """Two threads that swap the streams in turns would leave them swapped."""
    inside, out = threading.Event(), threading.Event()
    kept = []

    def first() -> None:
        with silence():
            kept.append(sys.stderr)
            inside.set()
            out.wait(120)

    def second() -> None:
        inside.wait(120)
        with silence():
            out.set()
            thread.join(120)
            os.write(1, b"lost")

    thread = threading.Thread(target=first)
    thread.start()
    second()
    os.write(1, b"heard")
    kept[0].write("lost, too")  # no error: a log may have taken it for its stream
    with pytest.warns(UserWarning, match="again"):
        warnings.warn("again", stacklevel=1)
    assert tuple(capfd.readouterr()) == ("heard", "")


def test_a_session_whose_call_failed_is_not_lent_again() -> None:
    sessions: Sessions[list[int]] = Sessions(at_once=1)
    with suppress(KeyError), sessions.lend(list) as session:
        session.append(1)
        raise KeyError
    with sessions.lend(list) as another:
        assert another == []
    empty: Sessions[list[int]] = Sessions(at_once=1)
    for _ in range(2):  # one that cannot be made leaves its place
        with pytest.raises(ValueError, match="no"), empty.lend(_refuse):
            raise AssertionError


def _refuse() -> list[int]:
    raise ValueError("no")


def test_sessions_are_lent_to_one_call_each() -> None:
    sessions: Sessions[list[int]] = Sessions(at_once=3)
    made: list[list[int]] = []

    def make() -> list[int]:
        made.append([])
        return made[-1]

    def use() -> None:
        for _ in range(300):
            with sessions.lend(make) as session:
                session.append(1)
                assert len(session) == 1
                session.pop()

    together(*[use] * 8)
    assert len(made) <= 3
