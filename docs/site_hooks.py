"""Hook of `make site`: inserts the public names into the API reference."""

from __future__ import annotations

from typing import Any

import mobilette

MARK = "<!-- the public names -->"


def on_page_markdown(markdown: str, **_page: Any) -> str:
    """Replace the mark by one entry per public name."""
    names = (name for name in mobilette.__all__ if name[0] != "_")
    return markdown.replace(MARK, "\n\n".join(f"::: mobilette.{name}" for name in names))
