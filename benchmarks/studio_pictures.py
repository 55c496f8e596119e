"""The pictures of the studio in docs/images: the gallery, a video, a phone. Needs Playwright and Chromium.

    python benchmarks/studio_pictures.py           docs/images/studio-gallery.png, studio-viewer.png, studio-phone.png

Makes eight videos with the shipped model, prompt n with seed n; a minute on two cores.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]


def main() -> None:
    """See the module's docstring."""
    from readme_picture import PROMPTS

    from support.browser import chromium
    from support.studio_client import studio

    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images")
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as folder, studio(Path(folder), verb="studio") as client:
        client.ready()
        for seed, prompt in reversed(list(enumerate(PROMPTS))):
            body = {"prompt": prompt, "cogvideox": {"seed": seed}}
            name = client.ask("POST", "/v1/videos", body).json()["id"]
            client.until(name, "completed", seconds=120)
        with chromium() as browser:
            page = browser.new_context(viewport={"width": 1280, "height": 760}).new_page()
            page.goto(f"http://127.0.0.1:{client.port}/")
            page.wait_for_selector("#plan:not(:empty)")
            page.wait_for_timeout(1500)  # thumbnails
            page.screenshot(path=out / "studio-gallery.png")
            page.click(".card .cover")
            page.wait_for_selector("#stage video[src^=blob]")
            page.get_by_role("button", name="Contact sheet").click()
            page.wait_for_timeout(1500)
            page.screenshot(path=out / "studio-viewer.png")
            phone = browser.new_context(viewport={"width": 390, "height": 844}, is_mobile=True).new_page()
            phone.goto(f"http://127.0.0.1:{client.port}/")
            phone.wait_for_selector("#plan:not(:empty)")
            phone.wait_for_timeout(1500)
            phone.screenshot(path=out / "studio-phone.png")


if __name__ == "__main__":
    main()
