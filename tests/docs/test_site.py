"""The site is whole and asks no other host for anything."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from documented import ROOT

pytest.importorskip("mkdocs", reason="needs the extra: pip install '.[docs]'")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site, as `make docs` builds it."""
    import subprocess
    import sys

    folder = tmp_path_factory.mktemp("site")
    # A process of its own: it replaces warnings' filters and logging.
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 10
    for page in pages:
        tags = re.findall(r"<(?:script|img|link|iframe|source)\b[^>]*>", page.read_text(encoding="utf-8"))
        foreign = [tag for tag in tags if re.search(r'(?:src|href)="?(?:https?:)?//', tag)]
        assert foreign == [], page


def test_equations_are_drawn_by_the_browser(site: Path) -> None:
    text = (site / "how-it-works.html").read_text(encoding="utf-8")
    assert text.count("<math ") > 5
    assert "\\frac" not in text


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site))) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.browser
def test_in_a_browser(address: str, browser: Any) -> None:
    """Every request goes to the site itself, and is answered; nothing is wider than the window."""
    bad: list[str] = []

    def asked(request: Any) -> None:
        if not request.url.startswith((f"{address}/", "data:", "blob:")):
            bad.append(request.url)

    def answered(answer: Any) -> None:
        if answer.status >= 400:
            bad.append(f"{answer.status} {answer.url}")

    with browser.new_page(viewport={"width": 1200, "height": 800}) as page:
        page.on("request", asked)  # those that come to nothing, too
        page.on("response", answered)
        page.on("pageerror", lambda error: bad.append(str(error)))
        for name in ("index", "how-it-works", "check", "commands"):
            page.goto(f"{address}/{name}.html", wait_until="load")
            assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)"), name
            assert page.evaluate("document.documentElement.scrollWidth") <= 1200, name
        page.goto(f"{address}/index.html")
        page.locator("input.md-search__input").click()
        page.keyboard.type("anchors")
        page.locator(".md-search-result__item a").first.wait_for(timeout=20_000)
    assert bad == []
