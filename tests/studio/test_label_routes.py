from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs fastapi")

from fastapi.testclient import TestClient
from PIL import Image

from instancefcn.studio.labelling import pixels
from instancefcn.studio.labelling.opening import open_labels
from instancefcn.studio.labelling.session import Session
from instancefcn.studio.site import LOCAL, build_app
from labelling import RectangleReader, photos
from served import Served

HELD = {"X-Client": "the-first-tab"}
SQUARE = {"rings": [[5, 5, 25, 5, 25, 25, 5, 25]]}
ADD = {"actions": [{"do": "add", "class": 1, "shape": SQUARE}]}


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    source = photos(tmp_path / "photos")
    session = Session(open_labels(source, tmp_path / "set", ["cat"]), None, RectangleReader)
    yield session
    session.close()


def client_of(session: Session, **options: Any) -> TestClient:
    return TestClient(build_app(Served().worker(), Served().worker(), "predict", session, **options))


@pytest.fixture
def client(session: Session) -> Iterator[TestClient]:
    with client_of(session) as client:
        yield client


def test_an_image_is_opened_and_changed(client: TestClient) -> None:
    assert client.get("/api/page").json()["label"] is True
    assert [row[1:] for row in client.get("/api/label/images").json()][:2] == [
        ["0.png", False, 0],
        ["1.png", False, 0],
    ]
    opened = client.get("/api/label/images/1").json()
    assert (opened["width"], opened["height"], opened["objects"]) == (200, 150, [])
    answer = client.post("/api/label/images/1/changes", json=ADD, headers=HELD)
    assert answer.status_code == 200
    assert answer.json()["objects"][0]["area"] == 400
    assert answer.json()["count"] == 1
    assert client.get("/api/label/overview").json()["classes"][0]["objects"] == 1
    assert client.post("/api/label/undo", headers=HELD).json()["removed"] == [1]
    assert client.post("/api/label/undo", headers=HELD).json() is None
    box = {"box": [10, 10, 85, 75]}
    assert client.post("/api/label/images/1/box", json=box, headers=HELD).json()["box"] == [20, 20, 80, 70]
    found = client.get("/api/label/images/1/point?x=30&y=30&count=1").json()
    assert [one["score"] for one in found] == [0.9]


def test_images_are_shown_small_and_in_tiles(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "WHOLE", 160)
    monkeypatch.setattr(pixels, "TILE", 64)

    def opened(path: str) -> Image.Image:
        answer = client.get(f"/api/label/images/{path}")
        assert answer.headers["Content-Type"] == "image/jpeg"
        return Image.open(BytesIO(answer.content))

    assert opened("1/whole.jpg").size == (160, 120)
    assert opened("1/tiles/0/0.jpg").size == (64, 64)
    assert opened("1/tiles/3/2.jpg").size == (8, 22)
    assert opened("1/thumb.jpg").size == (96, 72)
    for path in ("1/tiles/4/0.jpg", "1/tiles/-1/0.jpg", "99/whole.jpg", "1/other.jpg"):
        assert client.get(f"/api/label/images/{path}").status_code in (404, 422)


