"""Images from a small web server on this machine."""

from __future__ import annotations

import io
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fakes import coloured
from instancefcn.errors import ImageError
from instancefcn.images.download import encoded, path_of, read_file_or_url, read_url


def png() -> bytes:
    content = io.BytesIO()
    coloured().save(content, format="PNG")
    return content.getvalue()


class Handler(BaseHTTPRequestHandler):
    agents: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.agents.append(self.headers["User-Agent"])
        kind = self.path.split("?")[0]
        if kind == "/missing.png":
            return self.send_error(404)
        if kind in ("/moved.png", "/to-ftp", "/to-file"):
            self.send_response(302)
            targets = {
                "/moved.png": "/a.png",
                "/to-ftp": "ftp://127.0.0.1/a",
                "/to-file": "file:///etc/passwd",
            }
            self.send_header("Location", targets[kind])
            return self.end_headers()
        self.send_response(200)
        body = b"not an image" if kind == "/text.png" else png()
        if kind == "/long.png":
            self.send_header("Content-Length", str(10**9))
        self.end_headers()
        for start in range(0, len(body), 100):
            if kind == "/slow.png":
                time.sleep(0.1)
            try:
                self.wfile.write(body[start : start + 100])
            except OSError:
                return None
        return None

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    web = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=web.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{web.server_port}"
    web.shutdown()
    web.server_close()
    thread.join()


@pytest.mark.parametrize("path", ["/a.png", "/moved.png", "/a%20b.png?size=1", "/Bär 1.png?größe=a b#x"])
def test_an_image(server: str, path: str) -> None:
    assert read_file_or_url(server + path).shape == (3, 80, 120)
    assert Handler.agents[-1].startswith("instancefcn/")


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("/missing.png", "404 Not Found"),
        ("/text.png", "text.png"),
        ("/long.png", "100 MB"),
        ("/to-ftp", "ftp"),
        ("/to-file", "302"),
    ],
)
def test_no_image(server: str, path: str, named: str) -> None:
    with pytest.raises(ImageError, match=named) as caught:
        read_url(server + path)
    assert server + path in str(caught.value)


def test_limits_hold_during_the_download(server: str) -> None:
    with pytest.raises(ImageError, match=r"a\.png.* MB"):
        read_url(f"{server}/a.png", max_bytes=200)
    with pytest.raises(ImageError, match=r"slow\.png.*0\.25 seconds"):
        read_url(f"{server}/slow.png", timeout=0.25)


def test_no_server_and_no_such_scheme(server: str) -> None:
    with pytest.raises(ImageError, match=r"127\.0\.0\.1:9/a\.png"):
        read_url("http://127.0.0.1:9/a.png")
    for url in ("file:///etc/passwd", "ftp://127.0.0.1/a.png", "data://x"):
        with pytest.raises(ImageError, match=re.escape(url)):
            read_url(url)


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ("https://example.org/a/cat.jpg?width=3#top", "/example.org/a/cat.jpg"),
        ("https://example.org/my%20cat.jpg", "/example.org/my cat.jpg"),
        ("https://example.org/%2e%2e/%2e%2e/cat.jpg", "/example.org/cat.jpg"),
        ("https://example.org", "/example.org/image"),
        ("photos/cat.jpg", "photos/cat.jpg"),
    ],
)
def test_names_of_results(source: str, path: str) -> None:
    assert path_of(source) == Path(path)


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("http://example.org/a%20b/c+d.png?x=1&y=%C3%A4", "http://example.org/a%20b/c+d.png?x=1&y=%C3%A4"),
        (
            "https://me:p%40ss@bücher.example:8080/Bär 1.png?größe=a b",
            "https://me:p%40ss@xn--bcher-kva.example:8080/B%C3%A4r%201.png?gr%C3%B6%C3%9Fe=a%20b",
        ),
        ("http://[::1]:80/a.png", "http://[::1]:80/a.png"),
    ],
)
def test_addresses_are_encoded_once(url: str, sent: str) -> None:
    assert encoded(url) == sent
    assert encoded(sent) == sent


@pytest.mark.parametrize("url", [f"http://{'ä' * 70}.example/a.png", "http://exam ple.org/a.png"])
def test_invalid_addresses(url: str) -> None:
    with pytest.raises(ImageError, match=re.escape(url)):
        read_url(url)
