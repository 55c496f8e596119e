"""The page in a headless browser with the shipped model: what a person does with it, and what must not happen."""

from __future__ import annotations

import base64
import io
import zipfile

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

pytest.importorskip("fastapi")
pytest.importorskip("python_multipart")
pytest.importorskip("playwright.sync_api")
from cogvideox.studio.folder import StudioFolder  # noqa: E402
from cogvideox.studio.keys import create_key  # noqa: E402
from cogvideox.studio.queue import VideoQueue  # noqa: E402
from cogvideox.video import Video  # noqa: E402
from cogvideox.world import render, sample_scene  # noqa: E402
from support.browser import CHROMIUM, ELSEWHERE, Watched, chromium  # noqa: E402
from support.loras import dotted  # noqa: E402
from support.models import write_model_folder  # noqa: E402
from support.studio_client import studio  # noqa: E402

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
MINUTE = 60_000
PROMPT = "a red circle moves to the right"


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

    def begin(port=client.port, context=None, **options):
        context = context or browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        watched = Watched(context.new_page()).begin()
        opened.append((context, watched, port))
        watched.page.goto(f"http://127.0.0.1:{port}/")
        ready(watched.page)
        return watched.page

    yield begin
    for context, watched, port in opened:
        context.close()
        assert not watched.problems
        assert watched.hosts() == {f"127.0.0.1:{port}"}


def ready(page):
    page.wait_for_selector("body[data-ready=true]", timeout=MINUTE)
    page.wait_for_selector("#plan:not(:empty)", timeout=MINUTE)


def short(page, prompt=PROMPT, steps="2", frames="9"):
    """Fill the form so that a video takes a second."""
    page.fill("#prompt", prompt)
    if page.is_hidden("#more"):
        page.click("#more-toggle")
    page.fill("#steps", steps)
    page.select_option("#frames", frames)


def card(page, prompt, state):
    """The newest card of a prompt, once it is in a state."""
    return page.wait_for_selector(f'.card[data-state={state}]:has-text("{prompt}")', timeout=MINUTE)


def view(page, prompt):
    card(page, prompt, "completed").query_selector(".cover").click()
    page.wait_for_selector("#viewer[open]")
    page.wait_for_selector("#stage video[src^=blob]")


def facts(page):
    names, values = (page.locator(f"#view-facts {each}").all_text_contents() for each in ("dt", "dd"))
    return dict(zip(names, values, strict=True))


def frame_number(page, player="#viewer"):
    return int(page.locator(f"{player} .count").text_content().split("/")[0])


def drop(page, name, data, kind):
    """Drop a file on the page, as a person does with the pointer."""
    transfer = page.evaluate_handle(
        """([name, data, kind]) => {
            const bytes = Uint8Array.from(atob(data), (each) => each.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], name, { type: kind }));
            return transfer;
        }""",
        [name, base64.b64encode(data).decode(), kind],
    )
    for event in ("dragenter", "dragover", "drop"):
        page.dispatch_event("body", event, {"dataTransfer": transfer})


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    """A first frame of the tiny world as a file."""
    path = tmp_path_factory.mktemp("picture") / "first.png"
    Image.fromarray(render(sample_scene(seed=0, index=3), size=64, frames=1)[0]).save(path)
    return path


def choose_file(page, button, path):
    with page.expect_file_chooser() as chooser:
        page.click(button)
    chooser.value.set_files(path)


def test_a_new_user_makes_a_video_in_three_actions(visit):
    page = visit()
    assert page.is_visible(".example") and not page.is_visible(".videos")
    page.click(".example >> nth=1")  # 1
    page.wait_for_selector("#go:focus")
    page.keyboard.press("Enter")  # 2
    card(page, "a blue square grows", "running")
    page.wait_for_selector(".card img[src*=preview]", timeout=MINUTE)  # the picture so far
    view(page, "a blue square grows")  # 3: watch it
    assert page.text_content("#view-prompt") == "a blue square grows"
    assert page.evaluate("() => document.querySelector('#stage video').videoWidth") == 64


