"""`explain` on models and images of other kinds: several labels, grey, oblong, damaged weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from mobilette.engines.answers import Failure
from mobilette.engines.load import load
from mobilette.verification.explain import explain, explain_each
from mobilette.verification.occlusion import CELLS, GREY, answers_for
from tests.verification.test_heat_map import random_model

ODD = Image.fromarray(np.random.default_rng(0).integers(0, 256, (57, 131), np.uint8))


@pytest.mark.parametrize("method", ["grad-cam", "occlusion"])
def test_grey_oblong_and_several_labels(method: str) -> None:
    model = replace(random_model("mobilenet_v2", (32, 80), in_channels=1), multi_label=True)
    (found,) = explain(model, [ODD], method=method)  # type: ignore[arg-type]
    assert found.pixels.shape == (1, 32, 80)
    assert found.heat.shape == (32, 80)
    if method == "occlusion":
        assert found.map.shape == (CELLS, 20)
    assert 0 <= found.check.hidden <= 1
    best = load(model).predict([ODD])[0]
    assert found.label == best.label
    assert found.probability == pytest.approx(best.probability)


def test_log_odds_of_several_labels_are_logits() -> None:
    model = replace(random_model("resnet8", 32), multi_label=True)
    predictor = load(model)
    pixels = np.full((3, 32, 32), GREY, np.uint8)
    probabilities, odds = answers_for(predictor, [pixels] * 40, 2)
    logit = float(predictor.logits(pixels[None])[0, 2])
    np.testing.assert_allclose(odds, logit, rtol=1e-5)
    np.testing.assert_allclose(probabilities, 1 / (1 + np.exp(-logit)), rtol=1e-5)


def test_log_odds_of_one_label() -> None:
    predictor = load(random_model("resnet8", 32))
    pixels = np.random.default_rng(1).integers(0, 256, (3, 32, 32), np.uint8)
    probabilities, odds = answers_for(predictor, [pixels], 0)
    np.testing.assert_allclose(odds, np.log(probabilities / (1 - probabilities)), rtol=1e-4)


def test_weights_that_are_damaged() -> None:
    model = random_model("resnet8", 32)
    weights = {
        n: each + float("inf") if each.is_floating_point() else each
        for n, each in model.weights.items()
    }
    (found,) = explain_each(load(replace(model, weights=weights)), [ODD])
    assert isinstance(found, Failure)
    assert "not finite" in found.error
