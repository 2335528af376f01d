"""Writing a list and comparing what is read from it."""

from __future__ import annotations

from pathlib import Path

from mobilette.data.sources import find_images
from tests.accepted.page import Case, check

TWO = {"1.jpg": "cat", "2.jpg": "dog"}


def read(
    text: str | bytes,
    expected: dict[str, str] = TWO,
    *,
    name: str = "list.csv",
    there: str = "",
    said: str = "",
    several: bool = False,
) -> Case:
    """The list has these images, each with its classes and ``@split`` where it has one."""

    def case(folder: Path) -> None:
        for file in there.split():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).touch()
        content = text if isinstance(text, bytes) else text.encode()
        (folder / name).write_bytes(content.replace(b"HERE", str(folder).encode()))
        found = find_images(folder / name)
        assert found.multi_label == several
        seen = {}
        for split, images in found.splits.items():
            for image in images:
                label = image.label if isinstance(image.label, tuple) else (image.label,)
                classes = "+".join(found.classes[index] for index in label)
                seen[image.name] = classes + (f"@{split}" if split != "all" else "")
                assert image.content == folder / image.name
        assert seen == expected
        remarks = "; ".join(line for line in found.remarks if "has no image of" not in line)
        assert said in remarks
        assert bool(said) == bool(remarks)

    return case


def each(*cases: Case) -> Case:
    def case(folder: Path) -> None:
        for number, one in enumerate(cases):
            (folder / str(number)).mkdir()
            one(folder / str(number))

    return case


def each_refused(answer: str, *texts: str) -> Case:
    """All but the last are checked here, the last by whoever runs the row."""

    def case(folder: Path) -> None:
        for text in texts[:-1]:
            check(f"refused: `{answer}`", read(text), folder)
        read(texts[-1])(folder)

    return case
