"""Take docs/images/app.png: the web page with a bundled photograph, in a browser without a window.

    python tools/screenshot_app.py [--out docs/images/app.png]

Needs the extra `app`, playwright, and Chromium or Chrome on the machine.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from instancefcn.files import atomic_write

EXAMPLE = 3
"""The terrapins: three objects, one of them cut by the border."""

LIMIT = 400_000
MINUTES = 5 * 60_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/images/app.png"))
    arguments = parser.parse_args()
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        raise SystemExit("there is no Chromium or Chrome on this machine")
    command = [sys.executable, "-m", "instancefcn", "app", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server, sync_playwright() as driver:
        try:
            assert server.stdout is not None
            address = re.match(r"http://\S+", server.stdout.readline())
            if address is None:
                raise SystemExit("the page did not start")
            options = ["--no-sandbox"] if os.geteuid() == 0 else []
            browser = driver.chromium.launch(executable_path=program, args=options)
            page = browser.new_page(viewport={"width": 1040, "height": 940})
            page.goto(address[0])
            with atomic_write(arguments.out) as temporary:
                take(page, temporary)
            browser.close()
        finally:
            server.terminate()
    print(f"{arguments.out}: {arguments.out.stat().st_size:,} bytes")


def take(page: Page, path: Path) -> None:
    """One object pointed at, one switched off."""
    page.locator("#examples button").nth(EXAMPLE).click()
    rows = page.locator("#viewer .rows button:visible")
    rows.first.wait_for(timeout=MINUTES)  # the first image pays for loading and compiling
    rows.nth(2).click()
    page.locator("#viewer g[data-index='0'] .mask").hover()
    page.wait_for_timeout(500)
    page.screenshot(path=path)
    # A photograph needs no more colours than these.
    with Image.open(path) as image:
        small = image.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=3)
    small.save(path, "PNG", optimize=True)
    if path.stat().st_size > LIMIT:
        raise SystemExit(f"{path.stat().st_size:,} bytes are more than {LIMIT:,}: make the window smaller")


if __name__ == "__main__":
    main()
