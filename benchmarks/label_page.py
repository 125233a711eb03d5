"""Bounds of the page that labels: a list of many images, a large photograph, many objects in it.

    python benchmarks/label_page.py [--images 20000] [--megapixels 24] [--objects 1000] [--json FILE]

In a real browser: seconds to open the data set ("start"), until the list is there ("list"), to open the
photograph with its objects ("open"), and milliseconds between frames while it is moved and zoomed (median and
95th percentile). No model runs.
Needs the extra `app`, playwright, and Chromium or Chrome on the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import shutil
import socket
import statistics
import tempfile
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from instancefcn.studio.labelling.opening import open_labels
from instancefcn.studio.labelling.session import Session
from instancefcn.studio.site import build_app, workers
from results import write_result

FRAMES = """(count) => new Promise((done) => {
    const times = [];
    const frame = (now) => {
        times.push(now);
        if (times.length > count) done(times); else requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
})"""


class Blind:
    """A model that sees nothing."""

    class_names: tuple[str, ...] = ()

    def maps(self, image: Any) -> str:
        return "nothing"

    def proposals(self, maps: Any, **_: Any) -> list[Any]:
        return []

    def at_point(self, *_: Any) -> list[Any]:
        return []

    in_box: Any = None


def write_data(folder: Path, images: int, megapixels: float, objects: int) -> None:
    """A COCO data set whose first image is large and full of discs of 60 points; the others are one file."""
    width, height = round(math.sqrt(megapixels * 1.5e6)), round(math.sqrt(megapixels / 1.5 * 1e6))
    (folder / "images").mkdir(parents=True)
    draw = np.random.default_rng(0)
    coarse = draw.integers(0, 255, (height // 40, width // 40, 3), np.uint8)
    Image.fromarray(coarse).resize((width, height)).save(folder / "images" / "00000.jpg", quality=90)
    Image.fromarray(coarse).save(folder / "images" / "00001.jpg")
    records = [{"id": 1, "file_name": "00000.jpg", "width": width, "height": height}]
    for number in range(2, images + 1):
        name = f"{number - 1:05}.jpg"
        if number > 2:
            os.link(folder / "images" / "00001.jpg", folder / "images" / name)
        records.append({"id": number, "file_name": name, "width": coarse.shape[1], "height": coarse.shape[0]})
    angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    annotations = []
    for number in range(1, objects + 1):
        radius = draw.uniform(20, 90)
        x, y = draw.uniform(100, width - 100), draw.uniform(100, height - 100)
        ring = np.stack((x + radius * np.cos(angles), y + radius * np.sin(angles)), 1).reshape(-1)
        outline = {"segmentation": [ring.round(2).tolist()], "iscrowd": 0}
        annotations.append({"id": number, "image_id": 1, "category_id": 1, **outline})
    categories = [{"id": 1, "name": "disc"}]
    text = json.dumps({"images": records, "annotations": annotations, "categories": categories})
    (folder / "train.json").write_text(text)


def frame_times(page: Page, wheel: int, steps: int = 60) -> list[float]:
    """Milliseconds between frames while the image is zoomed, or moved (`wheel` 0)."""
    started = page.evaluate_handle(f"({{times: ({FRAMES})(90)}})")
    page.mouse.move(640, 400)
    if not wheel:
        page.mouse.down(button="middle")
    for step in range(steps):
        if wheel:
            page.mouse.wheel(0, wheel if step < steps / 2 else -wheel)
        else:
            page.mouse.move(640 + 3 * (step % 30), 400 + 2 * (step % 30))
    page.mouse.up(button="middle")
    times = page.evaluate("async (held) => await held.times", started)
    return [b - a for a, b in pairwise(times)]


def measure(page: Page, url: str) -> dict[str, float]:
    """The figures of one page."""
    start = time.perf_counter()
    page.goto(url)
    page.locator("#list .item").first.wait_for()
    listed = time.perf_counter() - start
    page.locator("#search").fill("00000")
    page.locator("#list .item", has_text="00000.jpg").wait_for()
    start = time.perf_counter()
    with page.expect_response("**/whole.jpg"):
        page.locator("#list .item").first.click()
    page.locator("#objects .item").first.wait_for()
    opened = time.perf_counter() - start
    figures = {"list": listed, "open": opened}
    for name, wheel in (("pan", 0), ("zoom", -60)):
        gaps = sorted(frame_times(page, wheel))
        figures[name] = statistics.median(gaps)
        figures[f"{name}_95"] = gaps[int(0.95 * len(gaps))]
    return {key: round(value, 3) for key, value in figures.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--megapixels", type=float, default=24)
    parser.add_argument("--objects", type=int, default=1000)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        raise SystemExit("there is no Chromium or Chrome on this machine")
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        write_data(data, options.images, options.megapixels, options.objects)
        start = time.perf_counter()
        session = Session(open_labels(data, Path(folder) / "out", []), None, lambda model: Blind())
        figures = {"start": round(time.perf_counter() - start, 3)}
        listener = socket.create_server(("127.0.0.1", 0))
        app = build_app(*workers(None), session)
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        thread = threading.Thread(target=asyncio.run, args=(server.serve(sockets=[listener]),))
        thread.start()
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=program, args=arguments)
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            page.set_default_timeout(120_000)
            figures |= measure(page, f"http://127.0.0.1:{listener.getsockname()[1]}")
            browser.close()
        server.should_exit = True
        thread.join()
        session.close()
    for name, value in figures.items():
        print(f"{name:10} {value:.3f}")
    if options.json is not None:
        sizes = {name: getattr(options, name) for name in ("images", "megapixels", "objects")}
        write_result(options.json, {**sizes, "page": figures})


if __name__ == "__main__":
    main()