def test_the_plan_stands_beside_the_form_before_anything_is_queued(visit, client):
    before = client.get("/v1/videos").json()["data"]
    page = visit()
    plan = page.text_content("#plan")
    assert "17 frames of 64×64" in plan and "of memory" in plan and "about" in plan
    page.select_option("#frames", "33")
    page.wait_for_selector("#plan:has-text('33 frames of 64×64')")
    page.select_option("#size", "custom")
    page.fill("#width", "96")
    page.wait_for_selector("#plan:has-text('96×64')")
    page.fill("#prompt", "a zebra sings")
    page.wait_for_selector("#warnings:has-text('zebra')")
    assert page.text_content("#length") == ""
    page.fill("#prompt", "a red circle moves to the right and then " * 4 + "ends here")
    page.wait_for_selector("#length.warn:has-text('the model reads 32 and leaves out'):has-text('ends here')")
    page.fill("#prompt", "")
    page.wait_for_selector("#length:not(.warn)", state="attached")
    assert page.text_content("#length") == ""
    assert client.get("/v1/videos").json()["data"] == before


def test_image_to_video_and_a_frame_of_a_video_as_image(visit, picture):
    page = visit()
    choose_file(page, "#add-image", picture)
    page.wait_for_selector(".chip:not(.is-busy):has-text('First frame')")
    assert page.is_visible("#add-last_image")
    short(page, "the shape of the picture moves")
    page.click("#go")
    view(page, "the shape of the picture moves")
    assert facts(page)["Model"] == "tiny-i2v"
    page.click("#view-close")
    page.click(".chip .icon-button")
    page.wait_for_selector("#given", state="hidden")
    view(page, "the shape of the picture moves")
    page.click("#view-image")
    page.wait_for_selector(".chip:not(.is-busy):has-text('First frame')")
    assert page.is_hidden("#viewer")


def test_a_picture_and_a_video_make_way_for_each_other(visit, client, tmp_path):
    wide = tmp_path / "wide.png"
    Image.new("RGB", (120, 60), (90, 90, 90)).save(wide)
    name = client.create("a wide one makes way", frames=9)
    client.until(name, "completed")
    page = visit()
    choose_file(page, "#add-image", wide)
    page.wait_for_selector(".chip:not(.is-busy):has-text('First frame')")
    assert page.is_hidden("#add-video")
    page.fill("#prompt", "a red circle")
    page.wait_for_selector("#warnings:has-text('cut away')")
    page.click("#more-toggle")
    page.select_option("#fit", "contain")
    page.wait_for_selector("#warnings:has-text('cut away')", state="detached")
    page.select_option("#fit", "")
    page.wait_for_selector("#warnings:has-text('cut away')")
    page.select_option("#size", label="As given 96×48")
    page.wait_for_selector("#plan:has-text('96×48')")
    view(page, "a wide one makes way")
    page.click("#view-continue")
    page.wait_for_selector(".chip:has-text('Video')")
    page.wait_for_selector(".notice:has-text('Video instead of first frame')")
    assert page.locator(".chip").count() == 1 and page.is_hidden("#add-image")
    page.wait_for_selector("#plan:not(:empty)")
    assert not page.text_content("#problem")
    view(page, "a wide one makes way")
    page.click("#view-image")
    page.wait_for_selector(".chip:not(.is-busy):has-text('First frame')")
    page.wait_for_selector(".notice:has-text('First frame instead of video')")
    assert page.locator(".chip").count() == 1
    assert page.locator(".chip:not(.is-busy)").count() == 1


def test_a_file_that_is_nothing_of_the_kind_is_named_and_what_was_given_stays(client, browser, picture):
    context = browser.new_context()  # its console tells of the answer 400, as it should
    page = context.new_page()
    page.goto(client.server.url)
    ready(page)
    choose_file(page, "#add-image", picture)
    page.wait_for_selector(".chip:not(.is-busy):has-text('first.png')")
    page.evaluate(
        """() => {
            const dataTransfer = new DataTransfer();
            for (const name of ["a.json", "b.json"]) dataTransfer.items.add(new File(["{}"], name));
            dispatchEvent(new DragEvent("drop", { dataTransfer }));
        }"""
    )
    page.wait_for_selector(".notice:has-text('One file at a time: a.json is taken')")
    drop(page, "list.png", b"milk, bread", "image/png")
    page.wait_for_selector(".notice:has-text('list.png: neither a picture nor a video')")
    page.wait_for_selector(".chip:not(.is-busy):has-text('first.png')")
    context.close()


