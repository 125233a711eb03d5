"""Take the screenshots of the web page, in a browser without a window.

    python tools/screenshots.py [--out docs/images] [--only app|label]

app.png shows the bundled photograph of three terrapins, label.png an image half labelled, and label.gif how
it came to that. Needs the extra `app`, playwright, and Chromium or Chrome on the machine.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw
from playwright.sync_api import Page, sync_playwright

from instancefcn.files import atomic_write

EXAMPLE = 3
"""The terrapins: three objects, one of them cut by the border."""

LIMITS = {"app.png": 400_000, "label.png": 500_000, "label.gif": 3_000_000}
MINUTES = 5 * 60_000
FRAME = (960, 600)
"""Size of a frame of label.gif."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--only", choices=("app", "label"))
    arguments = parser.parse_args()
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        raise SystemExit("there is no Chromium or Chrome on this machine")
    with sync_playwright() as driver, tempfile.TemporaryDirectory() as folder:
        options = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = driver.chromium.launch(executable_path=program, args=options)
        if arguments.only != "label":
            with served("app") as address:
                page = opened(browser, address, (1040, 820))
                look(page)
                save_png(page.screenshot(), arguments.out / "app.png")
        if arguments.only != "app":
            photos = Path(folder) / "photos"
            shutil.copytree(str(files("instancefcn") / "assets" / "demo"), photos)
            with served("label", str(photos), "--classes", "turtle,deer,tiger,otter") as address:
                page = opened(browser, address, (1280, 800))
                frames = Frames(page)
                label(page, frames)
                save_png(page.screenshot(), arguments.out / "label.png")
                frames.save(arguments.out / "label.gif")
        browser.close()
    for name, limit in LIMITS.items():
        size = (arguments.out / name).stat().st_size
        print(f"{arguments.out / name}: {size:,} bytes")
        if size > limit:
            raise SystemExit(f"{size:,} bytes are more than {limit:,}: show less")


@contextmanager
def served(*words: str) -> Iterator[str]:
    """The address of `instancefcn WORDS... --port 0`."""
    command = [sys.executable, "-m", "instancefcn", *words, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            lines = (re.match(r"http://\S+", line) for line in server.stdout)
            address = next(filter(None, lines), None)
            if address is None:
                raise SystemExit("the page did not start")
            yield address[0]
        finally:
            server.terminate()


def opened(browser: Any, address: str, size: tuple[int, int]) -> Page:
    """The page, in a light window of this size."""
    page: Page = browser.new_page(viewport={"width": size[0], "height": size[1]}, color_scheme="light")
    page.set_default_timeout(MINUTES)  # the first image pays for loading and compiling
    page.goto(address)
    return page


def look(page: Page) -> None:
    """One object pointed at, one switched off."""
    page.locator("#examples button").nth(EXAMPLE).click()
    rows = page.locator("#viewer .rows button:visible")
    rows.first.wait_for()
    rows.nth(2).click()
    page.locator("#viewer g[data-index='0'] .mask").hover()
    page.wait_for_timeout(500)


class Frames:
    """Screenshots one after the other, with a pointer drawn where the mouse is."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.images: list[Image.Image] = []
        self.times: list[int] = []
        self.mouse = (700.0, 700.0)

    def move(self, x: float, y: float, steps: int = 3) -> None:
        """Move the mouse to a point of the image, on film."""
        scale, left, top = map(float, str(self.page.locator("#stage").get_attribute("data-view")).split())
        box = self.page.locator("#stage").bounding_box()
        assert box is not None
        goal = (box["x"] + left + scale * x, box["y"] + top + scale * y)
        start = self.mouse
        for step in range(1, steps + 1):
            self.mouse = tuple(a + (b - a) * step / steps for a, b in zip(start, goal, strict=True))  # type: ignore[assignment]
            self.page.mouse.move(*self.mouse)
            self.page.wait_for_timeout(250)
            self.take(140)

    def take(self, milliseconds: int) -> None:
        """One frame, shown for so long."""
        image = Image.open(BytesIO(self.page.screenshot())).convert("RGB")
        arrow = [(0, 0), (0, 20), (5, 15), (9, 23), (12, 21), (8, 14), (14, 14)]
        points = [(self.mouse[0] + x, self.mouse[1] + y) for x, y in arrow]
        ImageDraw.Draw(image).polygon(points, fill="white", outline="black")
        self.images.append(image.resize(FRAME, Image.Resampling.LANCZOS))
        self.times.append(milliseconds)

    def save(self, path: Path) -> None:
        """Write an animated GIF file; all frames share the colours of the last."""
        palette = self.images[-1].quantize(256, Image.Quantize.MEDIANCUT)
        frames = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in self.images]
        with atomic_write(path) as temporary:
            frames[0].save(
                temporary,
                "GIF",
                save_all=True,
                append_images=frames[1:],
                duration=self.times,
                loop=0,
                optimize=True,
            )


def label(page: Page, frames: Frames) -> None:
    """Three terrapins: one pointed at and accepted, two boxed."""
    page.locator("#list .item", has_text="terrapins").click()
    page.locator("#where", has_text="terrapins").wait_for()
    page.locator("#foot-text", has_text="suggestion").wait_for()
    page.locator("#score").fill("1")
    frames.take(900)
    frames.move(412, 220)
    page.wait_for_timeout(900)
    frames.take(1100)
    page.mouse.click(*frames.mouse)
    page.wait_for_timeout(500)
    frames.take(700)
    for corner, opposite, shown in (((474, 74), (639, 325), 1100), ((1, 475), (162, 639), 1600)):
        frames.move(*corner)
        page.mouse.down()
        frames.move(*opposite, 5)
        page.mouse.up()
        page.wait_for_timeout(1200)
        frames.take(shown)


def save_png(data: bytes, path: Path) -> None:
    """Write a screenshot with 256 colours: a photograph needs no more."""
    small = Image.open(BytesIO(data)).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=3)
    with atomic_write(path) as temporary:
        small.save(temporary, "PNG", optimize=True)


if __name__ == "__main__":
    main()
