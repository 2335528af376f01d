"""Write the tables of docs/training.md: all recipe keys, and the values each recipe sets.

    python docs/recipe_tables.py            write them into the page
    python docs/recipe_tables.py --print    print them instead

The meanings of keys come from the docstring of `mobilette.training.recipe.Recipe`.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from dataclasses import fields
from pathlib import Path
from typing import get_args, get_type_hints

from mobilette.training.recipe import Recipe, list_recipes, load_recipe

PAGE = Path(__file__).parent / "training.md"
BEGIN = "<!-- made by python docs/recipe_tables.py; do not edit by hand -->"
END = "<!-- end of what is made -->"
# Keys that the docstring leaves out because their names say enough.
PLAIN = {
    "epochs": "passes over the images to train on",
    "optimizer": "`sgd` has Nesterov momentum",
    "momentum": "of `sgd`; of `adamw` its first beta",
    "label_smoothing": "part of a label that is shared among all classes",
    "crop_padding": "see `crop`",
    "crop_scale": "see `crop`",
    "seed": "random seed",
}


def meanings() -> dict[str, str]:
    """Return the meaning of each key of a recipe, in the order of the keys.

    Raises:
        KeyError: neither the docstring nor `PLAIN` has it.
    """
    text = inspect.getdoc(Recipe) or ""
    told: dict[str, str] = {}
    name = ""
    for line in text.partition("Attributes:\n")[2].splitlines():
        begins = re.match(r" {4}(\w+): (.*)", line)
        if begins:
            name = begins[1]
            told[name] = begins[2]
        elif name:
            told[name] += f" {line.strip()}"
    known = PLAIN | told
    return {
        key.name: known[key.name].replace("``", "`").strip().rstrip(".") for key in fields(Recipe)
    }


def keys() -> str:
    """Return the table of all keys, as Markdown."""
    kinds = get_type_hints(Recipe)
    default = Recipe()
    rows = [
        f"| `{name}` | {_kind(kinds[name])} | `{json.dumps(getattr(default, name))}` | {meaning} |"
        for name, meaning in meanings().items()
    ]
    return "\n".join(["| key | value | default | what it does |", "|---|---|---|---|", *rows])


def recipes() -> str:
    """Return the table of the values in which the recipes differ from the defaults, as Markdown."""
    default = Recipe()
    loaded = {name: load_recipe(name) for name in list_recipes()}
    rows = []
    for key in meanings():
        values = [getattr(recipe, key) for recipe in loaded.values()]
        if any(value != getattr(default, key) for value in values):
            cells = [
                f"`{json.dumps(value)}`" if value != getattr(default, key) else ""
                for value in values
            ]
            rows.append(f"| `{key}` | {' | '.join(cells)} |")
    head = "| key | " + " | ".join(f"`{name}`" for name in loaded) + " |"
    return "\n".join([head, "|---|" + "---|" * len(loaded), *rows])


def tables() -> str:
    """Return the text between the marks of the page."""
    return (
        f"{BEGIN}\n\n{keys()}\n\nWhere the built-in recipes differ from "
        f"these defaults:\n\n{recipes()}\n\n{END}"
    )


def _kind(kind: object) -> str:
    choices = get_args(kind)
    if choices:
        return ", ".join(f"`{json.dumps(choice)}`" for choice in choices)
    names = {int: "a whole number", float: "a number", bool: "`true`, `false`", str: "a text"}
    return next(name for each, name in names.items() if kind is each)


def main() -> None:
    """Write the tables into the page, or print them."""
    if "--print" in sys.argv[1:]:
        print(tables())
        return
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(before + tables() + after, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
