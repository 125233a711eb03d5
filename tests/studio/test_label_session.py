from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from instancefcn.data.formats.layouts import open_datasets
from instancefcn.errors import CheckpointError, DataError, ImageError
from instancefcn.studio.labelling.opening import open_labels
from instancefcn.studio.labelling.session import LEASE, Lease, Session
from instancefcn.studio.labelling.suggest import Reader, apart, doubt
from labelling import BOXES, COLOURS, RectangleReader, photos, until

SQUARE = {"rings": [[5.0, 5.0, 25.0, 5.0, 25.0, 25.0, 5.0, 25.0]]}


def begin(tmp_path: Path, count: int = 3, load: Callable[[str], Reader] = RectangleReader) -> Session:
    source = photos(tmp_path / "photos", count) if not (tmp_path / "photos").exists() else tmp_path / "photos"
    return Session(open_labels(source, tmp_path / "set", ["cat", "dog"]), None, load)


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    session = begin(tmp_path)
    yield session
    session.close()


def add(session: Session, image: int, class_: int = 1, shape: dict[str, Any] = SQUARE) -> int:
    (one,) = session.change(image, [{"do": "add", "class": class_, "shape": shape}])["objects"]
    return int(one["id"])


def done(session: Session, image: int) -> None:
    session.change(image, [{"do": "done", "done": True}])


def seen(session: Session, image: int) -> list[Any]:
    session.open(image)
    until(lambda: session.suggestions(image)["suggestions"] is not None)
    found: list[Any] = session.suggestions(image)["suggestions"]
    return found


def test_an_object_is_added_changed_deleted_and_had_back(session: Session) -> None:
    session.open(1)
    id_ = add(session, 1)
    assert session.change(1, [{"do": "class", "id": id_, "class": 2}])["objects"][0]["class"] == 2
    stroke = {"points": [(60.0, 60.0)], "radius": 10.0}
    grown = session.change(1, [{"do": "paint", "id": id_, "stroke": stroke, "erase": False}])
    assert grown["objects"][0]["area"] > 400
    assert len(grown["objects"][0]["rings"]) == 2
    answer = session.change(1, [{"do": "delete", "id": id_}])
    assert (answer["objects"], answer["removed"], answer["deleted"][0][0]) == ([], [], id_)
    assert session.open(1)["objects"] == []
    assert [one["id"] for one in session.deleted(1)] == [id_]
    session.change(1, [{"do": "restore", "id": id_}])
    assert session.open(1)["objects"] == grown["objects"]
    for _ in range(4):
        answer = session.undo()
    assert answer is not None
    assert answer["objects"][0]["area"] == 400


def test_what_is_erased_to_the_last_pixel_is_deleted_as_it_was(session: Session) -> None:
    session.open(1)
    id_ = add(session, 1)
    stroke = {"points": [(15.0, 15.0)], "radius": 50.0}
    answer = session.change(1, [{"do": "paint", "id": id_, "stroke": stroke, "erase": True}])
    assert [one[0] for one in answer["deleted"]] == [id_]
    assert session.deleted(1)[0]["area"] == 400


def test_suggestions_are_accepted_at_once_and_the_image_is_labelled(session: Session) -> None:
    found = seen(session, 1)
    assert [one["score"] for one in found] == [0.9, 0.7, 0.5]
    assert [one["box"] for one in found] == [list(box) for box in BOXES]
    actions = [{"do": "add", "class": 1, "shape": {"rle": one["rle"]}} for one in found[:2]]
    answer = session.change(1, [*actions, {"do": "done", "done": True}])
    assert answer["done"]
    assert [one["area"] for one in answer["objects"]] == [3000.0, 4000.0]
    assert session.overview()["labelled"] == 1
    assert session.next(1, least_sure=False) == 2
    session.undo()
    assert session.overview()["labelled"] == 0
    assert session.open(1)["objects"] == []


def test_a_suggestion_sent_away_stays_away(session: Session) -> None:
    found = seen(session, 1)
    answer = session.change(1, [{"do": "dismiss", "class": 1, "shape": {"rle": found[0]["rle"]}}])
    assert answer["objects"] == []
    assert [one[1] for one in answer["deleted"]] == [[20.0, 20.0, 80.0, 70.0]]
    assert [box for _, box in session.open(1)["deleted"]] == [[20.0, 20.0, 80.0, 70.0]]
    undone = session.undo()
    assert undone is not None
    assert len(undone["removed"]) == 1


def test_every_fifth_labelled_image_is_held_out_for_good(tmp_path: Path) -> None:
    session = begin(tmp_path, 12)
    for image in range(1, 12):
        session.open(image)
        add(session, image, 2 if image == 5 else 1)  # the fifth has a class that no other image has
        done(session, image)
    session.exporter.now()
    train, val = open_datasets(tmp_path / "set", ["train", "val"])
    held = [image.id for image in val.images]
    assert held == [6, 10]
    assert len(train.images) == 9
    session.change(10, [{"do": "done", "done": False}])
    session.change(10, [{"do": "done", "done": True}])
    session.exporter.now()
    assert [image.id for image in open_datasets(tmp_path / "set", ["val"])[0].images] == held
    session.close()


