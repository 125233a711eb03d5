"""The HTTP API: an image in the body of a POST, JSON in the answer; and the downloads of the page."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Sequence
from typing import Annotated, Literal

from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.requests import ClientDisconnect

from instancefcn.errors import ConfigError, ImageError, InstanceFCNError
from instancefcn.inference.predictor import DEFAULT_SCORE
from instancefcn.inference.request import names_of
from instancefcn.inference.writers import prediction
from instancefcn.studio.results import Kept, safe_name, write_cutouts
from instancefcn.studio.service import MAX_BYTES, BusyError, ModelQueue, Turns

BODY_SECONDS = 60
"""How long a body may take to arrive: until then it holds a place in the queue."""

_OTHERS = ("GET", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE")
"""Methods that images are not sent by."""

Score = Annotated[float, Query(ge=0, le=1)]
Top = Annotated[int, Query(ge=1, le=1000)]
MaxObjects = Annotated[int | None, Query(ge=1, le=1000)]


def build_api(finder: ModelQueue, proposer: ModelQueue, kept: Kept) -> FastAPI:
    """The routes below /api. Every error is answered with {"error": "..."}.

    Args:
        finder: finds objects of classes, for /api/predict.
        proposer: finds objects of any class, for /api/propose.
        kept: results of the page, for its downloads.
    """
    # No pages of documentation: they would load scripts from elsewhere.
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_exception_handler(InstanceFCNError, _as_json)
    app.add_exception_handler(RequestValidationError, _as_json)
    app.add_exception_handler(AnyHTTPException, _as_json)

    @app.post("/api/predict")
    async def predict(
        request: Request,
        score: Score = DEFAULT_SCORE,
        max_objects: MaxObjects = None,
        classes: str | None = None,
    ) -> Response:
        _refuse_others(request, "score", "max_objects", "classes")
        return await _segment(finder, request, score, max_objects, names_of(classes))

    @app.post("/api/propose")
    async def propose(request: Request, score: Score = 0.0, top: Top = 100) -> Response:
        _refuse_others(request, "score", "top")
        return await _segment(proposer, request, score, top)

    _add_downloads(app, kept)
    _add_refusals(app)
    return app


def _refuse_others(request: Request, *known: str) -> None:
    """Whoever misspells a name of the query would believe that it was heard."""
    if unknown := sorted(request.query_params.keys() - set(known)):
        raise HTTPException(422, f"unknown in the query: {', '.join(unknown)}; known: {', '.join(known)}")


async def _segment(
    worker: ModelQueue,
    request: Request,
    score: float,
    max_objects: int | None,
    classes: Sequence[str] | None = None,
) -> Response:
    with worker.turns.place():
        data = await _body(request)
        _, instances = await worker.segment(data, score, max_objects, classes)
        return JSONResponse(await asyncio.to_thread(prediction, None, instances))


async def _body(request: Request) -> bytes:
    """The whole body, given up as soon as it is too large or too slow."""
    too_large = HTTPException(413, f"an image may have {MAX_BYTES // 1_000_000} MB")
    if "multipart" in request.headers.get("content-type", ""):
        raise HTTPException(415, "send the file itself as the body: curl --data-binary @photo.jpg URL")
    length = request.headers.get("content-length", "0")
    if not length.isdecimal():
        raise HTTPException(400, "Content-Length is not a whole number")
    if len(length) > 18 or int(length) > MAX_BYTES:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BYTES:
                    raise too_large
    except TimeoutError as error:
        raise HTTPException(408, f"the image did not arrive within {BODY_SECONDS} seconds") from error
    except ClientDisconnect as error:  # nobody is left to read this, but the log is spared a traceback
        raise HTTPException(400, "the image did not arrive: the connection was closed") from error
    return bytes(body)


def _add_downloads(app: FastAPI, kept: Kept) -> None:
    turns = Turns()

    @app.get("/api/results/{token}/{kind}")
    async def download(token: str, kind: str, keep: str = "") -> Response:
        """`kind` is "json" or "cutouts"; `keep` the places of the instances, from 0, with commas between."""
        result = kept.get(token)
        if result is None or kind not in ("json", "cutouts"):
            raise HTTPException(404, "this result is no longer kept: drop the image once more")
        try:
            chosen = sorted({int(number) for number in keep.split(",") if number})
        except ValueError as error:
            raise HTTPException(422, "keep takes whole numbers with commas between") from error
        if chosen and not 0 <= chosen[0] <= chosen[-1] < len(result.document["instances"]):
            raise HTTPException(422, f"there are {len(result.document['instances'])} instances, from 0")
        if kind == "json":
            return JSONResponse(result.chosen(chosen), headers=_attachment(f"{safe_name(result.name)}.json"))
        file = tempfile.TemporaryFile()  # noqa: SIM115 (closed when it is sent)
        with turns.place():
            await turns.run(write_cutouts, file, result, chosen)
        file.seek(0)
        return StreamingResponse(
            iter(lambda: file.read(1 << 16), b""),
            media_type="application/zip",
            headers=_attachment(f"{safe_name(result.name)}-cutouts.zip"),
            background=BackgroundTask(file.close),
        )


def _add_refusals(app: FastAPI) -> None:
    """Whatever else is asked for below /api: the page, which lies behind, would answer it in its own way."""

    @app.api_route("/api/{verb}", methods=[*_OTHERS])
    async def other_method(verb: Literal["predict", "propose"]) -> Response:
        raise HTTPException(405, "POST the file of an image as the body", {"Allow": "POST"})

    @app.api_route("/api", methods=[*_OTHERS, "POST"])
    @app.api_route("/api/{rest:path}", methods=[*_OTHERS, "POST"])
    async def nowhere(rest: str = "") -> Response:
        raise HTTPException(404, "there are /api/predict and /api/propose")


def _attachment(name: str) -> dict[str, str]:
    return {"Content-Disposition": f'attachment; filename="{name}"'}


async def _as_json(request: Request, error: Exception) -> Response:
    if isinstance(error, AnyHTTPException):
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)
    if isinstance(error, RequestValidationError):
        problems = [f"{problem['loc'][-1]}: {problem['msg']}" for problem in error.errors()]
        return JSONResponse({"error": "; ".join(problems)}, 422)
    if isinstance(error, BusyError):
        return JSONResponse({"error": str(error)}, 503, {"Retry-After": "10"})
    asked = isinstance(error, ImageError | ConfigError)
    return JSONResponse({"error": str(error)}, 422 if asked else 500)