def test_continue_change_variation_and_settings(visit, client):
    page = visit()
    short(page, "a yellow ring grows")
    page.fill("#seed", "5")
    page.click("#go")
    view(page, "a yellow ring grows")
    page.click("#view-variation")
    page.wait_for_selector("#viewer .notice:has-text('another seed')")
    page.click("#view-continue")
    page.wait_for_selector(".chip:has-text('Video')")
    assert page.input_value(".chip select") == "continue" and page.is_hidden("#strength-field")
    page.select_option(".chip select", "change")
    assert page.text_content("#strength-value") == "80 %, the usual"
    page.focus("#strength")
    for _ in range(4):
        page.keyboard.press("ArrowLeft")
    assert page.text_content("#strength-value") == "60 %"
    page.fill("#prompt", "a yellow ring shrinks")
    page.click("#go")
    view(page, "a yellow ring shrinks")
    shown = facts(page)
    assert (shown["Steps"], shown["From"], shown["Changed"]) == ("2", "a video", "60 %")
    page.click("#view-reuse")
    page.wait_for_selector(".notice:has-text('settings')")
    page.wait_for_timeout(200)
    assert page.evaluate("() => document.activeElement.id") == "prompt"
    assert page.input_value("#prompt") == "a yellow ring shrinks" and page.input_value("#seed") == "5"
    assert page.input_value("#steps") == "2" and page.input_value("#frames") == "9"
    made = [each for each in client.get("/v1/videos").json()["data"] if "a yellow ring" in each["prompt"]]
    changed, variation, first = (each["cogvideox"] for each in made)
    assert changed["inputs"]["video"] == made[2]["id"] and changed["settings"]["video_use"] == "change"
    assert changed["settings"]["strength"] == 0.6
    assert variation["settings"].pop("seed") != first["settings"].pop("seed")
    assert variation["settings"] == first["settings"]


def test_cancel(visit):
    page = visit()
    short(page, "a green cross rotates", steps="200", frames="33")
    page.click("#go")
    card(page, "a green cross rotates", "running").query_selector(".tools button").click()
    shown = card(page, "a green cross rotates", "cancelled")
    assert "Cancelled" in shown.text_content()
    assert "green cross" in page.text_content("#news")  # said to who cannot see it
    shown.query_selector("text=Use settings").click()
    assert page.input_value("#steps") == "200"


def test_settings_come_back_from_a_dropped_file(visit, client):
    name = client.create(
        "a cyan square moves up", steps=3, frames=9, seed=11, guidance=2.0, negative_prompt="a ring"
    )
    client.until(name, "completed")
    file = client.get(f"/v1/videos/{name}/content").body
    record = client.get(f"/v1/videos/{name}/content?variant=settings").body
    for dropped, data, kind in (("kept.mp4", file, "video/mp4"), ("kept.json", record, "application/json")):
        page = visit()
        drop(page, dropped, data, kind)
        page.wait_for_selector(f".notice:has-text('settings of {dropped}')", timeout=MINUTE)
        values = {
            each: page.input_value(f"#{each}") for each in ("prompt", "steps", "seed", "guidance", "negative")
        }
        assert values == {
            "prompt": "a cyan square moves up", "steps": "3", "seed": "11", "guidance": "2", "negative": "a ring",
        }  # fmt: skip
        assert page.input_value("#frames") == "9" and page.input_value("#width") == "32"
        assert page.is_hidden("#extras")
        page.click("#go")
        page.wait_for_selector(f".card:first-child:not([data-id={name}])")
        again = page.get_attribute(".card:first-child", "data-id")
        client.until(again, "completed")
        assert _frames(client, again) == _frames(client, name)
        client.ask("DELETE", f"/v1/videos/{again}")
    drop(page, "kept.mkv", file, "")  # a kind that the browser has no name for
    page.wait_for_selector(".notice:has-text('settings of kept.mkv')", timeout=MINUTE)
    page.click(".notice:has-text('kept.mkv') >> text=Use the video itself")
    page.wait_for_selector(".chip:has-text('kept.mkv'):has-text('Video')")
    drop(page, "other.json", b"{}", "application/json")
    page.wait_for_selector(".notice:has-text('other.json holds no settings')")