def test_everything_is_there_after_reopening(tmp_path: Path) -> None:
    session = begin(tmp_path)
    found = seen(session, 1)
    add(session, 1)
    done(session, 1)
    session.add_class("owl")
    session.close()
    session = begin(tmp_path, load=lambda model: RectangleReader("blind"))
    assert session.suggester.stored(1) == found
    answer = session.open(1)
    assert (len(answer["objects"]), answer["done"]) == (1, True)
    assert [one["name"] for one in session.overview()["classes"]] == ["cat", "dog", "owl"]
    undone = session.undo()
    assert undone is not None
    assert undone["image"] is None
    session.close()


def test_the_files_follow_the_changes(tmp_path: Path, session: Session) -> None:
    session.open(1)
    add(session, 1)
    done(session, 1)
    path = tmp_path / "set" / "train.json"
    until(path.exists)
    until(lambda: len(open_datasets(tmp_path / "set", ["train"])[0].images[0].annotations) == 1)


@pytest.mark.parametrize(
    "action",
    [
        {"do": "add", "class": 9, "shape": SQUARE},
        {"do": "add", "class": 1, "shape": {"rings": [[0.0, 0.0, 1.0, 1.0]]}},
        {"do": "add", "class": 1, "shape": {"rings": [[float("nan")] * 6]}},
        {"do": "add", "class": 1, "shape": {"rle": {"size": [5, 5], "counts": [25]}}},
        {"do": "delete", "id": 99},
        {"do": "class", "id": 1, "class": 0},
    ],
)
def test_what_makes_no_sense_changes_nothing(session: Session, action: dict[str, Any]) -> None:
    session.open(1)
    id_ = add(session, 1)
    before = session.open(1)["objects"]
    with pytest.raises(DataError):
        session.change(1, [{"do": "delete", "id": id_}, action])
    assert session.open(1)["objects"] == before


def test_an_object_of_another_image_is_left_alone(session: Session) -> None:
    session.open(1)
    session.open(2)
    id_ = add(session, 1)
    with pytest.raises(DataError, match="another image"):
        session.change(2, [{"do": "delete", "id": id_}])


def test_classes_have_names_of_their_own(session: Session) -> None:
    for name in ("", "cat", "\x00", "x" * 101):
        with pytest.raises(DataError):
            session.add_class(name)
    session.rename_class(1, "lion")
    assert session.store.classes() == {1: "lion", 2: "dog"}
    with pytest.raises(DataError):
        session.rename_class(1, "dog")


def test_points_and_boxes_read_the_maps_of_an_image_once(tmp_path: Path) -> None:
    readers: list[RectangleReader] = []

    def load(model: str) -> RectangleReader:
        readers.append(RectangleReader(model))
        return readers[-1]

    session = begin(tmp_path, 1, load)
    seen(session, 1)
    candidates = session.at_point(1, 120.0, 60.0, 5)
    assert [one["box"] for one in candidates] == [[100, 30, 150, 110], [100, 30, 124, 110]]
    assert session.at_point(1, 1.0, 1.0, 5) == []
    assert session.at_point(1, -5.0, 1e9, 5) == []
    found = session.in_box(1, (10, 10, 85, 75), [], [])
    assert found is not None
    assert found["box"] == [20, 20, 80, 70]
    both = session.in_box(1, (10, 10, 85, 75), [(120.0, 60.0)], [])
    assert both is not None
    assert both["box"] == [20, 20, 150, 110]
    assert session.in_box(1, (0, 0, 5, 5), [], []) is None
    with pytest.raises(DataError):
        session.in_box(1, (10, 10, 10, 75), [], [])
    assert [reader.looked for reader in readers] == [1]
    session.close()


def test_a_person_does_not_wait_for_the_look_at_another_image(tmp_path: Path) -> None:
    gate = threading.Event()
    gate.set()

    class Slow(RectangleReader):
        def maps(self, image: Any) -> Any:
            assert gate.wait(20)
            return super().maps(image)

    session = begin(tmp_path, 8, Slow)
    until(lambda: session.suggester.left() == 0)
    session.open(1)
    until(lambda: all(session.suggester.ready(image) for image in (1, 2, 3, 4)))
    gate.clear()
    looking = threading.Thread(target=session.at_point, args=(8, 30.0, 30.0, 5))
    looking.start()
    until(lambda: session.suggester._looking.locked())
    start = time.monotonic()
    assert len(session.at_point(1, 30.0, 30.0, 5)) == 2
    assert session.in_box(1, (10, 10, 85, 75), [], []) is not None
    assert time.monotonic() - start < 5
    gate.set()
    looking.join()
    session.close()


