from __future__ import annotations

import asyncio
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="needs fastapi")

from fastapi.testclient import TestClient

from fakes import coloured
from instancefcn.errors import CheckpointError
from instancefcn.images.decoding import to_uint8_rgb
from instancefcn.inference.predictor import Predictor
from instancefcn.inference.writers import prediction
from instancefcn.studio import api, results
from instancefcn.studio.results import Kept, PageResult
from instancefcn.studio.service import MAX_BYTES, MAX_PIXELS, ModelQueue
from labelling import until
from served import Served, as_file

PNG = as_file(coloured())


@pytest.fixture
def served() -> Served:
    return Served()


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.fixture
def client(served: Served, kept: Kept) -> Iterator[TestClient]:
    with TestClient(api.build_api(served.worker(), served.worker(), kept)) as client:
        yield client


def claims(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header says that it is as large as this."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99))


def test_an_image_gives_what_predict_prints(client: TestClient, served: Served) -> None:
    answer = client.post("/api/predict", content=PNG)
    assert answer.status_code == 200
    (expected,) = served.load()([coloured()])
    assert answer.json() == json.loads(json.dumps(prediction(None, expected)))
    assert [one["class"] for one in answer.json()["instances"]] == ["red", "green"]


def test_score_and_top_choose(client: TestClient) -> None:
    def names(url: str) -> list[str]:
        return [one["class"] for one in client.post(url, content=PNG).json()["instances"]]

    assert names("/api/predict?score=0.7") == ["red"]
    assert names("/api/predict?score=0.95") == []
    assert names("/api/propose") == ["red", "green"]
    assert names("/api/propose?top=1") == ["red"]
    assert names("/api/predict?max_objects=1") == ["red"]
    assert names("/api/predict?max_objects=1&classes=green") == ["green"]
    assert names("/api/predict?classes=green,red") == ["red", "green"]


def test_a_limit_that_is_reached_is_said(client: TestClient) -> None:
    answers = [client.post(f"/api/predict?max_objects={most}", content=PNG).json() for most in (2, 3)]
    assert [answer["limit_reached"] for answer in answers] == [2, None]


def test_a_photograph_that_lies_on_its_side_is_turned(client: TestClient) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    found = client.post("/api/predict", content=as_file(coloured(), "JPEG", exif=exif, quality=95)).json()
    assert (found["width"], found["height"]) == (80, 120)


@pytest.mark.parametrize(
    ("url", "body", "status", "message"),
    [
        (
            "/api/predict",
            b"<b>no image</b>",
            422,
            "not a supported image file: JPEG, PNG, WEBP, BMP, GIF and TIFF",
        ),
        ("/api/predict", b"", 422, "the image is empty"),
        ("/api/predict", PNG[:200], 422, "the image is damaged or truncated"),
        ("/api/predict", as_file(coloured(), "PPM"), 422, "not a supported image file"),
        ("/api/predict", as_file(coloured(), "EPS"), 422, "not a supported image file"),
        ("/api/predict", claims(5001, 5000), 422, f"more than {MAX_PIXELS:,} pixels"),
        ("/api/predict", claims(12_000, 10_000), 422, f"more than {MAX_PIXELS:,} pixels"),
        ("/api/predict", claims(60_000, 60_000), 422, f"more than {MAX_PIXELS:,} pixels"),
        ("/api/predict?score=2", PNG, 422, "score: Input should be less than or equal to 1"),
        ("/api/propose?top=0&score=x", PNG, 422, "top: Input should be greater"),
        ("/api/predict?treshold=1&top=2", PNG, 422, "unknown in the query: top, treshold; known: score"),
        ("/api/predict?max_objects=0", PNG, 422, "max_objects: Input should be greater"),
        ("/api/predict?classes=red,mauve", PNG, 422, "'mauve'; it knows red, green"),
        ("/api/predict", PNG + bytes(MAX_BYTES), 413, "an image may have 20 MB"),
    ],
    ids=[
        "text",
        "empty",
        "cut",
        "ppm",
        "eps",
        "large",
        "warned",
        "bomb",
        "score",
        "both",
        "unknown",
        "limit",
        "classes",
        "bytes",
    ],
)
def test_what_cannot_be_taken(
    client: TestClient, served: Served, url: str, body: bytes, status: int, message: str
) -> None:
    answer = client.post(url, content=body)
    assert answer.status_code == status
    assert message in answer.json()["error"]
    assert served.runs == 0


def test_a_form_is_told_how_to_send_the_file(client: TestClient) -> None:
    answer = client.post("/api/predict", files={"file": ("a.png", PNG)})
    assert answer.status_code == 415
    assert "--data-binary" in answer.json()["error"]


def test_a_body_without_a_length_is_measured_while_it_is_read(client: TestClient, served: Served) -> None:
    def pieces(count: int) -> Iterator[bytes]:
        yield PNG
        yield from (bytes(1_000_000) for _ in range(count))

    assert client.post("/api/predict", content=pieces(20)).status_code == 413
    assert served.runs == 0
    assert client.post("/api/predict", content=pieces(19)).status_code == 200


def test_concurrent_requests_take_turns_and_all_are_answered(client: TestClient, served: Served) -> None:
    served.gate.clear()
    images = [as_file(coloured(width=100 + 10 * number)) for number in range(8)]
    with ThreadPoolExecutor(8) as threads:
        answers = [threads.submit(client.post, "/api/predict", content=data) for data in images]
        until(lambda: served.at_once == 1)
        assert not any(answer.done() for answer in answers)
        served.gate.set()
        widths = [answer.result(20).json()["width"] for answer in answers]
    assert widths == [100 + 10 * number for number in range(8)]
    assert (served.runs, served.most_at_once, served.loads) == (8, 1, 1)


def test_a_full_queue_says_so_and_recovers(served: Served, kept: Kept) -> None:
    served.gate.clear()
    worker = served.worker(waiting=2)
    with (
        TestClient(api.build_api(worker, Served().worker(), kept)) as client,
        ThreadPoolExecutor(2) as threads,
    ):
        first = [threads.submit(client.post, "/api/predict", content=PNG) for _ in range(2)]
        # A third image that came before these two would wait in their place.
        until(lambda: worker.turns._places._value == 0)
        full = client.post("/api/predict", content=PNG)
        assert full.status_code == 503
        assert "too many images are waiting" in full.json()["error"]
        assert full.headers["Retry-After"]
        # The other model has a queue of its own.
        assert client.post("/api/propose", content=PNG).status_code == 200
        served.gate.set()
        assert [answer.result(20).status_code for answer in first] == [200, 200]
        assert client.post("/api/predict", content=PNG).status_code == 200


def test_a_model_that_cannot_be_loaded_is_an_error_of_the_server(kept: Kept) -> None:
    def load() -> Predictor:
        raise CheckpointError("runs/x: damaged")

    with TestClient(api.build_api(ModelQueue(load), ModelQueue(load), kept)) as client:
        answer = client.post("/api/predict", content=PNG)
    assert (answer.status_code, answer.json()) == (500, {"error": "runs/x: damaged"})


@pytest.fixture
def token(served: Served, kept: Kept) -> str:
    (found,) = served.load()([coloured()])
    return kept.add(PageResult('my "cat"\r\nphoto', PNG, prediction("cat", found)))


def test_downloads_hold_what_was_chosen(client: TestClient, token: str) -> None:
    answer = client.get(f"/api/results/{token}/json?keep=1")
    assert [one["class"] for one in answer.json()["instances"]] == ["green"]
    assert answer.headers["Content-Disposition"] == 'attachment; filename="my_cat_photo.json"'

    answer = client.get(f"/api/results/{token}/cutouts?keep=0,1")
    assert answer.headers["Content-Type"] == "application/zip"
    with zipfile.ZipFile(BytesIO(answer.content)) as archive:
        assert archive.namelist() == ["001-red-0.90.png", "002-green-0.60.png"]
        cut = np.asarray(Image.open(archive.open("001-red-0.90.png")))
    red = np.asarray(coloured())[10:30, 20:50]
    assert cut.shape[2] == 4
    inside = cut[..., 3] == 255
    assert abs(int(inside.sum()) - red.shape[0] * red.shape[1]) < 60  # the network sees a smaller image
    assert (cut[~inside] == 0).all()
    assert (cut[inside][:, 0] == 255).mean() > 0.9


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("other/json", 404),
        ("{}/exe", 404),
        ("{}/json?keep=2", 422),
        ("{}/json?keep=-1", 422),
        ("{}/json?keep=x", 422),
    ],
)
def test_downloads_that_are_not_there(client: TestClient, token: str, path: str, status: int) -> None:
    answer = client.get("/api/results/" + path.format(token))
    assert answer.status_code == status
    assert answer.json()["error"]


