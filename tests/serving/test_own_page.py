"""The server's own page, in Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.browser import chromium, opened
from tests.serving.servers import Running

SECONDS = 60_000  # milliseconds: machines stall


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture
def page(browser: Any, server: Running) -> Iterator[Any]:
    with opened(browser) as found:
        found.goto(server.url)
        wait_until(found, "Ready.")
        yield found


def wait_until(page: Any, text: str) -> None:
    page.locator("#status", has_text=text).wait_for(timeout=SECONDS)


def test_a_slow_first_answer_does_not_replace_the_second(page: Any) -> None:
    """The first answer is held back until the second is there; then it comes."""
    shown = page.evaluate(
        """async () => {
            const answer = (label) => ({answers: [
                {label, answered: true, reason: "", top: [{id: label, label, probability: 1}]}]});
            let late;
            const answers = [new Promise((then) => (late = then)), answer("second")];
            window.fetch = async () => new Response(JSON.stringify(await answers.shift()));
            const first = classify(new Blob(["1"]));
            await classify(new Blob(["2"]));
            late(answer("first"));
            await first;
            return at("answer").firstChild.firstChild.textContent;
        }"""
    )
    assert shown == "second"


@pytest.mark.parametrize("kind", ["dragover", "drop"])
def test_a_drop_beside_the_box_does_not_leave_the_page(page: Any, kind: str) -> None:
    prevented = """(kind) => !document.body.dispatchEvent(new DragEvent(kind,
        {bubbles: true, cancelable: true, dataTransfer: new DataTransfer()}))"""
    assert page.evaluate(prevented, kind)


@pytest.mark.parametrize("status", [413, 502])
def test_what_a_proxy_answers_is_said_by_its_status(page: Any, status: int) -> None:
    page.evaluate(
        """(status) => {
            window.fetch = async () => new Response("<html>", {status, statusText: "Sorry"});
            return classify(new Blob(["1"]));
        }""",
        status,
    )
    assert page.inner_text("#status") == f"No answer: the server's answer is {status} Sorry"
