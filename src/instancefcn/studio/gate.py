"""Who may talk to the server, and what the page may load."""

from __future__ import annotations

import secrets
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "instancefcn"

_HEADERS = {
    # Nothing is loaded from elsewhere, and no other site may frame the page.
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; object-src 'none';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class Gate:
    """Lets requests through that name a known host and, where there is one, the token.

    A site elsewhere can point a name of its own at this computer and have a browser here call it: such a
    call has another Host. The token comes in the first address and is then a cookie.

    Args:
        app: what lies behind.
        hosts: names by which the server may be called, without ports; none: any.
        token: "" lets everybody in.
    """

    def __init__(self, app: ASGIApp, hosts: tuple[str, ...] = (), token: str = "") -> None:
        self.app, self.hosts, self.token = app, hosts, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if self.hosts and _name(headers.get("host", "")) not in self.hosts:
            await JSONResponse({"error": "this server is called by another name"}, 421)(scope, receive, send)
            return
        if self.token and not self._knows(headers.get("cookie", "")):
            given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
            if not secrets.compare_digest(given.encode(), self.token.encode()):
                await JSONResponse({"error": "open the address that the program printed"}, 403)(
                    scope, receive, send
                )
                return
            entered = RedirectResponse(scope["path"], 303)
            entered.set_cookie(COOKIE, self.token, httponly=True, samesite="strict")
            await entered(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await self.app(scope, receive, guarded)

    def _knows(self, cookie: str) -> bool:
        try:
            found = SimpleCookie(cookie).get(COOKIE)
        except CookieError:
            return False
        return found is not None and secrets.compare_digest(found.value.encode(), self.token.encode())


class BodyLimit:
    """Refuses requests below a path whose body is too large or of unknown length, before any of it is read.

    Args:
        app: what lies behind.
        path: where the limit holds.
        most: bytes.
    """

    def __init__(self, app: ASGIApp, path: str, most: int) -> None:
        self.app, self.path, self.most = app, path, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        limited = (
            scope["type"] == "http" and scope["method"] == "POST" and scope["path"].startswith(self.path)
        )
        if not limited or (refusal := self._refusal(Headers(scope=scope).get("content-length"))) is None:
            await self.app(scope, receive, send)
        else:
            await refusal(scope, receive, send)

    def _refusal(self, length: str | None) -> JSONResponse | None:
        if length is None or not (length.isascii() and length.isdecimal()):
            return JSONResponse({"error": "the request needs a Content-Length"}, 411)
        if len(length) > 12 or int(length) > self.most:
            return JSONResponse({"error": f"a request may have {self.most // 1_000_000} MB"}, 413)
        return None


def _name(host: str) -> str:
    """A Host header without its port and the brackets of an address."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]