def test_only_the_latest_results_are_kept(served: Served) -> None:
    (found,) = served.load()([coloured()])
    document = prediction("x", found)
    kept = Kept(budget=250_000)
    tokens = [kept.add(PageResult("x", bytes(100_000), document)) for _ in range(4)]
    assert [kept.get(token) is not None for token in tokens] == [False, False, True, True]
    last = kept.add(PageResult("x", bytes(10**6), document))
    assert kept.get(last) is not None


def test_outlines_follow_the_masks(served: Served) -> None:
    image = coloured(width=2560, height=1700)
    (found,) = served.load()([image])
    document = prediction("x", found)
    shown = results.view(to_uint8_rgb(image), found, document)
    assert (shown["width"], shown["height"]) == (1280, 850)
    numbers = [float(part) for part in re.findall(r"[\d.]+", shown["instances"][0]["outline"])]
    x1, y1, x2, y2 = (side / 2 for side in document["instances"][0]["box"])
    xs, ys = numbers[0::2], numbers[1::2]
    assert (min(xs), min(ys), max(xs), max(ys)) == pytest.approx((x1, y1, x2, y2), abs=1.0)
    assert shown["image"].startswith("data:image/jpeg;base64,")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/predict", 405),
        ("PUT", "/api/propose", 405),
        ("OPTIONS", "/api/predict", 405),
        ("DELETE", "/api/results/x/json", 405),
        ("GET", "/api", 404),
        ("POST", "/api/predict/", 404),
        ("POST", "/api/nothing", 404),
        ("GET", "/docs", 404),
        ("GET", "/openapi.json", 404),
    ],
)
def test_other_methods_and_paths_are_answered_in_json(
    client: TestClient, method: str, path: str, status: int
) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status
    assert answer.json()["error"]
    allowed = {"/api/results/x/json": "GET"}.get(path, "POST")
    assert answer.headers.get("allow") == (allowed if status == 405 else None)