def _frames(client, name):
    archive = zipfile.ZipFile(io.BytesIO(client.get(f"/v1/videos/{name}/content?variant=frames").body))
    return [np.asarray(Image.open(archive.open(each))).tobytes() for each in archive.namelist()]


def test_a_reload_in_the_middle_loses_nothing(visit):
    page = visit()
    short(page, "a purple circle shrinks", steps="200", frames="33")
    page.click("#go")
    card(page, "a purple circle shrinks", "running")
    page.fill("#prompt", "not sent yet")
    page.fill("#seed", "77")
    page.reload()
    ready(page)
    assert page.input_value("#prompt") == "not sent yet" and page.input_value("#seed") == "77"
    assert page.input_value("#frames") == "33" and page.input_value("#steps") == "200"
    card(page, "a purple circle shrinks", "running").query_selector(".tools button").click()
    card(page, "a purple circle shrinks", "cancelled")


def test_two_tabs_show_the_same_and_a_delete_can_be_undone(visit, client, browser):
    name = client.create("two tabs of one person")
    client.until(name, "completed")
    context = browser.new_context()
    one, two = visit(context=context), visit(context=context)
    view(one, "two tabs of one person")
    one.click("#view-star")
    two.wait_for_selector(f".card[data-id={name}] .star[aria-pressed=true]")
    two.click(f".card[data-id={name}] .cover")
    two.wait_for_selector("#viewer[open]")
    one.click("#view-delete")
    two.wait_for_selector("#viewer", state="hidden")
    two.wait_for_selector(".notice:has-text('was deleted')")
    two.wait_for_selector(f".card[data-id={name}]", state="detached")
    one.click(".notice:has-text('Deleted') >> text=Undo")
    for page in (one, two):
        page.wait_for_selector(f".card[data-id={name}] .star[aria-pressed=true]")


def test_search_favourites_and_compare_in_step(visit, client):
    names = [client.create(f"a comparable ring number {each}", seed=each, frames=9) for each in (1, 2)]
    for name in names:
        client.until(name, "completed")
    client.ask("POST", f"/v1/videos/{names[0]}/favourite")
    page = visit()
    page.fill("#search", "comparable")
    page.wait_for_function("() => document.querySelectorAll('.card').length === 2")
    view(page, "number 1")
    page.click("#view-compare")
    page.wait_for_selector("#pick:visible")
    page.click('.card:has-text("number 2") .cover')
    page.wait_for_selector("#pair video >> nth=1")
    page.wait_for_function(
        "() => [...document.querySelectorAll('#pair video')].every((each) => each.readyState >= 2)"
    )
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    page.wait_for_function(
        "() => [...document.querySelectorAll('#pair video')].every((each) => !each.seeking)"
    )
    times = page.evaluate(
        "() => [...document.querySelectorAll('#pair video')].map((each) => each.currentTime)"
    )
    assert times[0] == times[1] > 0
    page.keyboard.press("Escape")
    page.click("#favourites")
    page.wait_for_function("() => document.querySelectorAll('.card').length === 1")
    page.fill("#search", "nothing is called so")
    page.wait_for_selector("#none:visible")


