"""`make site`: every page is in the navigation, every public name in the reference."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from pydoc import locate

import pytest

import mobilette
from docs.site_hooks import MARK, on_page_markdown
from tests.docs.commands import ROOT

DOCS = ROOT / "docs"
REFERENCE = (DOCS / "reference.md").read_text(encoding="utf-8")


def test_the_navigation_has_every_page() -> None:
    listed = re.findall(r"^ +- (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.M)
    assert sorted(listed) == sorted(
        path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")
    )


def test_the_index_leads_to_every_page() -> None:
    linked = re.findall(r"\]\((\S+\.md)\)", (DOCS / "index.md").read_text(encoding="utf-8"))
    assert sorted(linked) == sorted({path.name for path in DOCS.glob("*.md")} - {"index.md"})


def test_the_reference_has_every_public_name() -> None:
    assert MARK in REFERENCE
    entries = re.findall(r"^::: (\S+)$", on_page_markdown(REFERENCE), re.MULTILINE)
    assert all(locate(entry) is not None for entry in entries)
    public = {f"mobilette.{name}" for name in mobilette.__all__ if name[0] != "_"}
    assert public < set(entries)


@pytest.mark.skipif(find_spec("mkdocs") is None, reason="needs the dependency group docs")
def test_the_site_is_built_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        html = page.read_text(encoding="utf-8")
        assert not re.search(r"<(script|img|iframe)[^>]+src=\"?https?:", html)
        assert not re.search(r"<link[^>]+stylesheet[^>]+https?:", html)
    reference = (tmp_path / "site" / "reference.html").read_text(encoding="utf-8")
    for name in mobilette.__all__:
        assert name[0] == "_" or f'id="mobilette.{name}"' in reference
