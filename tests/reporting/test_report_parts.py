"""The page of a report with more to show: an audit, shifts, many classes, several labels."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import precision_score, recall_score

import mobilette
from mobilette.run.directory import Run
from mobilette.workflows.report_values import Report
from tests.browser import accessibility, chromium
from tests.conftest import write_images
from tests.reporting.test_report_page import shown

Page = tuple[Path, Report]
PAPER = 700  # CSS pixels between the margins of A4


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


def test_the_audits_findings_are_shown(full: Page, browser: Any) -> None:
    page, report = full
    audited = json.loads((page.parent / "audit" / "audit.json").read_text())
    counts = Counter(each["what"] for each in audited["findings"])
    assert report.audit is not None
    assert report.audit.counts == counts
    assert counts["unreadable"] == 1
    with shown(browser, page) as tab:
        table = tab.get_by_role("region", name="What the audit found")
        rows = table.locator("tbody tr").all_inner_texts()
        found = {row.split("\t")[0]: row.split("\t")[1:] for row in rows}
        assert {what: int(cells[0]) for what, cells in found.items()} == counts
        assert "plain/broken.png" in found["unreadable"][1]
        assert max(cells[1].count("\n") + 1 for cells in found.values()) <= 3


def test_an_audit_is_found_where_it_is_by_default(
    full: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _, report = full
    assert mobilette.report(report.path).audit is None
    (tmp_path / "audits").mkdir()
    (tmp_path / "audits" / "set").symlink_to(full[0].parent / "audit")
    found = mobilette.report(report.path).audit
    assert found is not None
    assert report.audit is not None
    assert found.counts == report.audit.counts


def test_accuracy_under_shifts_is_shown(full: Page, browser: Any) -> None:
    page, report = full
    assert report.shifts is not None
    with shown(browser, page) as tab:
        chart = tab.locator("#shifts svg")
        assert chart.is_visible()
        said = chart.get_attribute("aria-label")
        assert said.startswith(f"Accuracy under shifts: {report.shifts.unshifted:.1%} without")
        about = tab.locator("#shifts .about").inner_text()
        assert f"{report.shifts.mean:.1%} on average" in about
        assert tab.get_by_role("link", name="Shifts").count() == 1


def test_of_many_classes_the_most_frequent_confusions_open_their_pictures(
    many: Page, browser: Any
) -> None:
    page, report = many
    assert report.measured is not None
    matrix = report.measured.matrix
    assert matrix is not None
    wrong = sorted(map(int, matrix[~np.eye(30, dtype=bool)]))
    with shown(browser, page) as tab:
        assert not tab.locator(".matrix").count()
        pairs = tab.locator(".pairs li")
        counts = [int(re.findall(r"(\d+), \d+%", one)[0]) for one in pairs.all_inner_texts()]
        assert len(counts) == min(40, sum(1 for each in wrong if each))
        assert counts == sorted(wrong, reverse=True)[: len(counts)]
        pairs.first.get_by_role("button").click()
        assert tab.locator("dialog[open] img").count() == min(counts[0], 24)
        tab.keyboard.press("Escape")
        assert accessibility(tab) == []
    with shown(browser, page, width=390) as tab:
        assert tab.evaluate("document.documentElement.scrollWidth") == 390


def test_several_labels(several: Page, browser: Any) -> None:
    page, report = several
    measured = report.measured
    assert measured is not None
    assert measured.matrix is None
    average = measured.metrics.mean_average_precision
    assert average is not None
    with shown(browser, page) as tab:
        assert f"Mean average precision {average:.1%}" in tab.locator(".lead").nth(1).inner_text()
        assert not tab.locator(".matrix, .pairs, #trust").count()
        rows = [row.split("\t") for row in tab.locator(".classes tbody tr").all_inner_texts()]
        for one, (name, _, _, _, found, images) in zip(measured.classes, rows, strict=True):
            assert one.average_precision is not None
            assert found in (f"{one.average_precision:.1%}", "100%")
            assert (name, int(images)) == (one.name, one.images)
        assert "of each class" not in tab.locator("#answers").inner_text()
        assert "38 in train, 10 in val" in tab.locator("#data .about").first.inner_text()
        assert tab.locator("#data .total").inner_text().split("\t")[1:] == ["38", "10"]
        assert not tab.locator("#data .wrong", has_text="is none").count()
        assert accessibility(tab) == []


def test_precision_and_recall_of_several_labels(trained: Run, tmp_path: Path) -> None:
    """By the answers of `predict`, as scikit-learn counts them.

    The weights are those of exclusive classes, which give probabilities on both sides of a half.
    """
    run = Path(shutil.copytree(trained.path, tmp_path / "run"))
    record = json.loads((run / "dataset.json").read_text())
    (run / "dataset.json").write_text(json.dumps(record | {"multi_label": True}))
    write_images(tmp_path / "set", 5, seed=9)
    labels = {"red": "red;green", "green": "green", "blue": ""}
    rows = [f"{name}/9-{n}.png,{some}" for name, some in labels.items() for n in range(5)]
    listed = tmp_path / "set" / "list.csv"
    listed.write_text("\n".join(["path,labels", *rows]))
    measured = mobilette.report(run, listed).measured
    assert measured is not None
    names = [one.name for one in measured.classes]
    said = mobilette.load(run).predict([one.image.content for one in measured.answers])
    probabilities = [{each.label: each.probability for each in one.top} for one in said]
    given = np.array([[one[name] >= 0.5 for name in names] for one in probabilities])
    true = np.array([[x in one.true for x in range(len(names))] for one in measured.answers])
    assert 0 < given.sum() < given.size
    for index, one in enumerate(measured.classes):
        precision = precision_score(true[:, index], given[:, index], zero_division=np.nan)
        assert one.precision == (None if np.isnan(precision) else pytest.approx(precision))
        if one.images:
            assert one.recall == pytest.approx(recall_score(true[:, index], given[:, index]))
        assert (one.guessed, one.images) == (given[:, index].sum(), true[:, index].sum())


# The names above the matrix's columns may be: they are beside its rows.
CUT_OFF = """() => [...document.querySelectorAll("body *")].filter((one) => {
    const box = one.getBoundingClientRect();
    if (!box.width || !box.height || one.closest("svg, .matrix thead, .skip")) return false;
    const cut = (axis) => getComputedStyle(one)[`overflow${axis}`] !== "visible";
    return (cut("X") && one.scrollWidth > one.clientWidth + 1 && one.clientWidth)
        || (cut("Y") && one.scrollHeight > one.clientHeight + 1 && one.clientHeight)
        || box.right > innerWidth + 1;
}).map((one) => `${one.tagName} ${one.className} ${one.textContent.slice(0, 60)}`)"""
CLOSED = 'document.querySelectorAll("details:not([open])").length'


@pytest.mark.parametrize("which", ["full", "several", "many"])
def test_on_paper_nothing_is_cut_off_closed_or_dark(
    which: str, browser: Any, request: pytest.FixtureRequest
) -> None:
    page, _ = request.getfixturevalue(which)
    with shown(browser, page, width=PAPER, scheme="dark") as tab:
        closed = tab.evaluate(CLOSED)
        assert closed
        tab.emulate_media(media="print", color_scheme="dark")
        tab.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert tab.evaluate(CLOSED) == 0
        assert tab.evaluate(CUT_OFF) == []
        for place in ("body", ".card"):
            colour = f"getComputedStyle(document.querySelector('{place}')).backgroundColor"
            assert tab.evaluate(colour) == "rgb(255, 255, 255)"
        assert tab.evaluate("getComputedStyle(document.body).color") == "rgb(27, 37, 48)"
        assert not tab.locator("nav").is_visible()
        tab.evaluate("dispatchEvent(new Event('afterprint'))")
        assert tab.evaluate(CLOSED) == closed
        assert tab.pdf(format="A4").startswith(b"%PDF")
        assert tab.evaluate(CLOSED) == closed