def test_a_video_is_seen_frame_by_frame_and_downloaded(visit, client):
    name = client.create("a frame by frame square", frames=9, height=64, width=64)
    client.until(name, "completed")
    page = visit()
    view(page, "a frame by frame square")
    page.keyboard.press("ArrowRight")  # it stops where it is
    before = frame_number(page)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert frame_number(page) == (before + 1) % 9 + 1
    page.keyboard.press("ArrowLeft")
    assert frame_number(page) == before % 9 + 1
    moment = page.evaluate("() => document.querySelector('#stage video').currentTime")
    assert int(moment * 8) == before % 9
    page.click("#view-sheet")
    page.wait_for_function("() => document.getElementById('sheet-image').naturalWidth > 0")
    kinds, names = {}, set()
    for link in page.query_selector_all("#viewer-downloads a"):
        page.click("#viewer-downloads summary")
        with page.expect_download() as download:
            link.click()
        name_of_file, _, ending = download.value.suggested_filename.rpartition(".")
        kinds[ending] = download.value.path()
        names.add(name_of_file)
    assert set(kinds) == {"mp4", "gif", "zip", "jpg", "json"}
    assert names == {f"a-frame-by-frame-square-{name[6:14]}"}
    page.click("#viewer-downloads summary")
    page.keyboard.press("Escape")  # closes the menu, then the video
    assert page.is_visible("#viewer") and page.is_hidden("#viewer-downloads a >> nth=0")
    page.keyboard.press("Escape")
    page.wait_for_selector("#viewer", state="hidden")
    with Image.open(kinds["gif"]) as animation:
        assert animation.n_frames == 9 and b"trainedAlgorithmicMedia" in animation.info["comment"]
    with zipfile.ZipFile(kinds["zip"]) as archive:
        assert len(archive.namelist()) == 9
        assert Image.open(archive.open("frame_0001.png")).size == (64, 64)
    assert not [*(client.out / "incoming").iterdir()]


