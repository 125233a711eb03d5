"""Images from the web: one request each, limited in size and time, nothing stored."""

from __future__ import annotations

import http.client
import io
import time
import urllib.error
import urllib.request
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from torch import Tensor

from instancefcn.errors import ImageError
from instancefcn.images.decoding import DecodedImage, decode_page
from instancefcn.images.opening import describe_error
from instancefcn.images.pages import split_page, with_page
from instancefcn.version import __version__

MAX_BYTES = 100 * 2**20
"""Maximum size of a download."""
TIMEOUT = 30.0
"""Seconds for a whole download."""


def is_url(source: object) -> bool:
    """Whether this is a string such as `https://...`, with any scheme."""
    return isinstance(source, str) and "://" in source


def read_file_or_url(source: str | Path) -> Tensor:
    """Decode an image file or an http(s) URL: see `read_image`.

    Raises:
        ImageError: it cannot be read or is not an image.
    """
    return decode_file_or_url(source).pixels


def decode_file_or_url(source: str | Path) -> DecodedImage:
    """As `read_file_or_url`, with the number of pages."""
    if isinstance(source, str) and is_url(source):
        return decode_page(source, _content_of(source, MAX_BYTES, TIMEOUT))
    return decode_page(source)


def read_url(url: str, max_bytes: int = MAX_BYTES, timeout: float = TIMEOUT) -> Tensor:
    """Download an image and decode it as `read_image` does.

    Args:
        url: http or https, also after redirections; it may contain spaces and non-ASCII letters.
        max_bytes: a longer response is refused.
        timeout: seconds for the whole download.

    Raises:
        ImageError: another scheme, no response, an error status, a response that is too long or not an image.
    """
    return decode_page(url, _content_of(url, max_bytes, timeout)).pixels


def _content_of(url: str, max_bytes: int, timeout: float) -> bytes:
    """Download a file: see `read_url`."""
    try:
        return _download(url, max_bytes, timeout)
    except urllib.error.HTTPError as error:
        error.close()
        raise ImageError(f"{url}: the server answered {error.code} {error.reason}") from error
    except urllib.error.URLError as error:
        raise ImageError(f"{url}: cannot be reached ({error.reason})") from error
    except TimeoutError as error:
        raise ImageError(f"{url}: did not arrive within {timeout:g} seconds") from error
    except (http.client.InvalidURL, UnicodeError) as error:
        raise ImageError(f"{url}: is not a valid address ({error})") from error
    except Exception as error:
        raise ImageError(f"{url}: {describe_error(error)}") from error


def path_of(source: str | Path) -> Path:
    """The path that results are named after: for a URL, its host and path; a page belongs to the name, not
    to the suffix.
    """
    if not isinstance(source, str) or not is_url(source):
        file, page = split_page(source)
        path = Path(file)
        if file == source:
            return path
        return path.with_name(with_page(path.stem, page) + path.suffix)
    parts = urlsplit(source)
    inside = PurePosixPath(unquote(parts.path).replace("\\", "/").strip("/") or "image")
    clean = [part.replace("\0", "") for part in inside.parts if part not in (".", "..")]
    return Path("/", parts.hostname or "", *(clean or ["image"]))


def encoded(url: str) -> str:
    """A URL as it is sent: ASCII only, with existing percent-encoding unchanged (RFC 3986 and 3490).

    Raises:
        UnicodeError: the host is not a valid name.
    """
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    netloc = quote(user, safe="%:!$&'()*+,;=") + at + host.encode("idna").decode("ascii")
    path = quote(parts.path, safe="/%:@!$&'()*+,;=~")
    return urlunsplit((parts.scheme, netloc, path, quote(parts.query, safe="/?%:@!$&'()*+,;=~[]"), ""))


def _opener() -> urllib.request.OpenerDirector:
    """An opener of http and https only, so that no redirection leads to a file or to ftp."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    opener.addheaders = [("User-Agent", f"instancefcn/{__version__}")]
    return opener


def _download(url: str, max_bytes: int, timeout: float) -> bytes:
    if urlsplit(url).scheme.lower() not in ("http", "https"):
        raise ImageError("only http and https addresses are supported")
    deadline = time.monotonic() + timeout
    with _opener().open(encoded(url), timeout=timeout) as answer:
        _refuse_long(int(answer.headers.get("Content-Length") or 0), max_bytes)
        content = io.BytesIO()
        while piece := _read_some(answer):
            content.write(piece)
            _refuse_long(content.tell(), max_bytes)
            if time.monotonic() > deadline:
                raise TimeoutError
        return content.getvalue()


def _read_some(answer: Any) -> bytes:
    # read1 returns what has arrived, so the deadline holds even if the server sends byte by byte.
    return answer.read1(2**16)


def _refuse_long(length: int, max_bytes: int) -> None:
    if length > max_bytes:
        raise ImageError(f"is longer than {max_bytes / 2**20:g} MB")
