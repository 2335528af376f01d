from __future__ import annotations

import pytest

from mobilette.errors import InputError
from mobilette.model.class_matching import (
    BY_NAME,
    BY_ORDER,
    BY_SIMILAR_NAME,
    BY_SYNSET,
    guessed,
    match_classes,
)
from mobilette.model.classes import ClassLabel

IMAGENET = tuple(
    ClassLabel(id=synset, name=name)
    for synset, name in (
        ("n01440764", "tench"),
        ("n01530575", "brambling"),
        ("n02012849", "crane"),
        ("n03126707", "crane"),
    )
)


@pytest.mark.parametrize(
    ("folders", "indices", "by"),
    [
        (["n01530575", "n01440764"], [1, 0], BY_NAME),
        (["brambling", "tench"], [1, 0], BY_NAME),
        (["tench", "n01530575"], [0, 1], BY_NAME),
        (["n01530575_brambling", "n01440764 fish"], [1, 0], BY_SYNSET),
        (["10", "2", "1", "0"], [3, 2, 1, 0], BY_ORDER),  # numbers by their value
        (["0_Tench", "01-BRAMBLING"], [0, 1], BY_SIMILAR_NAME),
        (["tench", "Brambling"], [0, 1], BY_SIMILAR_NAME),
    ],
)
def test_matching(folders: list[str], indices: list[int], by: str) -> None:
    assert match_classes(folders, IMAGENET, where="x") == (indices, by)


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (["tench", "bramling"], "'bramling' is none of the model's 4 .*did you mean 'brambling'"),
        (["n01440764_a", "n99999999_b"], r"'n99999999_b' is none of the model's 4 \(n01440764, "),
        (["a", "b"], "'a' is none of the model's 4"),
        # As many folders as classes, but both have names: a guess that is none.
        (["a", "b", "c", "d"], "'a' is none of the model's 4"),
        # As many folders as classes, but some are names: not by order.
        (["tench", "b", "c", "d"], "'b' is none of the model's"),
        (["crane", "tench"], "2 classes of the model are called 'crane'; .*n02012849, n03126707"),
        (["tench", "n01440764"], "one class of the model: 'tench' and 'n01440764'"),
        (["n01440764_a", "n01440764_b"], "two folders are one class"),
        (["n014407645"] * 1, "is none of the model's"),  # nine digits are no synset
    ],
)
def test_faults(folders: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        match_classes(folders, IMAGENET, where="x")


def test_classes_that_are_numbers_are_matched_by_order() -> None:
    numbers = tuple(ClassLabel(id=str(index), name=str(index)) for index in range(3))
    assert match_classes(["ant", "bee", "cat"], numbers, where="x") == ([0, 1, 2], BY_ORDER)
    assert guessed(BY_ORDER) == ("folders matched with classes by order",)
    assert guessed(BY_NAME) == ()


def test_words_between_are_no_difference() -> None:
    classes = tuple(ClassLabel(id=name, name=name) for name in ("person", "no_person"))
    folders = ["0_no-person", "1 Person"]
    assert match_classes(folders, classes, where="x") == ([1, 0], BY_SIMILAR_NAME)


@pytest.mark.parametrize("label", ["1.5", "0-5", "10_5"])
def test_a_number_with_another_behind_it_is_no_numbering(label: str) -> None:
    classes = tuple(ClassLabel(id=name, name=name) for name in (label, "other"))
    with pytest.raises(InputError, match=r"'5' is none of the model's 2"):
        match_classes(["5", "other"], classes, where="x")


def test_an_accent_may_be_a_sign_of_its_own() -> None:
    classes = tuple(ClassLabel(id=name, name=name) for name in ("caf\u00e9", "tea"))
    assert match_classes(["cafe\u0301"], classes, where="x") == ([0], BY_SIMILAR_NAME)


def test_zeros_before_a_number_are_no_difference() -> None:
    """Folders may be called 1 to 10, or 01 to 10 so that they are sorted."""
    classes = tuple(ClassLabel(id=name, name=name) for name in ("01", "02", "10"))
    folders = ["10", "2"]
    assert match_classes(folders, classes, where="x") == ([2, 1], BY_SIMILAR_NAME)
    short = tuple(ClassLabel(id=name, name=name) for name in ("0", "1", "2"))
    assert match_classes(["02", "00"], short, where="x") == ([2, 0], BY_SIMILAR_NAME)
    with pytest.raises(InputError, match="'03' is none of the model's 3"):  # counted from 1
        match_classes(["01", "02", "03"], short, where="x")


def test_numbers_of_thousands_of_digits_are_names() -> None:
    classes = tuple(ClassLabel(id=name, name=name) for name in ("cat", "dog"))
    with pytest.raises(InputError, match="is none of the model's 2"):
        match_classes(["1", "9" * 5000], classes, where="x")