def test_on_a_phone(visit):
    page = visit(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    short(page, "an orange triangle on a phone")
    page.tap("#go")
    view(page, "an orange triangle on a phone")
    for selector in ("#view-close", "#viewer .play", "#view-reuse", "#view-delete"):
        box = page.locator(selector).bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390 and box["height"] >= 40, selector
    page.tap("#view-close")
    for width in (390, 320):
        page.set_viewport_size({"width": width, "height": 640})
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width


def test_by_keyboard_alone(visit):
    page = visit()
    page.keyboard.type("a blue triangle by keys")  # the prompt has the focus
    page.keyboard.press("Enter")
    card(page, "a blue triangle by keys", "running")
    page.keyboard.press("Shift+Enter")
    assert page.input_value("#prompt").endswith("\n")
    shown = card(page, "a blue triangle by keys", "completed")
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("() => document.activeElement.matches('.card .cover')"):
            break
    ring = page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle")
    assert ring != "none"  # where one is can be seen
    page.keyboard.press("Enter")
    page.wait_for_selector("#viewer[open]")
    page.wait_for_selector("#stage video[src^=blob]")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("() => document.getElementById('viewer').contains(document.activeElement)")
    page.keyboard.press("f")
    page.wait_for_selector("#view-star[aria-pressed=true]")
    page.keyboard.press("Escape")
    page.wait_for_selector("#viewer", state="hidden")
    assert page.evaluate("() => document.activeElement.closest('.card').dataset.id") == shown.get_attribute(
        "data-id"
    )


def test_the_page_that_describes_the_api_is_styled(visit):
    page = visit()
    page.click("text=API")
    page.wait_for_selector("h2:has-text('POST /v1/videos')")
    assert "system-ui" in page.evaluate("() => getComputedStyle(document.body).fontFamily")


def test_colours_are_chosen_once(visit):
    page = visit(color_scheme="dark")
    ground = "() => getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    page.click("#theme")
    light = page.evaluate(ground)
    page.reload()
    ready(page)
    assert page.evaluate(ground) == light != dark


def test_it_is_light_and_quick(visit):
    paints = []
    page = visit()
    for _ in range(3):  # the machine may have other things to do
        page.reload()
        ready(page)
        paints.append(
            page.evaluate("() => performance.getEntriesByName('first-contentful-paint')[0].startTime")
        )
    weight = page.evaluate(
        """() => performance.getEntriesByType("resource").filter((each) => each.name.includes("/page/"))
            .reduce((sum, each) => sum + each.encodedBodySize, 0)"""
    )
    assert weight < 150_000 and min(paints) <= 1000, (weight, paints)


PIXEL = """() => {
    const canvas = document.getElementById("mask-canvas");
    return [...canvas.getContext("2d").getImageData(2, 2, 1, 1).data].slice(0, 3);
}"""


def test_a_mask_is_painted_on_the_frame_of_a_page_that_opened_itself(visit, tmp_path, monkeypatch):
    folder = write_model_folder(tmp_path / "inpainting", "inpaint")
    opener = tmp_path / "browser"
    opener.write_text(f'#!/bin/sh\nprintf %s "$1" > {tmp_path / "opened"}\n')
    opener.chmod(0o700)
    monkeypatch.setenv("BROWSER", f"{opener} %s")
    frames = np.full((9, 32, 48, 3), 200, np.uint8)
    Video(frames, 8).save(tmp_path / "grey.mp4")
    save_file(dotted("transformer."), tmp_path / "style.safetensors")
    adapter = ("--lora-alpha", "2", "--lora", f"style={tmp_path / 'style.safetensors'}")
    with studio(tmp_path, "--model", str(folder), *adapter, "--open", verb="studio") as server:
        server.ready()
        assert (tmp_path / "opened").read_text() == server.server.url
        page = visit(port=server.port)
        choose_file(page, "#add-video", tmp_path / "grey.mp4")
        page.wait_for_selector(".chip:not(.is-busy):has-text('Video')")
        page.click("text=Paint what is made anew")
        page.wait_for_selector("#mask[open]")
        box = page.locator("#mask-canvas").bounding_box()
        page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + box["height"] / 2)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + box["height"] / 2, steps=4)
        page.mouse.up()
        for _ in range(3):
            page.keyboard.press("ArrowRight")
        page.keyboard.press("Space")
        page.click("#mask-undo")
        page.click("#mask-done")
        page.wait_for_selector(".chip:not(.is-busy):has-text('Paint again')")
        page.fill("#prompt", "a red square moves")
        page.click("#more-toggle")
        page.fill("#steps", "2")
        page.get_by_label("style").fill("0.5")
        page.click("#go")
        card(page, "a red square moves", "completed")
        [made] = server.get("/v1/videos").json()["data"]
        page.reload()
        ready(page)
        page.click("text=Paint again")  # on the frame, also where the page no longer has the file
        page.wait_for_selector("#mask[open]")
        assert min(page.evaluate(PIXEL)) > 190
        page.click("#mask-cancel")
        inputs = made["cogvideox"]["inputs"]
        assert made["model"] == "inpainting" == server.get("/v1/models").json()["data"][0]["id"]
        assert str(tmp_path) not in server.get("/v1/videos").body.decode()  # nor any path of the operator
        assert set(inputs) == {"video", "mask"} and made["cogvideox"]["adapters"] == {"style": 0.5}
        mask = np.asarray(
            Image.open(io.BytesIO(server.get(f"/v1/inputs/{inputs['mask']}/content").body)).convert("L")
        )
        page.close()
    assert mask.shape == (32, 48)
    assert mask[16, 13] == 255 and mask[16, 18] == 255  # along the stroke
    assert mask[16, 40] == 0 and mask[1, 1] == 0  # what was undone, and what was never painted


def test_from_elsewhere_a_key_is_asked_for_once(browser, tmp_path):
    folder = StudioFolder(tmp_path / "studio")
    folder.make()
    key = create_key(VideoQueue(folder.database), "ann", 3, 10**9)
    with studio(tmp_path, "--allow-host", ELSEWHERE, verb="studio") as server:
        server.ready()
        page = browser.new_page()
        page.goto(f"http://{ELSEWHERE}:{server.port}/")
        page.wait_for_selector("#key[open]")
        page.keyboard.press("Escape")  # without a key there is nothing to see
        page.wait_for_selector("#key[open]")
        page.wait_for_timeout(500)
        assert page.is_hidden("#lost") and page.is_hidden("#sign-out")  # the server does answer
        page.fill("#key-value", "wrong")
        page.keyboard.press("Enter")
        page.wait_for_selector("#key-problem:has-text('not known')")
        page.fill("#key-value", key)
        page.keyboard.press("Enter")
        ready(page)
        short(page, "a ring of somebody elsewhere")
        page.click("#go")
        card(page, "a ring of somebody elsewhere", "completed")
        page.reload()
        ready(page)
        view(page, "a ring of somebody elsewhere")
        assert key not in page.content() and not page.evaluate("() => document.cookie")
        page.keyboard.press("Escape")
        page.click("#sign-out")
        page.wait_for_selector("#key[open]")
        page.close()