def test_the_page_gets_outlines_and_a_token_for_downloads(client: TestClient) -> None:
    shown = client.post("/api/look?name=my%20cat.png", content=PNG).json()
    assert [one["class"] for one in shown["instances"]] == ["red", "green"]
    assert (shown["verb"], shown["labels"], shown["score"]) == ("predict", True, 0.5)
    answer = client.get(f"/api/results/{shown['token']}/json?keep=0")
    assert answer.headers["Content-Disposition"] == 'attachment; filename="my_cat.json"'
    assert answer.json()["file"] == "my cat"
    assert client.post("/api/look?verb=guess", content=PNG).status_code == 422


def test_an_upload_that_breaks_off_frees_its_place(served: Served, kept: Kept) -> None:
    application = api.build_api(served.worker(), served.worker(), kept)
    parts = [{"type": "http.request", "body": PNG[:9], "more_body": True}, {"type": "http.disconnect"}]
    sent: list[Any] = []

    async def receive() -> Any:
        return parts.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/api/predict",
        "query_string": b"",
        "headers": [(b"content-length", b"99")],
    }
    asyncio.run(application(scope, receive, send))
    assert [message["status"] for message in sent if "status" in message] == [400]
    with TestClient(application) as client:
        assert client.post("/api/predict", content=PNG).status_code == 200
