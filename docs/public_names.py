"""Write the list of public names in docs/python.md: ``python -m docs.public_names``."""

from __future__ import annotations

import inspect
from pathlib import Path

import mobilette

PAGE = Path(__file__).resolve().parent / "python.md"
BEGIN, END = "<!-- public names -->\n", "<!-- end of public names -->\n"


def public_names() -> str:
    """Return a table of every public name with the first sentence of its docstring."""
    rows = ["| name | what it is |", "|---|---|"]
    for name in sorted(mobilette.__all__, key=str.casefold):
        if name == "__version__":
            continue
        summary = inspect.cleandoc(getattr(mobilette, name).__doc__).partition("\n\n")[0]
        rows.append(f"| `{name}` | {' '.join(summary.split())} |")
    return "\n".join(rows).replace("``", "`") + "\n"


def with_names(page: str) -> str:
    """Return the text of ``page`` with an up-to-date list."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n{public_names()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(with_names(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
