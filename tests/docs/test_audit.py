"""The page "Auditing a set": its commands, one after the other."""

from __future__ import annotations

import csv
import shlex
from pathlib import Path

import pytest

from mobilette.cli.main import run
from mobilette.data.findings import KINDS
from tests.conftest import write_images
from tests.docs.commands import ROOT

PAGE = (ROOT / "docs" / "audit.md").read_text(encoding="utf-8")


def test_the_commands_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mobilette.workflows.audit_network._OWN_EPOCHS", 1)
    images = write_images(Path("images"), 8)
    (images / "red" / "copy.png").write_bytes((images / "red" / "0.png").read_bytes())
    commands = [line.strip() for line in PAGE.splitlines() if line.startswith("    mobilette ")]
    audit, train = (shlex.split(command)[1:] for command in commands)
    assert run(audit) == 0
    table = Path("audits/images/audit.csv")
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    for row in rows[1:]:
        row[-1] = "leave out" if row[3] == "exact duplicate" else ""
    with table.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    train[train.index("--epochs") + 1] = "1"
    assert run([*train, "--model=mobilenet_v1", "--width-mult=0.25"]) == 0
    assert "leave_out" in Path("runs/clean/dataset.json").read_text(encoding="utf-8")


def test_the_table_has_every_kind() -> None:
    table = PAGE.partition("| kind |")[2].partition("\n\n")[0]
    kinds = [kind for line in table.splitlines()[2:] for kind in line.split("|")[1].split(",")]
    assert [kind.strip() for kind in kinds] == [
        *("unreadable", "exact duplicate", "near duplicate", "wrong label", "dark", "bright"),
        *("little information", "blurred", "odd shape", "odd size"),
    ]
    assert {kind.strip() for kind in kinds} == set(KINDS)
