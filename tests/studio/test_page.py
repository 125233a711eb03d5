"""The page in a real browser, and what it must not do for a client that is none."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import shutil
import socket
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio", reason="needs gradio")

import httpx
import uvicorn

from fakes import coloured
from instancefcn.studio.app import build_app
from served import Served, as_file

EVIL = "<img src=x onerror=\"document.title='broken'\">"
PNG = as_file(coloured())


class Site:
    """The application under a real server, and its two models."""

    def __init__(self) -> None:
        self.finder, self.proposer = Served(names=(EVIL, "green")), Served()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.server: uvicorn.Server | None = None
        self.thread = threading.Thread(target=asyncio.run, args=(self._serve(),))
        self.thread.start()
        # Until then no test goes on: FastAPI silences a warning with filters that are the process's, and
        # pytest changes them between tests.
        while self.server is None or not self.server.started:
            assert self.thread.is_alive(), "the server did not start"
            time.sleep(0.02)

    async def _serve(self) -> None:
        # Built where a loop runs: Gradio would make loops of its own and leave them open.
        app = build_app(self.finder.worker(), self.proposer.worker())
        self.server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        await self.server.serve(sockets=[self.listener])

    def close(self) -> None:
        assert self.server is not None
        self.server.should_exit = self.server.force_exit = True
        self.thread.join(20)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs: pip install playwright")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("needs a browser: chromium or google-chrome")
    # A browser refuses to run as root in its sandbox, as containers would have it.
    options = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=options)
        yield browser
        browser.close()


@pytest.fixture
def page(site: Site, browser: Any) -> Iterator[Any]:
    page = browser.new_page(viewport={"width": 1100, "height": 800})
    page.set_default_timeout(30_000)
    page.errors, page.elsewhere = [], []
    page.on("pageerror", lambda error: page.errors.append(error))
    own = (site.url, "data:", "blob:")
    page.on("request", lambda request: request.url.startswith(own) or page.elsewhere.append(request.url))
    page.goto(site.url)
    page.locator("#viewer .empty").wait_for()
    yield page
    page.close()
    assert page.errors == []
    assert page.elsewhere == []


def drop(page: Any, name: str, data: bytes) -> None:
    """Drop a file as a mouse does."""
    transfer = page.evaluate_handle(
        """([name, text]) => {
            const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], name, {type: "image/png"}));
            return transfer;
        }""",
        [name, base64.b64encode(data).decode("ascii")],
    )
    page.locator("#drop button").first.dispatch_event("drop", {"dataTransfer": transfer})


def shown(page: Any, text: str) -> None:
    page.locator("#viewer .count strong", has_text=text).wait_for()


def slide(page: Any, score: float) -> None:
    page.locator("#viewer input[type=range]").fill(str(score))


@pytest.mark.browser
def test_drop_slide_switch_and_download(site: Site, page: Any, tmp_path: Path) -> None:
    drop(page, "my photo.png", PNG)
    shown(page, "2 of 2 shown")
    runs = site.finder.runs

    # The slider and the switches work on what is there.
    slide(page, 0.7)
    shown(page, "1 of 2 shown")
    red = page.locator("#viewer g[data-index='0']")
    red.hover()
    assert page.locator("#viewer .tip").inner_text() == f"{EVIL} 0.90"
    red.click()
    shown(page, "0 of 2 shown")
    assert page.locator("#viewer a.json").get_attribute("href") is None
    slide(page, 0.3)
    shown(page, "1 of 2 shown")

    with page.expect_download() as download:
        page.locator("#viewer a.json").click()
    assert download.value.suggested_filename == "my_photo.json"
    document = json.loads(Path(download.value.path()).read_text())
    assert [one["class"] for one in document["instances"]] == ["green"]
    assert (document["width"], document["height"]) == (120, 80)

    page.locator("#viewer .rows button").first.click()
    shown(page, "2 of 2 shown")
    with page.expect_download() as download:
        page.locator("#viewer a.cutouts").click()
    with zipfile.ZipFile(download.value.path()) as archive:
        assert [name.split("-")[0] for name in archive.namelist()] == ["001", "002"]

    page.locator("#viewer .all").click()
    shown(page, "0 of 2 shown")
    assert site.finder.runs == runs
    # The class's name was text all the time.
    assert page.locator("#viewer .rows .name").first.inner_text() == EVIL
    assert page.title() == "instancefcn"
    assert page.locator("#viewer img").count() == 0


@pytest.mark.browser
def test_proposals_are_made_of_the_same_image(site: Site, page: Any) -> None:
    drop(page, "a.png", PNG)
    shown(page, "2 of 2 shown")
    runs, proposed = site.finder.runs, site.proposer.runs
    page.get_by_text("Proposals").click()
    page.locator("#viewer .rows .name", has_text="red").first.wait_for()
    page.wait_for_function("!document.querySelector('#viewer .rows').textContent.includes('onerror')")
    assert (site.finder.runs, site.proposer.runs) == (runs, proposed + 1)


@pytest.mark.browser
def test_an_example_is_clicked(page: Any) -> None:
    page.locator("#examples button img").nth(5).wait_for()
    page.locator("#examples button").first.click()
    page.locator("#viewer .result").wait_for()
    assert re.fullmatch(r"\d+ of \d+ shown", page.locator("#viewer .count strong").inner_text())


@pytest.mark.browser
def test_what_is_no_image_gives_a_message_and_the_next_can_come(page: Any) -> None:
    drop(page, "a.png", b"<script>no image</script>")
    page.get_by_text("this is not a supported image file: JPEG, PNG").wait_for()
    drop(page, "b.png", PNG)
    shown(page, "2 of 2 shown")


@pytest.mark.browser
def test_a_narrow_window_needs_no_scrolling_sideways(page: Any) -> None:
    page.set_viewport_size({"width": 380, "height": 800})
    drop(page, "a.png", PNG)
    shown(page, "2 of 2 shown")
    assert page.evaluate("document.documentElement.scrollWidth") <= 380


def call(site: Site, data: list[Any]) -> str:
    """Everything that the server says to a hand-made call of the page's first event."""
    body = {"data": data, "fn_index": 0, "session_hash": f"x{time.monotonic_ns()}"}
    with httpx.Client(base_url=site.url, timeout=30) as client:
        joined = client.post("/gradio_api/queue/join", json=body)
        if joined.status_code != 200:
            return joined.text
        said = ""
        session = {"session_hash": body["session_hash"]}
        with client.stream("GET", "/gradio_api/queue/data", params=session) as lines:
            for line in lines.iter_lines():
                said += line + "\n"
                if "process_completed" in line:
                    break
        return said


def test_no_path_of_a_client_is_opened(site: Site, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(PNG)
    runs = site.finder.runs
    said = call(site, [{"path": str(secret), "meta": {"_type": "gradio.FileData"}}, "predict"])
    assert '"success":false' in said
    assert site.finder.runs == runs
    answer = httpx.get(f"{site.url}/gradio_api/file={secret}")
    assert answer.status_code in (403, 404)


def test_large_uploads_are_refused(site: Site) -> None:
    files = {"files": ("a.png", PNG + bytes(20_000_001))}
    assert httpx.post(f"{site.url}/gradio_api/upload", files=files, timeout=30).status_code == 413


def test_the_page_offers_no_interface_of_its_own(site: Site) -> None:
    info = httpx.get(f"{site.url}/gradio_api/info", timeout=30).json()
    assert info == {"named_endpoints": {}, "unnamed_endpoints": {}}
    assert httpx.get(f"{site.url}/docs").status_code == 404