def test_the_least_sure_image_is_offered_first(tmp_path: Path) -> None:
    session = begin(tmp_path, 6)
    until(lambda: session.suggester.left() == 0)
    # Of three rectangles the third has score 0.5; with one alone, 0.9, the model is sure.
    assert doubt([0.9]) == pytest.approx(0.1)
    assert doubt([0.9, 0.7, 0.5]) == pytest.approx(0.3)
    assert session.next(6, least_sure=True) == 1
    assert session.next(1, least_sure=True) == 4
    assert session.next(4, least_sure=False) == 5
    session.close()


def test_proposals_of_one_object_are_suggested_once() -> None:
    reader = RectangleReader("general")
    image = torch.zeros((3, 150, 200), dtype=torch.uint8)
    image[:, 20:70, 20:80] = torch.tensor(COLOURS[0], dtype=torch.uint8)[:, None, None]
    image[:, 30:110, 100:150] = torch.tensor(COLOURS[1], dtype=torch.uint8)[:, None, None]
    maps = reader.maps(image)
    whole, half = reader.at_point(maps, 30, 30, 2)
    other = reader.proposals(maps, score=0.0, count=9)[1]
    assert apart([whole, half, other]) == [whole, other]
    assert apart([half, whole]) == [half]
    named = [replace(one, label=0) for one in (whole, half)]
    assert apart(named) == named  # a model with classes has chosen among its own


def test_a_new_model_looks_at_all_images_that_are_not_labelled(tmp_path: Path) -> None:
    session = begin(tmp_path, 4)
    until(lambda: session.suggester.left() == 0)
    assert all(session.suggester.stored(image) for image in (1, 2, 3, 4))
    session.open(1)
    done(session, 1)
    session.suggester.use("blind")
    until(lambda: session.suggester.left() == 0)
    assert [session.suggester.stored(image) for image in (2, 3, 4)] == [[], [], []]
    session.close()


def test_models_are_chosen_by_name_and_remembered(tmp_path: Path) -> None:
    session = begin(tmp_path)
    assert session.overview()["models"] == ["general"]
    for number in (2, 10):
        run = tmp_path / "set" / "labelling" / "runs" / f"run-{number}"
        run.mkdir(parents=True)
        (run / "best.safetensors").write_bytes(b"weights")
    assert session.overview()["models"] == ["general", "run-2", "run-10"]
    session.choose("run-2")
    assert session.suggester.model == str(tmp_path / "set" / "labelling" / "runs" / "run-2")
    with pytest.raises(DataError):
        session.choose("../../elsewhere")
    session.close()
    session = begin(tmp_path)
    assert session.overview()["model"] == "run-2"
    session.choose("general")
    session.close()
    session = begin(tmp_path)
    assert session.overview()["model"] == "general"
    session.close()


def test_a_model_that_cannot_be_loaded_is_said_and_labelling_goes_on(tmp_path: Path) -> None:
    def load(model: str) -> Reader:
        raise CheckpointError("runs/x: damaged")

    session = begin(tmp_path, 2, load)
    until(lambda: session.overview()["model_error"] == "runs/x: damaged")
    with pytest.raises(CheckpointError):
        session.at_point(session.open(1)["id"], 10.0, 10.0, 5)
    add(session, 1)
    session.close()


def test_a_broken_image_is_said_and_the_others_go_on(tmp_path: Path) -> None:
    source = photos(tmp_path / "photos", 3)
    (source / "1.png").write_bytes(b"no image")
    session = begin(tmp_path)
    with pytest.raises(ImageError, match=r"1\.png"):
        session.open(2)
    until(lambda: session.suggester.left() == 0)
    assert session.suggester.stored(3)
    assert session.next(1, least_sure=False) == 3
    session.close()


def test_one_tab_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    lease, now = Lease(), [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0] + 1000)
    assert lease.hold("a")
    assert not lease.hold("b")
    assert lease.hold("b", take=True)
    assert not lease.hold("a")
    now[0] += LEASE + 1
    assert lease.hold("a")  # b was closed without a word
    lease.leave("a")
    assert lease.hold("c")


def test_many_changes_at_once_take_turns(session: Session) -> None:
    session.open(1)
    threads = [threading.Thread(target=add, args=(session, 1)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({one["id"] for one in session.open(1)["objects"]}) == 8


def test_check_names_the_images(session: Session) -> None:
    session.open(2)
    session.change(
        2, [{"do": "add", "class": 1, "shape": SQUARE}, {"do": "add", "class": 1, "shape": SQUARE}]
    )
    done(session, 2)
    answer = session.check()
    (double,) = [one for one in answer["findings"] if one["check"] == "duplicate-object"]
    assert double["id"] == 2
    assert "unread-file" not in {one["check"] for one in answer["findings"]}
    assert answer["verdict"]


def test_nothing_to_train_on(session: Session) -> None:
    with pytest.raises(DataError, match="nothing to train on"):
        session.train(1.0)