SCRIPTS = (
    "<script>window.ran=1</script>",
    "</script><script>window.ran=1</script>",
    "<img src=x onerror=window.ran=1>",
    "<img src=x onerror='window.ran=1' alt=\"'\">",
    '"><svg onload=window.ran=1>',
    "<svg><script>window.ran=1</script></svg>",
    "<svg><animate onbegin=window.ran=1 attributeName=x dur=1s>",
    "'-window.ran=1-'",
    '";window.ran=1;//',
    "`;window.ran=1;`",
    "${window.ran=1}",
    "{{constructor.constructor('window.ran=1')()}}",
    "javascript:window.ran=1",
    "data:text/html,<script>parent.ran=1</script>",
    "</title><script>window.ran=1</script>",
    "</textarea><script>window.ran=1</script>",
    "</style><script>window.ran=1</script>",
    "<iframe srcdoc='<script>parent.ran=1</script>'></iframe>",
    "<object data='javascript:window.ran=1'></object>",
    "<embed src='javascript:window.ran=1'>",
    "<details open ontoggle=window.ran=1>",
    "<body onload=window.ran=1>",
    "<input autofocus onfocus=window.ran=1>",
    "<video><source onerror=window.ran=1></video>",
    "<marquee onstart=window.ran=1>",
    "<form action=javascript:window.ran=1><button>x</button></form>",
    "<a href=javascript:window.ran=1 id=prompt>x</a>",
    "<base href='//elsewhere.invalid/'>",
    "<meta http-equiv=refresh content='0;url=javascript:window.ran=1'>",
    "<link rel=stylesheet href='//elsewhere.invalid/x.css'>",
    "<math><mtext></form><form><mglyph><style></math><img src onerror=window.ran=1>",
    "<noscript><p title='</noscript><img src=x onerror=window.ran=1>'>",
    "\\u003cscript\\u003ewindow.ran=1\\u003c/script\\u003e",
    "&lt;script&gt;window.ran=1&lt;/script&gt;",
    "%3Cscript%3Ewindow.ran=1%3C/script%3E",
    "\u202e<script>window.ran=1</script>",
    "<scr\u200bipt>window.ran=1</script>",
    "expression(window.ran=1)",
    "@import '//elsewhere.invalid/x.css';",
    "__proto__",
)


@pytest.fixture(scope="module")
def prompted(client, browser):
    """A page of somebody who has used every string as a prompt; the videos were cancelled at once."""
    for text in SCRIPTS:
        name = client.ask("POST", "/v1/videos", {"prompt": text}).json()["id"]
        client.ask("POST", f"/v1/videos/{name}/cancel")
    context = browser.new_context()
    watched = Watched(context.new_page()).begin()
    watched.page.goto(client.server.url)
    ready(watched.page)
    yield watched
    context.close()
    assert not watched.problems and watched.hosts() == {f"127.0.0.1:{client.port}"}


@pytest.mark.parametrize("text", SCRIPTS)
def test_scripts_in_prompts_and_names_of_files_are_text(prompted, text):
    page = prompted.page
    page.fill("#prompt", text)
    page.fill("#search", text)
    page.wait_for_function(
        "(text) => [...document.querySelectorAll('.said')].some((each) => each.textContent === text)",
        arg=text,
    )
    drop(page, f"{text}.json", b"not a record", "application/json")
    page.wait_for_function(
        """(text) => [...document.querySelectorAll(".notice")].some((each) => each.textContent.includes(text))""",
        arg=text,
    )
    assert page.evaluate("() => window.ran") is None
    count = "(selector) => document.querySelectorAll(selector).length"
    assert page.evaluate(count, "script") == 2
    assert page.evaluate(count, "iframe, object, embed, base, meta[http-equiv], .card a, .card script") == 0
