"""Models to a hub and back: a small one on this machine, by its real HTTP interface."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mobilette
from mobilette.artifact.directory import (
    CONTRACT,
    GOLDEN,
    LABELS,
    README,
    Artifact,
    open_artifact,
)
from mobilette.cli.main import run as command
from mobilette.errors import InputError
from mobilette.exporters.export import TARGETS
from mobilette.files import cache_root
from mobilette.formats.hub import INDEX, HubIndex, fetch_model, parse_address
from mobilette.run.directory import Run
from mobilette.serving.models import parse_places
from mobilette.workflows.push import RUN_FILES
from tests.formats.hub_server import TOKEN, Hub, running_hub

pytest.importorskip("huggingface_hub", reason="the extra hub is not installed")

ADDRESS = "hf://somebody/colours"


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with running_hub() as found:
        yield found


@pytest.fixture(autouse=True)
def online(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.address)
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("MOBILETTE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MOBILETTE_OFFLINE", "0")


def pushed(*arguments: str) -> dict[str, object]:
    """Push in a process of its own, which reads the variables at its start; return what it says."""
    done = subprocess.run(
        [sys.executable, "-m", "mobilette", "push", *arguments, "--json"],
        capture_output=True,
        text=True,
        env=dict(os.environ),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    assert isinstance(value, dict)
    return value


@pytest.fixture
def card(tmp_path: Path) -> str:
    (tmp_path / "card.md").write_text("---\nlicense: mit\n---\n# Colours\n")
    return str(tmp_path / "card.md")


def test_an_artifact_comes_back_as_it_went(
    hub: Hub, exported: Artifact, images: Path, card: str
) -> None:
    said = pushed(str(exported.path), ADDRESS, "--card", card)
    assert said["address"] == ADDRESS
    files = hub.files("somebody/colours") or {}
    assert files["README.md"].startswith(b"---\nlicense: mit")
    assert set(files) - {".gitattributes"} == set(said["files"])  # type: ignore[call-overload]
    picture = next(images.glob("red/*.png"))
    expected = mobilette.load(exported).predict([picture])[0]
    assert mobilette.load(ADDRESS).predict([picture])[0] == expected
    asked = len(hub.asked)
    mobilette.load(f"{ADDRESS}@{said['commit']}")  # of the cache
    assert len(hub.asked) == asked
    served = parse_places([f"first={ADDRESS}", f"second={ADDRESS}@{said['commit']}"])
    assert [open_artifact(place).contract.sha256 for place in served.values()] == [
        exported.contract.published().sha256
    ] * 2


def test_a_run_comes_back_with_what_it_was_trained_on(
    hub: Hub, trained: Run, images: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """By the command line, wherever a model is expected, and with the card of its report."""
    address = "hf://somebody/a-run"
    pushed(str(trained.path), address, "--license", "apache-2.0")
    files = hub.files("somebody/a-run") or {}
    assert b'license: "apache-2.0"' in files["README.md"]
    assert address.encode() in files["README.md"]
    assert not [name for name in files if name.endswith(".pt")]
    assert not [name for name, content in files.items() if str(tmp_path.parent).encode() in content]
    assert not [name for name, content in files.items() if str(images).encode() in content]
    assert command(["evaluate", address, str(images), "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    expected = mobilette.evaluate(trained, images)
    assert value["top1"] == expected.top1
    assert value["trained_left_out"] == expected.trained_left_out > 0
    assert command(["export", address, "--to=onnx", f"--out={tmp_path / 'out'}"]) == 0


def test_a_second_push_replaces_the_first(
    hub: Hub, trained: Run, exported: Artifact, card: str
) -> None:
    address = "hf://somebody/twice"
    first = pushed(str(trained.path), address, "--card", card)
    pushed(str(exported.path), address, "--card", card)
    files = hub.files("somebody/twice") or {}
    assert "model/model.onnx" in files
    assert "model/best.safetensors" not in files
    assert isinstance(mobilette.load(f"{address}@{first['commit']}").classes, tuple)


def test_a_file_that_was_changed_is_refused(hub: Hub, exported: Artifact, card: str) -> None:
    pushed(str(exported.path), "hf://somebody/changed", "--card", card)
    files = dict(hub.files("somebody/changed") or {})
    files["model/model.onnx"] = files["model/model.onnx"][:-1] + b"x"
    hub.put("somebody/changed", files)
    with pytest.raises(InputError, match=r"model/model.onnx is not the file .* \(its hash\)"):
        mobilette.load("hf://somebody/changed")
    assert not list((cache_root() / "hub").rglob("model.onnx"))
    # Nor does a record that was changed with it help: the contract has hashes of its own.
    index = json.loads(files[INDEX])
    index["files"]["model.onnx"] = hashlib.sha256(files["model/model.onnx"]).hexdigest()
    hub.put("somebody/changed", files | {INDEX: json.dumps(index).encode()})
    with pytest.raises(InputError, match="changed since the export"):
        mobilette.load("hf://somebody/changed")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../../outside", "outside the model"),
        ("/etc/x", "outside the model"),
        ("weights.pkl", "never fetched"),
        ("last.pt", "never fetched"),
        ("node_modules/onnxruntime-web/index.js", "never fetched"),
        ("NODE_MODULES/x.js", "never fetched"),
        ("evil.so", "never fetched"),
        ("conftest.py", "never fetched"),
        ("a/verify_on_mac.py", "never fetched"),
        ("a.dill", "never fetched"),
        ("CON", "never fetched"),
        ("nul.json", "never fetched"),
        ("a.pt.", "is not plain"),
        ("a\nb.json", "is not plain"),
        ("C:x.json", "is not plain"),
        (".git/x.json", "is not plain"),
        ("é.json", "is not plain"),
    ],
)
def test_files_that_are_never_fetched(hub: Hub, name: str, message: str) -> None:
    record = {"kind": "run", "files": {name: "0" * 64}, "schema": 1}
    hub.put("somebody/evil", {INDEX: json.dumps(record).encode(), f"model/{name}": b"x"})
    hub.asked.clear()
    with pytest.raises(InputError, match=message):
        mobilette.load("hf://somebody/evil")
    assert not [path for path in hub.asked if "/model/" in path]


def test_every_artifact_and_run_may_be_pushed() -> None:
    for target in TARGETS.values():
        names = (target.model, *target.parts, *target.bundle, LABELS, GOLDEN, README, CONTRACT)
        HubIndex(kind="artifact", files=dict.fromkeys(names, "0" * 64))
    HubIndex(kind="run", files=dict.fromkeys(RUN_FILES, "0" * 64))


def test_sizes_are_checked_before_anything_is_fetched(hub: Hub) -> None:
    hub.put("somebody/vast", {INDEX: b" " * (32 * 2**20 + 1)})
    record = {"kind": "run", "files": {"gone.json": "0" * 64}, "schema": 1}
    hub.put("somebody/gone", {INDEX: json.dumps(record).encode()})
    hub.asked.clear()
    with pytest.raises(InputError, match=r"mobilette.json has 33,554,433 bytes, more than"):
        fetch_model("hf://somebody/vast")
    assert not [path for path in hub.asked if "resolve" in path]
    with pytest.raises(InputError, match=r"model/gone.json, which mobilette.json names, is not"):
        fetch_model("hf://somebody/gone")
    assert not [path for path in hub.asked if "gone.json" in path]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("hf://somebody", "write hf://OWNER/NAME"),
        ("hf://a/b/c", "write hf://OWNER/NAME"),
        ("hf://../b", "write hf://OWNER/NAME"),
        ("hf://somebody/none", "there is no such model"),
        ("hf://somebody/plain", "has no mobilette.json"),
        ("hf://somebody/plain@v9", "no such revision"),
    ],
)
def test_addresses_that_lead_nowhere(hub: Hub, address: str, message: str) -> None:
    hub.put("somebody/plain", {"pytorch_model.bin": b"x"})
    with pytest.raises(InputError, match=message) as caught:
        mobilette.load(address)
    assert "\n" not in str(caught.value)


def test_without_a_token_the_hub_refuses(
    hub: Hub, exported: Artifact, card: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    assert command(["push", str(exported.path), "hf://somebody/refused", "--card", card]) == 2
    assert "somebody/refused" not in hub.commits


def test_without_its_card_nothing_is_made(
    hub: Hub, exported: Artifact, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["push", str(exported.path), "hf://somebody/cardless"]
    assert command([*arguments, "--card", str(tmp_path / "none.md")]) == 2
    assert "none.md: " in capsys.readouterr().err
    assert "somebody/cardless" not in hub.commits


def test_before_anything_is_measured_the_hub_is_asked(
    exported: Artifact, images: Path, monkeypatch: pytest.MonkeyPatch, hub: Hub
) -> None:
    """A report of images that are not there would fail."""
    arguments = ["push", str(exported.path), "hf://somebody/refused", "--data", "gone"]
    for name, value, message in (
        ("HF_TOKEN", "hf_other", "the hub answers 401"),
        ("MOBILETTE_OFFLINE", "1", "MOBILETTE_OFFLINE is set; push needs the hub"),
    ):
        monkeypatch.setenv(name, value)
        hub.asked.clear()
        done = subprocess.run(
            [sys.executable, "-m", "mobilette", *arguments],
            capture_output=True,
            text=True,
            env=dict(os.environ),
            check=False,
        )
        assert (done.returncode, message in done.stderr) == (2, True), done.stderr
    assert not hub.asked


def test_offline_nothing_is_asked(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"{}"
    files = {"arch.json": hashlib.sha256(content).hexdigest()}
    record = json.dumps({"kind": "run", "files": files, "schema": 1}).encode()
    commit = hub.put("somebody/cached", {INDEX: record, "model/arch.json": content})
    found = fetch_model("hf://somebody/cached")
    monkeypatch.setenv("MOBILETTE_OFFLINE", "1")
    hub.asked.clear()
    assert fetch_model("hf://somebody/cached") == found
    with pytest.raises(InputError, match=f"OFFLINE is set; hf://somebody/cached@{commit} is in"):
        fetch_model("hf://somebody/cached@v1")
    with pytest.raises(InputError, match="MOBILETTE_OFFLINE is set$"):
        fetch_model(ADDRESS)
    assert not hub.asked


def test_nothing_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(InputError, match="hf://somebody/colours: ") as caught:
        mobilette.load(ADDRESS)
    assert "\n" not in str(caught.value)


def test_addresses() -> None:
    assert parse_address("hf://a/b") == parse_address("hf:/a/b") == ("a/b", "main")
    assert parse_address("hf://a/b@v1.0").revision == "v1.0"
    assert str(parse_address("hf://a/b@v1.0")) == "hf://a/b@v1.0"
    with pytest.raises(InputError, match="no SHA-256"):
        HubIndex(kind="run", files={"arch.json": "abc"})
