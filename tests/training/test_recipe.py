from __future__ import annotations

import re
import tomllib
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilette.errors import InputError
from mobilette.records import parse
from mobilette.training.recipe import (
    Recipe,
    list_recipes,
    load_recipe,
    override,
    parse_setting,
)


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_of_the_package_loads_and_says_what_it_reaches(name: str) -> None:
    assert isinstance(load_recipe(name), Recipe)
    folder = Path(__file__).parents[2] / "src" / "mobilette" / "recipes"
    expected = (folder / f"{name}.toml").read_text().partition("# Expected:")[2]
    said = expected.partition("\n\n")[0]
    assert re.search(r"\d%", said)
    assert re.search(r"`(imagenette-small|cifar10-4k|digits|flowers200)`", said)
    assert re.search(r"^#   (mobilette train|python bench/)", said, re.MULTILINE)


@given(
    st.builds(
        Recipe,
        epochs=st.integers(1, 1000),
        lr=st.floats(1e-8, 10),
        optimizer=st.sampled_from(["sgd", "adamw"]),
        flip=st.booleans(),
        seed=st.integers(0, 2**31 - 1),
    )
)
def test_toml_round_trip(recipe: Recipe) -> None:
    table = tomllib.loads(recipe.to_toml())
    assert table.keys() == asdict(recipe).keys()
    assert parse(Recipe, table, where="recipe.toml") == recipe


def test_a_typo_in_a_file_names_the_file_and_the_nearest_key(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("epochs = 3\nlabel_smothing = 0.1\n")
    with pytest.raises(InputError) as caught:
        load_recipe(path)
    assert str(caught.value) == (
        f"{path}: unknown key 'label_smothing'; did you mean 'label_smoothing'?"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs = ", "not valid TOML"),
        ("epochs = 0", "epochs 0 is not between 1 and"),
        ("epochs = 2.5", "epochs is 2.5, not a whole number"),
        ("lr = nan", "lr nan is not between"),
        ("lr = 0.0", "lr 0.0 trains nothing|lr 0 trains nothing"),
        ("lr = 1e9", "lr 1000000000.0 is not between"),
        ("batch_size = 0", "batch_size 0"),
        ("momentum = 1.0", "momentum 1.0"),
        ('optimizer = "adam"', "optimizer is 'adam', not one of 'sgd', 'adamw'"),
        ("seed = -1", "seed -1"),
    ],
)
def test_values_that_are_none(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        load_recipe(path)
    assert str(caught.value).startswith(str(path))


def test_an_unknown_recipe_offers_the_nearest() -> None:
    with pytest.raises(InputError, match="no recipe is called 'quik'; did you mean 'quick'"):
        load_recipe("quik")
    with pytest.raises(InputError, match="no such file"):
        load_recipe("missing.toml")


def test_settings_from_the_command_line() -> None:
    assert parse_setting("lr=0.5") == ("lr", 0.5)
    assert parse_setting("flip=false") == ("flip", False)
    assert parse_setting("optimizer=adamw") == ("optimizer", "adamw")
    assert parse_setting("lr=1\nseed=3") == ("lr", "1\nseed=3")  # which is no number
    recipe = override(Recipe(), dict([parse_setting("epochs=7")]))
    assert recipe.epochs == 7
    with pytest.raises(InputError, match="did you mean 'epochs'"):
        parse_setting("epoch=7")
    with pytest.raises(InputError, match="KEY=VALUE"):
        parse_setting("epochs")
    with pytest.raises(InputError, match="epochs is 'many', not a whole number"):
        override(Recipe(), dict([parse_setting("epochs=many")]))
