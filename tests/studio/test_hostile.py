"""The API is sent the files of tests/test_hostile.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("fastapi", reason="needs fastapi")

from fastapi.testclient import TestClient

from hostile_files import BOMBS, SOUND, png
from instancefcn.studio import api
from instancefcn.studio.results import Kept
from instancefcn.studio.service import MAX_PIXELS
from served import Served


@pytest.fixture
def served() -> Served:
    return Served()


@pytest.fixture
def client(served: Served) -> Iterator[TestClient]:
    with TestClient(api.build_api(served.worker(), served.worker(), Kept())) as client:
        yield client


@pytest.mark.parametrize("name", BOMBS)
def test_images_that_ask_for_too_much(client: TestClient, served: Served, name: str) -> None:
    content, message = BOMBS[name]
    for route in ("predict", "propose", "look"):
        answer = client.post(f"/api/{route}", content=content)
        assert answer.status_code == 422
        with pytest.raises(AssertionError, match=message):
            raise AssertionError(answer.json()["error"])
    assert served.runs == 0


@pytest.mark.parametrize("name", SOUND)
def test_strange_images(client: TestClient, name: str) -> None:
    content, (height, width) = SOUND[name]
    answer = client.post("/api/predict", content=content)
    assert answer.status_code == 200
    assert (answer.json()["height"], answer.json()["width"]) == (height, width)


def test_the_page_has_a_limit_of_its_own(client: TestClient) -> None:
    answer = client.post("/api/predict", content=png(5001, 5000))
    assert answer.status_code == 422
    assert f"more than {MAX_PIXELS:,} pixels" in answer.json()["error"]


@pytest.mark.parametrize("length", ["abc", "-1", "1e3", "\u0663", "9" * 5000])
def test_lengths_that_are_none(client: TestClient, length: str) -> None:
    headers = {"Content-Length": length.encode()}
    answer = client.post("/api/predict", content=b"x", headers=headers)
    assert answer.status_code in (400, 413)


@pytest.mark.parametrize(
    "query",
    ["score=nan", "score=inf", "score=-1", "score=1e999", "top=0", "top=1001", "top=9" + "9" * 99, "top=x"],
)
def test_queries_that_make_no_sense(client: TestClient, query: str) -> None:
    answer = client.post(f"/api/propose?{query}", content=png(8, 8))
    assert answer.status_code == 422
    assert answer.json()["error"]
