"""The routes below /api/label: JSON in, JSON out.

Whatever changes something comes from the tab that holds the lease. It names itself in the header X-Client,
which other sites cannot send.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, Depends, Header, HTTPException, Query
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from instancefcn.studio.labelling.session import MAX_ACTIONS, Session
from instancefcn.studio.service import TakenError

MAX_BODY = 20_000_000
"""Bytes of a request: the objects of one image, as run lengths."""

MAX_MINUTES = 24 * 60

CandidateCount = Annotated[int, Query(ge=1, le=20)]
Id = Annotated[int, Field(ge=-(2**53), le=2**53)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Client = Annotated[str, Header(alias="X-Client", min_length=8, max_length=64)]
ClassName = Annotated[str, StringConstraints(max_length=100)]


class Body(BaseModel):
    """A request without unknown fields."""

    model_config = ConfigDict(extra="forbid")


class Rle(Body):
    size: tuple[int, int]
    counts: str | list[int]


class Stroke(Body):
    """A brush of this radius, in pixels of the image, along these points."""

    points: list[tuple[Finite, Finite]] = Field(min_length=1, max_length=20_000)
    radius: float = Field(gt=0, le=10_000, allow_inf_nan=False)


class Shape(Body):
    """One of the three."""

    rings: list[list[Finite]] | None = Field(default=None, min_length=1)
    rle: Rle | None = None
    stroke: Stroke | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(one is not None for one in (self.rings, self.rle, self.stroke)) != 1:
            raise ValueError("a shape has either rings, an rle or a stroke")
        return self


class Add(Body):
    do: Literal["add", "dismiss"]
    class_: Id = Field(alias="class")
    shape: Shape


class Reshape(Body):
    do: Literal["reshape"]
    id: Id
    shape: Shape


class Paint(Body):
    do: Literal["paint"]
    id: Id
    stroke: Stroke
    erase: bool


class Reclass(Body):
    do: Literal["class"]
    id: Id
    class_: Id = Field(alias="class")


class Remove(Body):
    do: Literal["delete", "restore"]
    id: Id


class Done(Body):
    do: Literal["done"]
    done: bool


Action = Annotated[Add | Reshape | Paint | Reclass | Remove | Done, Field(discriminator="do")]


class Changed(Body):
    actions: list[Action] = Field(min_length=1, max_length=MAX_ACTIONS)


class Box(Body):
    box: tuple[Finite, Finite, Finite, Finite]
    positive: list[tuple[Finite, Finite]] = Field(default=[], max_length=200)
    negative: list[tuple[Finite, Finite]] = Field(default=[], max_length=200)


class Name(Body):
    name: ClassName


class Minutes(Body):
    minutes: float = Field(gt=0, le=MAX_MINUTES, allow_inf_nan=False)


class Take(Body):
    take: bool = False


def build_routes(session: Session) -> APIRouter:
    """The routes of one sitting. Errors are raised; the application answers them as JSON."""
    router = APIRouter(prefix="/api/label")
    _add_looking(router, session)
    _add_changing(router, session)
    _add_model(router, session)
    return router


def _add_looking(router: APIRouter, session: Session) -> None:
    store, pixels = session.store, session.pixels
    run = asyncio.to_thread
    decoding = ThreadPoolExecutor(2)
    # They never change while the page is open, and no other computer may keep them.
    kept = {"Cache-Control": "private, max-age=3600"}

    async def jpeg(image: Id, make: Any) -> Response:
        path = session.labels.path(store.image(image))
        data = await asyncio.wrap_future(decoding.submit(make, path))
        if data is None:
            raise HTTPException(404, "there is no such tile")
        return Response(data, media_type="image/jpeg", headers=kept)

    @router.get("/overview")
    async def overview() -> dict[str, Any]:
        return await run(session.overview)

    @router.get("/images")
    async def images() -> list[tuple[int, str, bool, int]]:
        return await run(store.images)

    @router.get("/images/{image}")
    async def opened(image: Id) -> dict[str, Any]:
        return await run(session.open, image)

    @router.get("/images/{image}/suggestions")
    async def suggestions(image: Id) -> dict[str, Any]:
        return await run(session.suggestions, image)

    @router.get("/images/{image}/deleted")
    async def deleted(image: Id) -> list[dict[str, Any]]:
        return await run(session.deleted, image)

    @router.get("/images/{image}/whole.jpg")
    async def whole(image: Id) -> Response:
        return await jpeg(image, pixels.whole)

    @router.get("/images/{image}/thumb.jpg")
    async def thumb(image: Id) -> Response:
        return await jpeg(image, pixels.thumb)

    @router.get("/images/{image}/tiles/{column}/{row}.jpg")
    async def tile(image: Id, column: int, row: int) -> Response:
        if min(column, row) < 0:
            raise HTTPException(404, "there is no such tile")
        return await jpeg(image, partial(pixels.tile, column=column, row=row))

    @router.get("/next")
    async def next_image(after: Id, least_sure: bool = False) -> dict[str, Any]:
        return {"image": await run(session.next, after, least_sure)}

    @router.get("/check")
    async def check() -> dict[str, Any]:
        return await run(session.check)


def _add_changing(router: APIRouter, session: Session) -> None:
    run = asyncio.to_thread

    @router.post("/lease")
    async def lease(body: Take, client: Client) -> dict[str, bool]:
        return {"held": session.lease.hold(client, body.take)}

    @router.post("/leave")
    async def leave(client: str) -> None:
        """Sent by a tab that is closed, which can send no header."""
        session.lease.leave(client)

    def holder(client: Client) -> None:
        if not session.lease.hold(client):
            raise TakenError("these labels are open in another tab: close it, or take over here")

    writing = [Depends(holder)]

    @router.post("/images/{image}/changes", dependencies=writing)
    async def change(image: Id, body: Changed) -> dict[str, Any]:
        actions = [action.model_dump(by_alias=True, exclude_none=True) for action in body.actions]
        return await run(session.change, image, actions)

    @router.post("/undo", dependencies=writing)
    async def undo() -> dict[str, Any] | None:
        return await run(session.undo)

    @router.post("/redo", dependencies=writing)
    async def redo() -> dict[str, Any] | None:
        return await run(session.redo)

    @router.post("/classes", dependencies=writing)
    async def add_class(body: Name) -> dict[str, int]:
        return {"id": await run(session.add_class, body.name)}

    @router.post("/classes/{id}", dependencies=writing)
    async def rename_class(id: Id, body: Name) -> None:
        await run(session.rename_class, id, body.name)

    @router.post("/model", dependencies=writing)
    async def choose(body: Name) -> None:
        await run(session.choose, body.name)

    @router.post("/train", dependencies=writing)
    async def train(body: Minutes) -> None:
        await run(session.train, body.minutes)

    @router.post("/train/stop", dependencies=writing)
    async def stop() -> None:
        await run(session.trainer.stop)


def _add_model(router: APIRouter, session: Session) -> None:
    # One after the other: a person has one pointer.
    hands = ThreadPoolExecutor(1)

    async def run(function: Any, *args: Any) -> Any:
        return await asyncio.wrap_future(hands.submit(function, *args))

    @router.get("/images/{image}/point")
    async def at_point(
        image: Id,
        x: Annotated[float, Query(allow_inf_nan=False)],
        y: Annotated[float, Query(allow_inf_nan=False)],
        count: CandidateCount = 5,
    ) -> list[dict[str, Any]]:
        return await run(session.at_point, image, x, y, count)

    @router.post("/images/{image}/box")
    async def in_box(image: Id, body: Box, client: Client) -> dict[str, Any] | None:
        return await run(session.in_box, image, body.box, body.positive, body.negative)
