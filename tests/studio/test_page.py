"""Looking, in a real browser."""

from __future__ import annotations

import base64
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs fastapi")

from fakes import coloured
from instancefcn.studio.site import build_app
from served import Served, as_file, serving, watched

EVIL = "<img src=x onerror=\"document.title='broken'\">"
PNG = as_file(coloured())

pytestmark = pytest.mark.browser


class Site:
    """The application under a server, and its two models."""

    def __init__(self) -> None:
        self.finder, self.proposer = Served(names=(EVIL, "green")), Served()
        self.url = ""


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    site = Site()
    with serving(build_app(site.finder.worker(), site.proposer.worker())) as site.url:
        yield site


@pytest.fixture
def page(site: Site, browser: Any) -> Iterator[Any]:
    page = watched(browser, site.url)
    page.locator("#look-empty").wait_for()
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
    page.locator("#look").dispatch_event("drop", {"dataTransfer": transfer})


def shown(page: Any, text: str) -> None:
    page.locator("#viewer .count strong", has_text=text).wait_for()


def slide(page: Any, score: float) -> None:
    page.locator("#viewer input[type=range]").fill(str(score))


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


def test_proposals_are_made_of_the_same_image(site: Site, page: Any) -> None:
    drop(page, "a.png", PNG)
    shown(page, "2 of 2 shown")
    runs, proposed = site.finder.runs, site.proposer.runs
    page.get_by_text("Proposals").click()
    page.locator("#viewer .rows .name", has_text="red").first.wait_for()
    assert "onerror" not in page.locator("#viewer .rows").inner_text()
    assert (site.finder.runs, site.proposer.runs) == (runs, proposed + 1)


def test_an_example_is_clicked(page: Any) -> None:
    page.locator("#examples button img").nth(5).wait_for()
    page.locator("#examples button").first.click()
    page.locator("#viewer svg image").wait_for()
    assert re.fullmatch(r"\d+ of \d+ shown", page.locator("#viewer .count strong").inner_text())


def test_what_is_no_image_gives_a_message_and_the_next_can_come(page: Any) -> None:
    drop(page, "a.png", b"<script>no image</script>")
    page.get_by_text("this is not a supported image file: JPEG, PNG").wait_for()
    page.errors.clear()  # the browser notes the status 422
    drop(page, "b.png", PNG)
    shown(page, "2 of 2 shown")


def test_a_narrow_window_needs_no_scrolling_sideways(page: Any) -> None:
    page.set_viewport_size({"width": 380, "height": 800})
    drop(page, "a.png", PNG)
    shown(page, "2 of 2 shown")
    assert page.evaluate("document.documentElement.scrollWidth") <= 380


def test_classes_are_switched_off(page: Any) -> None:
    drop(page, "a.png", PNG)
    shown(page, "2 of 2 shown")
    page.locator("#viewer .chips button", has_text="green").click()
    shown(page, "1 of 2 shown")
    page.locator("#viewer .chips button", has_text="green").click()
    shown(page, "2 of 2 shown")


def test_without_labels_the_page_only_looks(page: Any) -> None:
    assert page.locator("main#label").is_hidden()
    assert page.locator(".modes").is_hidden()


def test_light_and_dark(site: Site, browser: Any) -> None:
    page = watched(browser, site.url, color_scheme="dark")
    page.locator("html[data-theme=dark]").wait_for()
    page.locator("#theme").click()
    page.locator("html[data-theme=light]").wait_for()
    page.reload()
    page.locator("html[data-theme=light]").wait_for()
    page.close()
