from __future__ import annotations

import pytest

from mobilette.errors import InputError, nearest, one_of


def test_the_nearest_choice_is_offered() -> None:
    assert nearest("mobilnet_v2", ["mobilenet_v2", "resnet18"]) == "; did you mean 'mobilenet_v2'?"
    assert nearest("zzz", ["mobilenet_v2"]) == ""


@pytest.mark.parametrize(
    ("value", "choice"), [("CPU", "cpu"), ("ONNX", "onnx"), ("MobileNet_V2", "mobilenet_v2")]
)
def test_case_makes_no_choice_far(value: str, choice: str) -> None:
    assert nearest(value, [choice, "resnet18"]) == f"; did you mean {choice!r}?"
    assert nearest(choice, [value]) == f"; did you mean {value!r}?"


@pytest.mark.parametrize("value", [3, None, 1.5])
def test_what_is_no_text_is_near_to_nothing(value: object) -> None:
    assert nearest(value, ["mobilenet_v2"]) == ""
    with pytest.raises(InputError, match="is not one of crop, pad$"):
        one_of(value, ["crop", "pad"], "resize")  # type: ignore[arg-type]


def test_one_of_names_the_value_and_the_choices() -> None:
    assert one_of("crop", ["crop", "pad"], "resize") == "crop"
    with pytest.raises(InputError, match=r"resize 'corp' is not one of crop, pad; did you mean"):
        one_of("corp", ["crop", "pad"], "resize")
