"""The files of the page: how they are served, how heavy they are, and what their text may not hold."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("python_multipart")
from cogvideox.studio.page_routes import page_folder  # noqa: E402
from support.studio_app import idle_studio  # noqa: E402

FILES = {each.name: each.read_text(encoding="utf-8") for each in page_folder().iterdir()}
SCRIPTS = {name: text for name, text in FILES.items() if name.endswith(".js")}


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with idle_studio(tmp_path_factory.mktemp("page"), page=True) as client:
        yield client


def test_the_page_and_its_files_are_served_with_their_types_and_a_strict_policy(client):
    kinds = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
    for name in ["", *(f"page/{each}" for each in FILES)]:
        answer = client.get(f"/{name}")
        kind = kinds[(name or "index.html").rpartition(".")[2]]
        assert answer.status_code == 200 and answer.headers["content-type"].startswith(kind), name
        policy = answer.headers["content-security-policy"]
        assert "script-src 'self';" in policy and "unsafe" not in policy and "default-src 'none'" in policy


@pytest.mark.parametrize(
    "name",
    ["x.js", "..%2fapp.py", "%2e%2e%2fapp.py", "..%5capp.py", "studio.css%00", "", "page/main.js", "main.py"],
)
def test_nothing_else_is_served(client, name):
    answer = client.get(f"/page/{name}")
    assert answer.status_code == 404 and answer.json()["error"]["message"]


def test_the_job_server_has_no_page(tmp_path):
    with idle_studio(tmp_path) as client:
        assert client.get("/").status_code == 404


def test_the_page_is_reached_without_a_key_and_what_it_asks_is_not(tmp_path):
    with idle_studio(tmp_path, local=False, hosts=("video.example",), page=True) as client:
        there = {"host": "video.example"}
        assert client.get("/", headers=there).status_code == 200
        assert client.get("/page/main.js", headers=there).status_code == 200
        assert client.get("/v1/session", headers=there).status_code == 401
        assert client.get("/", headers={"host": "other.example"}).status_code == 421


def test_the_whole_page_weighs_at_most_150_kilobytes():
    assert sum(len(text.encode()) for text in FILES.values()) <= 150_000


def test_the_markup_holds_no_script_style_or_address_of_elsewhere():
    page = FILES["index.html"]
    assert not re.search(r"<script(?![^>]*\bsrc=\"/page/)", page)
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", page)
    for text in FILES.values():
        found = set(re.findall(r"(?:https?:)?//[a-z][\w.-]+\.[a-z]{2,}[\w./-]*", text))
        assert found <= {"http://www.w3.org/2000/svg", "//www.w3.org/2000/svg"}, found


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_scripts_make_no_markup_from_text(name):
    forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|setHTML|srcdoc"
    assert not re.search(forbidden, SCRIPTS[name])


def test_every_field_and_button_has_a_name():
    page = FILES["index.html"]
    named = set(re.findall(r'<label[^>]* for="([\w-]+)"', page))
    for attributes in re.findall(r"<(?:input|select|textarea)\b([^>]*)>", page):
        identifier = re.search(r'id="([\w-]+)"', attributes)[1]
        is_hidden = 'aria-hidden="true"' in attributes
        assert (
            is_hidden or identifier in named or re.search(rf'<label[^>]*>[^<]*<input id="{identifier}"', page)
        )
    for attributes, content in re.findall(r"<button\b([^>]*)>(.*?)</button>", page, re.DOTALL):
        text = re.sub(r"<svg.*?</svg>|<[^>]+>", "", content, flags=re.DOTALL).strip()
        assert text or "aria-label" in attributes or 'id="theme"' in attributes, attributes


def test_every_element_that_scripts_ask_for_is_there():
    page = FILES["index.html"]
    identifiers = set(re.findall(r'\bid="([\w-]+)"', page))
    for name, text in SCRIPTS.items():
        asked = set(re.findall(r'byId\("([\w-]+)"\)', text)) | set(re.findall(r'\bon\("(view-[\w-]+)"', text))
        assert {each for each in asked if not each.startswith("add-")} <= identifiers, name
        icons = set(re.findall(r'icon(?:Button)?\("([\w-]+)"', text))
        assert {f"i-{each}" for each in icons} <= identifiers, name


def luminance(colour):
    digits = colour.lstrip("#")
    pairs = [c * 2 for c in digits] if len(digits) == 3 else [digits[i : i + 2] for i in (0, 2, 4)]
    values = [int(pair, 16) / 255 for pair in pairs]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


THEMES = re.findall(r":root[^{]*\{([^}]*--ground[^}]*)\}", FILES["studio.css"])


@pytest.mark.parametrize("theme", range(len(THEMES)))
@pytest.mark.parametrize("ground", ["ground", "paper", "sunk"])
@pytest.mark.parametrize("ink", ["ink", "soft", "accent", "bad", "warn"])
def test_text_can_be_read_on_every_ground(theme, ground, ink):
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{3,6});", THEMES[theme]))
    light, dark = sorted((luminance(colours[ink]), luminance(colours[ground])), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 4.5  # WCAG 2.2, AA


def test_both_ways_to_dark_are_the_same_colours():
    assert len(THEMES) == 3
    light, system, chosen = (re.sub(r"\s+", " ", each).strip() for each in THEMES)
    assert system == chosen != light
