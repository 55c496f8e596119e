"""The page in a headless browser with the shipped model: what a person does with it, and what must not happen."""

from __future__ import annotations

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("python_multipart")
pytest.importorskip("playwright.sync_api")
from support.browser import CHROMIUM, Watched, chromium  # noqa: E402
from support.studio_client import studio  # noqa: E402

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
MINUTE = 60_000
SHORT = {"steps": "2", "frame-count": "9"}
"""What a test types so that a video takes a second."""


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with studio(tmp_path_factory.mktemp("page"), verb="studio") as client:
        yield client.ready()


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


@pytest.fixture
def visit(client, browser):
    """Open the page as somebody new; what went wrong in it is found when the test ends."""
    opened = []

    def begin(**options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        watched = Watched(context.new_page()).begin()
        opened.append((context, watched))
        watched.page.goto(client.server.url)
        watched.page.wait_for_selector("body[data-ready=true]", timeout=MINUTE)
        watched.page.wait_for_selector("#plan:not(:empty)", timeout=MINUTE)
        return watched.page

    yield begin
    for context, watched in opened:
        context.close()
        assert not watched.problems
        assert watched.hosts() == {f"127.0.0.1:{client.port}"}


def newest(page, state, **options):
    return page.wait_for_selector(f".card:first-child[data-state={state}]", timeout=MINUTE, **options)


def test_a_new_user_makes_a_video_in_three_actions(visit):
    page = visit()
    assert page.is_visible(".example") and not page.is_visible(".videos")
    page.click(".example >> nth=1")  # 1
    page.wait_for_selector("#go:focus")
    page.keyboard.press("Enter")  # 2
    newest(page, "completed")
    page.click(".card:first-child .cover")  # 3: watch it
    page.wait_for_selector("#viewer[open]")
    page.wait_for_selector("#stage video[src^=blob]")
    assert page.text_content("#view-prompt") == "a blue square grows"
    assert page.evaluate("() => document.querySelector('#stage video').videoWidth") == 64
