"""`ImageClassifier` behaves as scikit-learn's estimators do; accuracy is no matter here."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks

import mobilette
from mobilette.errors import InputError
from mobilette.workflows.classifier import ImageClassifier


def classifier(**options: Any) -> ImageClassifier:
    small = {"width_mult": 0.1, "resolution": 16, "epochs": 1, "batch_size": 8, "workers": 0}
    return ImageClassifier(**{"model": "mobilenet_v2"} | small | options)


@pytest.fixture(scope="module")
def pixels() -> NDArray[np.uint8]:
    drawn = np.random.default_rng(0).integers(0, 256, (20, 12, 12, 3), dtype=np.uint8)
    drawn[::2] //= 4
    return drawn


@pytest.fixture(scope="module")
def labels() -> NDArray[np.str_]:
    return np.array(["dark", "light"])[np.arange(20) % 2]


@pytest.fixture(scope="module")
def fitted(pixels: NDArray[np.uint8], labels: NDArray[np.str_]) -> ImageClassifier:
    return classifier().fit(pixels, labels)


def test_it_answers_with_the_labels_it_was_given(
    fitted: ImageClassifier, pixels: NDArray[np.uint8], labels: NDArray[np.str_]
) -> None:
    assert fitted.classes_.tolist() == ["dark", "light"]
    probabilities = fitted.predict_proba(pixels)
    assert probabilities.shape == (20, 2)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    guesses = fitted.predict(pixels)
    assert guesses.tolist() == fitted.classes_[probabilities.argmax(axis=1)].tolist()
    assert fitted.score(pixels, labels) == np.mean(guesses == labels)


def test_images_may_be_paths_pillow_images_arrays_and_bytes(
    fitted: ImageClassifier, pixels: NDArray[np.uint8], tmp_path: Path
) -> None:
    path = tmp_path / "0.png"
    Image.fromarray(pixels[0]).save(path)
    given = [path, str(path), Image.fromarray(pixels[0]), pixels[0], path.read_bytes()]
    answers = fitted.predict_proba(given)
    assert (answers == answers[0]).all()
    classifier().fit([path] * 5 + [pixels[1]] * 5, [0] * 5 + [1] * 5)


def test_a_pickled_one_answers_alike_and_leaves_no_files(
    fitted: ImageClassifier,
    pixels: NDArray[np.uint8],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    again = pickle.loads(pickle.dumps(fitted))
    assert (again.predict_proba(pixels) == fitted.predict_proba(pixels)).all()
    assert not list(tmp_path.iterdir())
    artifact = mobilette.export(fitted.model_, out=tmp_path)
    assert len(mobilette.load(artifact.path).predict(list(pixels[:2]))) == 2


def test_model_selection_and_pipelines_take_it(
    pixels: NDArray[np.uint8], labels: NDArray[np.str_]
) -> None:
    scores = cross_val_score(classifier(), list(pixels), labels, cv=2)
    assert scores.shape == (2,)
    assert np.isfinite(scores).all()
    steps = make_pipeline(FunctionTransformer(np.ascontiguousarray), classifier())
    search = GridSearchCV(steps, {"imageclassifier__epochs": [1, 2]}, cv=2, error_score="raise")
    assert search.fit(pixels, labels).predict(pixels).shape == (20,)


@pytest.mark.parametrize(
    "check",
    [
        "check_no_attributes_set_in_init",
        "check_parameters_default_constructible",
        "check_get_params_invariance",
        "check_set_params",
        "check_estimator_cloneable",
        "check_estimator_repr",
        "check_estimator_tags_renamed",
        "check_valid_tag_types",
    ],
)
def test_scikit_learns_checks_that_need_no_table_pass(check: str) -> None:
    getattr(estimator_checks, check)("ImageClassifier", classifier())


def test_parameters_are_kept_as_they_are_given() -> None:
    copied = clone(classifier(epochs=7))
    assert copied.get_params()["epochs"] == 7
    assert copied.set_params(epochs=8).epochs == 8
    with pytest.raises(NotFittedError):
        copied.predict([])


@pytest.mark.parametrize(
    ("images", "given", "message"),
    [
        (slice(None), ["a", "b", "a"], "20 images, but 3 labels"),
        (slice(None), ["a"] * 20, "1 classes; at least two are needed"),
        (slice(None), None, "y is None; expected one label per image"),
        (slice(None), np.linspace(0, 1, 20), "which is not a class"),
        (slice(None), [["a"]] * 20, "expected one label per image"),
        (slice(3), ["a", "b", "b"], "one image of class 'a'"),
        (slice(0), [], "(?i)images"),
    ],
)
def test_wrong_data_is_one_line(
    pixels: NDArray[np.uint8], images: slice, given: object, message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        classifier().fit(pixels[images], given)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("images", [[b"no image", b""], [None, None], ["missing.png"] * 2, "x", 3])
def test_wrong_images_are_one_line(fitted: ImageClassifier, images: object) -> None:
    for ask in (fitted.predict, fitted.predict_proba, lambda x: classifier().fit(x, ["a", "b"])):
        with pytest.raises(InputError) as caught:
            ask(images)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"model": "mobilnet_v2"}, "did you mean 'mobilenet_v2'"),
        ({"model": 3}, "model is 3, not text"),
        ({"epochs": 0}, "epochs 0 is not between"),
        ({"width_mult": float("nan")}, "width_mult nan is not between"),
        ({"device": "tpu"}, "device 'tpu'"),
        ({"lr": "x"}, "lr is 'x', not a number"),
        ({"overrides": {"mixupp": 1}}, "unknown key 'mixupp'"),
    ],
)
def test_wrong_options_are_one_line(
    pixels: NDArray[np.uint8],
    labels: NDArray[np.str_],
    option: dict[str, object],
    message: str,
) -> None:
    with pytest.raises(InputError, match=message):
        classifier(**option).fit(pixels, labels)
