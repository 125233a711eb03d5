"""Files below folders with links, and images found by the ends of other machines' paths."""

from __future__ import annotations

from pathlib import Path

import pytest

from instancefcn.data.paths import ImageFinder, existing_end, files_below, images_below


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_linked_folders_and_files_are_followed(tmp_path: Path) -> None:
    top, far = tmp_path / "data" / "images", tmp_path / "far"
    touch(top / "a.jpg", far / "b.jpg", far / "deep" / "c.PNG", far / ".hidden" / "d.jpg", tmp_path / "e.jpg")
    (top / "site").symlink_to(far)
    (top / "e.jpg").symlink_to(tmp_path / "e.jpg")
    (top / "gone.jpg").symlink_to(tmp_path / "nothing")
    names = [path.relative_to(top).as_posix() for path in images_below(top)]
    assert names == ["a.jpg", "e.jpg", "gone.jpg", "site/b.jpg", "site/deep/c.PNG"]


def test_loops_of_links_end_and_lead_to_no_other_data(tmp_path: Path) -> None:
    top = tmp_path / "images" / "train"
    touch(top / "a.jpg", top / "sub" / "b.jpg", tmp_path / "images" / "val" / "v.jpg")
    (top / "loop").symlink_to(top)
    (top / "sub" / "up").symlink_to(tmp_path / "images")  # a folder around the data
    (top / "again").symlink_to(top / "sub")
    assert [path.relative_to(top).as_posix() for path in files_below(top)] == ["a.jpg", "sub/b.jpg"]


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("C:\\Users\\me\\images\\a.jpg", "a.jpg"),
        ("/home/me/set/siteB/b.jpg", "siteB/b.jpg"),
        ("..\\..\\upload\\4\\a.jpg", "a.jpg"),
        ("https://host/data/a.jpg?token=1#x", "a.jpg"),
        ("/data/local-files/?d=mice/with%20blank.jpg", "with blank.jpg"),
        ("upload/4/90fbb0c7-a.jpg", "a.jpg"),
        ("/home/me/siteB/a.jpg", None),  # siteB/ is here, so its a.jpg is missing
        ("siteB/a.jpg", None),
        ("/home/me/../../siteC", None),
        ("other/b.jpg", None),
        ("x" * 5000, None),
        ("\0", None),
    ],
)
def test_the_end_of_another_machines_path(tmp_path: Path, written: str, found: str | None) -> None:
    touch(tmp_path / "a.jpg", tmp_path / "siteB" / "b.jpg", tmp_path / "with blank.jpg")
    finder = ImageFinder(tmp_path)
    path, problem = finder.find(written)
    assert path == (None if found is None else tmp_path / found)
    assert (problem is None) == (found is not None)
    assert len(finder.notes()) == (found is not None)
    if found is not None:
        assert str(tmp_path / found) in finder.notes()[0]


def test_other_files_of_the_name_are_named(tmp_path: Path) -> None:
    touch(tmp_path / "train" / "b.jpg", tmp_path / "val" / "b.jpg")
    for written in ("/home/me/b.jpg", "../b.jpg", "b.jpg"):
        path, problem = ImageFinder(tmp_path).find(written)
        assert path is None
        assert '"train/b.jpg" or "val/b.jpg"' in str(problem)


def test_an_absolute_path_into_the_folder_is_no_path_of_another_machine(tmp_path: Path) -> None:
    touch(tmp_path / "a.jpg")
    finder = ImageFinder(tmp_path)
    assert finder.find(str(tmp_path / "a.jpg")) == (tmp_path / "a.jpg", None)
    assert finder.notes() == ()


def test_a_folder_beside_comes_first(tmp_path: Path) -> None:
    touch(tmp_path / "a.jpg", tmp_path / "deep" / "a.jpg")
    assert ImageFinder(tmp_path).find("D:\\x\\a.jpg", tmp_path / "deep")[0] == tmp_path / "deep" / "a.jpg"


def test_the_end_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "images" / "train").mkdir(parents=True)
    assert existing_end("../datasets/mice/images/train", tmp_path) == tmp_path / "images" / "train"
    assert existing_end("../datasets/mice/images/val", tmp_path) is None