def test_only_the_tab_that_holds_the_lease_changes_anything(client: TestClient) -> None:
    client.get("/api/label/images/1")
    other = {"X-Client": "the-second-tab"}
    assert client.post("/api/label/lease", json={}, headers=HELD).json() == {"held": True}
    assert client.post("/api/label/lease", json={}, headers=other).json() == {"held": False}
    answer = client.post("/api/label/images/1/changes", json=ADD, headers=other)
    assert answer.status_code == 409
    assert client.get("/api/label/images/1").json()["objects"] == []
    assert client.post("/api/label/lease", json={"take": True}, headers=other).json() == {"held": True}
    assert client.post("/api/label/images/1/changes", json=ADD, headers=HELD).status_code == 409
    assert client.post("/api/label/leave?client=the-second-tab", content=b"").status_code == 200
    assert client.post("/api/label/images/1/changes", json=ADD, headers=HELD).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"actions": []},
        {"actions": [{"do": "explode"}]},
        {"actions": [{"do": "add", "class": 1}]},
        {"actions": [{"do": "add", "class": 1, "shape": {}}]},
        {
            "actions": [
                {"do": "add", "class": 1, "shape": {**SQUARE, "stroke": {"points": [[1, 1]], "radius": 1}}}
            ]
        },
        {"actions": [{"do": "add", "class": 1, "shape": SQUARE, "more": 1}]},
        {"actions": [{"do": "add", "class": 1, "shape": {"rings": [["a", "b"]]}}]},
        {"actions": [{"do": "add", "class": 1, "shape": {"stroke": {"points": [[1, 1]], "radius": -1}}}]},
        {"actions": [{"do": "delete", "id": 2**70}]},
        {"actions": [{"do": "delete", "id": 5}]},
        {"actions": [{"do": "delete", "id": 5}] * 5001},
    ],
)
def test_bodies_that_make_no_sense(client: TestClient, body: Any) -> None:
    client.get("/api/label/images/1")
    answer = client.post("/api/label/images/1/changes", json=body, headers=HELD)
    assert answer.status_code == 422
    assert answer.json()["error"]
    assert client.get("/api/label/images/1").json()["objects"] == []


def test_requests_that_are_too_large_or_from_elsewhere(client: TestClient) -> None:
    client.get("/api/label/images/1")
    path = "/api/label/images/1/changes"
    # A site elsewhere can send no such header without being asked first.
    assert client.post(path, json=ADD).status_code == 422
    large = client.post(path, content=b" " * 20_000_001, headers={**HELD, "Content-Type": "application/json"})
    assert large.status_code == 413
    unknown = client.post(path, content=iter([b"{}"]), headers=HELD)
    assert unknown.status_code == 411
    for number in ("0", "-1", "99", "x", str(2**63)):
        assert client.get(f"/api/label/images/{number}").status_code == 422
    for query in ("x=nan&y=1", "x=1", "x=1&y=1&count=0", "x=1&y=1&count=21"):
        assert client.get(f"/api/label/images/1/point?{query}").status_code == 422


@pytest.mark.parametrize(
    "path",
    ["/assets/../site.py", "/assets/%2e%2e/site.py", "/examples/../models/SHA256SUMS", "/assets/", "/set"],
)
def test_no_path_leads_out(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


def test_the_page_loads_nothing_from_elsewhere(client: TestClient) -> None:
    answer = client.get("/")
    assert answer.status_code == 200
    assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
    assert "http" not in answer.text.replace("http-equiv", "")
    script = client.get("/assets/main.js")
    assert script.headers["Content-Type"].startswith("text/javascript")


def test_another_name_of_this_computer_is_refused(session: Session) -> None:
    with client_of(session, hosts=LOCAL) as client:
        for host, status in (
            ("127.0.0.1:7860", 200),
            ("localhost", 200),
            ("[::1]:80", 200),
            ("evil.example", 421),
            ("127.0.0.1.evil.example", 421),
            ("", 421),
        ):
            assert client.get("/api/label/overview", headers={"Host": host}).status_code == status, host


def test_the_address_has_a_secret_on_other_networks(session: Session) -> None:
    with client_of(session, token="secret") as client:
        for path in ("/", "/api/label/overview", "/assets/main.js", "/?token=wrong"):
            assert client.get(path).status_code == 403
        assert client.get("/?token=secret").status_code == 200  # with a cookie, after a redirection
        assert client.get("/api/label/overview").status_code == 200
        assert "secret" not in str(client.get("/").url)


def test_without_labels_there_are_no_such_routes() -> None:
    with TestClient(build_app(Served().worker(), Served().worker())) as client:
        assert client.get("/api/label/overview").status_code == 404
        page = client.get("/api/page").json()
        assert (page["label"], page["verb"]) == (False, "predict")
        assert len(page["examples"]) == 6
        assert client.get(f"/examples/{page['examples'][0]}").status_code == 200
