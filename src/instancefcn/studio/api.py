"""The HTTP API: an image in the body of a POST, JSON in the answer; and what the page shows and downloads."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect

from instancefcn.inference.predictor import DEFAULT_SCORE
from instancefcn.inference.request import names_of
from instancefcn.inference.writers import prediction
from instancefcn.studio.errors import answer_errors
from instancefcn.studio.results import Kept, PageResult, safe_name, stem, view, write_cutouts
from instancefcn.studio.service import MAX_BYTES, ModelQueue, Turns

BODY_SECONDS = 60
"""How long a body may take to arrive: until then it holds a place in the queue."""

FLOOR = 0.05
"""Objects of classes below this score are not even sent to the page: its slider starts here."""

TOP = 100
"""The most instances of one image on the page."""

FIRST = 10
"""How many proposals the page begins with: their scores say little about how good they are."""

Score = Annotated[float, Query(ge=0, le=1)]
Top = Annotated[int, Query(ge=1, le=1000)]
MaxObjects = Annotated[int | None, Query(ge=1, le=1000)]


def build_api(finder: ModelQueue, proposer: ModelQueue, kept: Kept) -> FastAPI:
    """The routes below /api. Every error, 404 and 405 too, is answered with {"error": "..."}.

    Args:
        finder: finds objects of classes, for /api/predict.
        proposer: finds objects of any class, for /api/propose.
        kept: results of the page, for its downloads.
    """
    # No pages of documentation: they would load scripts from elsewhere.
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    answer_errors(app)

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

    _add_page(app, {"predict": finder, "propose": proposer}, kept)
    _add_downloads(app, kept)
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


def _add_page(app: FastAPI, workers: Mapping[str, ModelQueue], kept: Kept) -> None:
    @app.post("/api/look")
    async def look(
        request: Request,
        verb: Literal["predict", "propose"] = "predict",
        name: Annotated[str, Query(max_length=500)] = "image",
    ) -> Response:
        """What the page draws of an image, and a token for its downloads."""
        worker = workers[verb]
        with worker.turns.place():
            data = await _body(request)
            image, found = await worker.segment(data, FLOOR if verb == "predict" else 0.0, TOP)
        document = await asyncio.to_thread(prediction, stem(name), found)
        token = kept.add(PageResult(stem(name), data, document))
        scores = found.scores.tolist()
        drawn = await asyncio.to_thread(view, image, found, document)
        first = DEFAULT_SCORE if verb == "predict" else min(scores[:FIRST], default=0.0)
        labels = len(found.class_names) > 1
        return JSONResponse({"token": token, "verb": verb, "labels": labels, "score": first, **drawn})


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


def _attachment(name: str) -> dict[str, str]:
    return {"Content-Disposition": f'attachment; filename="{name}"'}
