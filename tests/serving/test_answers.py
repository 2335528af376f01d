"""What the server answers: the same as `predict`, in every way of asking."""

from __future__ import annotations

import base64
import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mobilette.artifact.directory import Artifact
from mobilette.cli.main import run
from tests.browser import chromium, opened
from tests.conftest import write_images
from tests.serving.conftest import WILD, encoded
from tests.serving.servers import Running

PNG = {"Content-Type": "image/png"}


def text_of(content: bytes) -> str:
    return base64.b64encode(content).decode()


def without_path(answer: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in answer.items() if key != "path"}


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Same keys and labels, probabilities within 1e-6."""
    assert found.keys() == expected.keys()
    if "error" in expected:
        assert found["error"] == expected["error"]
        return
    for key in ("label", "answered", "reason"):
        assert found[key] == expected[key]
    guesses = zip(found["top"], expected["top"], strict=True)
    for one, other in (*guesses, (found, expected)):
        assert one.get("id") == other.get("id")
        assert one["probability"] == pytest.approx(other["probability"], abs=1e-6)


def test_answers_are_those_of_predict(
    server: Running,
    exported: Artifact,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = write_images(tmp_path / "others", 4, seed=7, size=33)
    (folder / "red" / "no image.png").write_text("text")
    files = sorted(folder.glob("*/*"))
    run(["predict", str(exported.path), *map(str, files), "--json"])
    expected = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(expected) == 13

    def ask(path: Path) -> Any:
        parts = {"file": (path.name, path.read_bytes())}
        return server.post(files=parts).json()["answers"][0]

    with ThreadPoolExecutor(8) as pool:  # batches of several
        for found, path, known in zip(pool.map(ask, files), files, expected, strict=True):
            assert found["path"] == path.name
            assert_same(without_path(found), without_path(known))


def test_one_image_is_sent_in_three_ways_and_several_in_two(server: Running, red: bytes) -> None:
    one = server.post(content=red, headers=PNG).json()["answers"]
    assert [answer["label"] for answer in one] == ["red"]
    plain = server.post(content=red, headers={"Content-Type": "application/octet-stream"})
    single = server.post(json={"image": text_of(red)})
    several = server.post(json={"images": [text_of(red), text_of(b"text")]})
    form = server.post(files=[("file", ("../../etc/passwd", red)), ("file", ("b", b"text"))])
    for response in (plain, single, several, form):
        assert response.status_code == 200
        assert_same(without_path(response.json()["answers"][0]), without_path(one[0]))
    assert [answer["path"] for answer in form.json()["answers"]] == ["../../etc/passwd", "b"]
    for response in (several, form):
        assert response.json()["answers"][1]["error"].startswith("not an image")


@pytest.mark.parametrize(("top", "guesses"), [("1", 1), ("2", 2), ("65536", 3)])
def test_as_many_guesses_as_asked(server: Running, red: bytes, top: str, guesses: int) -> None:
    response = server.post(f"/v1/predict?top={top}", content=red, headers=PNG)
    assert len(response.json()["answers"][0]["top"]) == guesses


@pytest.mark.parametrize("path", ["/v1/models/wild/predict", "/v1/predict?model=wild"])
def test_another_artifact_by_name(server: Running, red: bytes, path: str) -> None:
    value = server.post(path, content=red, headers=PNG).json()
    assert value["model"] == "wild"
    assert {guess["label"] for guess in value["answers"][0]["top"]} == set(WILD)


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_of_an_animated_image_the_first_frame_is_answered_which_is_said(
    server: Running, images: Path, form: str
) -> None:
    frames = [Image.open(images / name / "0.png") for name in ("red", "blue")]
    moving = encoded(frames[0], form, save_all=True, append_images=frames[1:])
    still = encoded(frames[0], form)
    response = server.post(files=[("file", moving), ("file", still), ("file", b"GIF89a")])
    first, second, third = response.json()["answers"]
    assert first["label"] == "red"
    assert first.pop("note") == "animated: only its first frame was looked at"
    assert first.keys() == second.keys()
    assert "error" in third
    assert "note" not in third


def test_facts_are_those_of_the_contract(server: Running, exported: Artifact) -> None:
    facts = server.get("/v1/model").json()
    assert facts["name"] == "colours"
    assert facts["sha256"] == exported.contract.sha256
    assert [each["name"] for each in facts["classes"]] == ["blue", "green", "red"]
    assert facts["resolution"] == [16, 16]
    assert facts["limits"]["megapixels"] == 4
    assert str(exported.path) not in json.dumps(facts)
    assert server.get("/v1/models").json() == {"models": ["colours", "wild"]}
    named = [server.get(path).json() for path in ("/v1/models/wild", "/v1/model?model=wild")]
    assert named[0] == named[1]
    assert named[0]["arch"] == "resnet8"


def test_metrics_count_requests_images_and_batches(server: Running, red: bytes) -> None:
    def count(line: str) -> float:
        found = re.search(f"^{re.escape(line)} (.+)$", server.get("/metrics").text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    lines = (
        'mobilette_requests_total{route="/v1/predict",status="200"}',
        'mobilette_images_total{model="colours",outcome="answered"}',
        "mobilette_batch_images_sum",
    )
    before = [count(line) for line in lines]
    server.post(json={"images": [text_of(red)] * 3})
    assert [count(line) for line in lines] == [before[0] + 1, before[1] + 3, before[2] + 3]


def test_state_documents_and_headers(server: Running) -> None:
    assert server.get("/healthz").json() == {"status": "running"}
    assert server.get("/readyz").json() == {"status": "ready"}
    assert "swagger" in server.get("/docs").text
    assert "/v1/predict" in server.get("/openapi.json").json()["paths"]
    for path in ("/", "/v1/model", "/nowhere"):
        headers = server.get(path).headers
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"


def test_the_page_shows_labels_as_text(server: Running, red: bytes) -> None:
    with chromium() as browser, opened(browser) as page:
        page.goto(f"{server.url}/?")
        page.locator("#status", has_text="Ready.").wait_for(timeout=60_000)
        page.evaluate(
            """(image) => {
                at('model').value = 'wild';
                classify(new Blob([Uint8Array.from(atob(image), c => c.charCodeAt(0))]));
            }""",
            text_of(red),
        )
        page.locator("#answer > *").first.wait_for(timeout=60_000)
        shown = page.eval_on_selector_all(
            "#answer > *", "rows => rows.map((row) => row.firstChild.textContent)"
        )
        assert set(shown) == set(WILD)
        assert page.locator("#answer img").count() == 0
        assert page.evaluate("crossOriginIsolated")
