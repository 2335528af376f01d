"""A predictor in other processes: after `fork`, pickled, in workers."""

from __future__ import annotations

import copy
import faulthandler
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from mobilette.artifact.directory import Artifact, open_artifact
from mobilette.engines.artifact import ArtifactPredictor
from mobilette.engines.litert import LiteRtPredictor
from mobilette.engines.load import load
from mobilette.engines.predictor import Predictor
from mobilette.errors import InputError
from mobilette.model.directory import WEIGHTS
from mobilette.run.directory import Run
from mobilette.workflows.export import export
from tests.engines.test_threads import coloured

SECONDS = 200  # after which a child that hangs is ended

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")


def in_child(check: Callable[[], bool]) -> int:
    """Return the status of a child of `fork`: 0 if ``check`` was true there."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a process with threads that is forked: that is tested
        child = os.fork()
    if child == 0:
        signal.alarm(SECONDS)
        faulthandler.dump_traceback_later(SECONDS - 10)
        status = 2
        try:
            status = 0 if check() else 1
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1]


@needs_fork
def test_children_of_fork_answer_as_their_parent(model: Path) -> None:
    """Two children, while four threads of the parent are busy; the parent goes on."""
    predictor, pixels = load(model, threads=2), coloured(5)
    expected = predictor.logits(pixels)
    if isinstance(predictor, ArtifactPredictor):
        predictor.activations(pixels)  # OpenVINO keeps the threads of what is freed for the next
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            predictor.logits(pixels[:2])

    def right() -> bool:
        return np.allclose(predictor.logits(pixels), expected, atol=1e-4)

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        statuses = [in_child(right), in_child(right)]
    finally:
        stop.set()
    for thread in threads:
        thread.join()
    assert statuses == [0, 0]
    assert right()


@needs_fork
def test_a_run_loaded_in_a_child_answers_there(trained: Run) -> None:
    """Its parent's threads of OpenMP are gone for whatever PyTorch computes, not for a model."""
    predictor, pixels = load(trained.path, threads=2), coloured(5)
    expected = predictor.logits(pixels)
    assert not in_child(
        lambda: np.allclose(load(trained.path, threads=2).logits(pixels), expected, atol=1e-4)
    )


def test_the_threads_of_a_run_stay(trained: Run) -> None:
    """MKL locks what a thread that ends leaves behind: a child forked then would hang."""
    predictor, pixels = load(trained.path, threads=2), coloured(5)
    predictor.logits(pixels)
    before = set(threading.enumerate())
    predictor.logits(pixels)
    assert set(threading.enumerate()) == before
    assert sum(thread.name.startswith("batches") for thread in before) >= 2


@needs_fork
def test_answers_that_were_begun_before_a_fork_end_in_the_child(
    exported: Artifact, images: Path
) -> None:
    answers = load(exported.path).predict_each(sorted(images.rglob("*.png")), workers=2)
    next(answers)

    def refused() -> bool:
        with pytest.raises(InputError, match="started before this process was forked"):
            list(answers)
        return True

    assert not in_child(refused)
    assert len(list(answers)) == 119


FORKED = """
import os, sys
import numpy as np
from mobilette import load
predictor = load(sys.argv[1], threads=2)
pixels = np.zeros((1, 3, 16, 16), np.uint8)
predictor.logits(pixels)
child = os.fork()
predictor.logits(pixels)
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@needs_fork
def test_a_child_ends_as_programs_end(exported: Artifact) -> None:
    """ONNX Runtime's thread that reports to a web server would keep it: there is none."""
    command = [sys.executable, "-W", "ignore", "-c", FORKED, str(exported.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_predictor_is_pickled_and_copied(model: Path) -> None:
    predictor, pixels = load(model, threads=1), coloured(3)
    content = pickle.dumps(predictor)
    assert len(content) < 2_000, "the path, not the network"
    expected = predictor.logits(pixels)
    for other in (pickle.loads(content), copy.deepcopy(predictor)):
        assert (type(other), vars(other)["threads"]) == (type(predictor), 1)
        np.testing.assert_allclose(other.logits(pixels), expected, atol=1e-4)


@pytest.fixture(scope="module")
def spawned() -> Iterator[ProcessPoolExecutor]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        yield pool


def ask(predictor: Predictor, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    return predictor.logits(pixels)


def test_a_spawned_process_is_given_a_predictor(model: Path, spawned: ProcessPoolExecutor) -> None:
    predictor, pixels = load(model), coloured(3)
    answer = spawned.submit(ask, predictor, pixels).result(SECONDS)
    np.testing.assert_allclose(answer, predictor.logits(pixels), atol=1e-4)


def test_the_path_is_that_of_loading(
    exported: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(exported.path.parent)
    predictor = load(exported.path.name)
    monkeypatch.chdir(tmp_path)
    assert pickle.loads(pickle.dumps(predictor)).classes == predictor.classes


def test_its_options_are_pickled(trained: Run, tmp_path: Path) -> None:
    pytest.importorskip("litert_torch")
    artifact = export(trained, to="litert", out=tmp_path)
    predictor = LiteRtPredictor(artifact, threads=2, reference=True)
    other = pickle.loads(pickle.dumps(predictor))
    assert (other.engine, other.threads) == ("LiteRT (reference)", 2)


def test_a_pickle_whose_artifact_is_gone_or_another_says_so(
    artifact_copy: Path, trained: Run
) -> None:
    content = pickle.dumps(load(artifact_copy))
    export(trained, to="onnx", precision="fp32", out=artifact_copy.parent, force=True)
    assert open_artifact(artifact_copy).contract.source.run != "../../run"
    with pytest.raises(InputError, match="changed since its predictor was pickled"):
        pickle.loads(content)
    shutil.rmtree(artifact_copy)
    with pytest.raises(InputError, match="not an artifact .no such folder") as caught:
        pickle.loads(content)
    assert "\n" not in str(caught.value)


def test_a_pickle_whose_run_is_gone_or_has_other_weights_says_so(run_copy: Path) -> None:
    predictor = load(run_copy)
    content = pickle.dumps(predictor)
    weights = (run_copy / WEIGHTS).read_bytes()
    (run_copy / WEIGHTS).write_bytes(weights[:-4] + np.float32(0.25).tobytes())
    with pytest.raises(InputError, match="weights changed since its predictor was pickled"):
        pickle.loads(content)
    shutil.rmtree(run_copy)
    with pytest.raises(InputError, match="not a run directory .no such folder") as caught:
        pickle.loads(content)
    assert "\n" not in str(caught.value)


class Answers(Dataset[torch.Tensor]):
    """Logits of images, by predictors that the workers of a loader are given."""

    def __init__(self, predictors: list[Predictor], pixels: NDArray[np.uint8]) -> None:
        self.predictors, self.pixels = predictors, pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> torch.Tensor:
        image = self.pixels[index : index + 1]
        return torch.from_numpy(np.stack([each.logits(image) for each in self.predictors]))


def test_workers_of_a_loader_ask(trained: Run, exported: Artifact) -> None:
    predictors, pixels = (
        [load(path, threads=2) for path in (trained.path, exported.path)],
        coloured(8),
    )
    expected = predictors[0].logits(pixels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = torch.cat(list(DataLoader(Answers(predictors, pixels), num_workers=2))).numpy()
    assert found.shape == (8, 2, 1, 3)
    np.testing.assert_allclose(found[:, 0, 0], expected, atol=1e-4)
    np.testing.assert_allclose(found[:, 1, 0], expected, atol=1e-4)
