from __future__ import annotations

from pathlib import Path

import pytest

from instancefcn.errors import ImageError
from instancefcn.inference.sources import find_pictures


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in (
        "b.jpg",
        "A.PNG",
        "notes.txt",
        ".hidden.jpg",
        "b.overlay.png",
        "deep/c.webp",
        "deep/er/d.tif",
    ):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tmp_path / "photos"


def names(paths: list[Path], root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in paths]


def test_a_folder_gives_the_pictures_directly_in_it(photos: Path) -> None:
    assert names(find_pictures([photos]), photos) == ["A.PNG", "b.jpg"]


def test_a_file_is_taken_whatever_its_name(photos: Path) -> None:
    assert names(find_pictures([str(photos / "notes.txt")]), photos) == ["notes.txt"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.jpg", ["b.jpg"]),
        ("?.*", ["A.PNG", "b.jpg", "b.overlay.png"]),
        ("**/*.[wt]*[pf]", ["deep/c.webp", "deep/er/d.tif"]),
        ("deep/*", ["deep/c.webp"]),  # the folder deep/er is no file
    ],
)
def test_patterns(photos: Path, pattern: str, expected: list[str]) -> None:
    assert names(find_pictures([f"{photos}/{pattern}"]), photos) == expected


def test_a_name_that_looks_like_a_pattern_is_a_file_when_it_exists(tmp_path: Path) -> None:
    path = tmp_path / "photo[1].jpg"
    path.write_bytes(b"")
    assert find_pictures([path]) == [path]


def test_each_file_comes_once_in_the_order_of_the_sources(photos: Path) -> None:
    found = find_pictures([photos / "b.jpg", photos, f"{photos}/deep/../b.*g"])
    assert names(found[:2], photos) == ["b.jpg", "A.PNG"]
    assert len(found) == len({path.resolve() for path in found})


def test_home_is_expanded(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(photos.parent))
    assert names(find_pictures(["~/photos/b.jpg"]), photos) == ["b.jpg"]


def test_all_sources_that_give_nothing_are_named_at_once(photos: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ImageError) as caught:
        find_pictures([photos / "c.jpg", f"{photos}/*.bmp", empty, photos, tmp_path / "nowhere" / "x.png"])
    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    assert "c.jpg: there is no such file" in lines[0]
    assert "did you mean" in lines[0]
    assert "*.bmp: no file matches this pattern" in lines[1]
    assert "no picture lies in this folder" in lines[2]
    assert ".jpeg" in lines[2]
    assert f"the folder {tmp_path / 'nowhere'} does not exist" in lines[3]


def test_an_empty_folder_points_at_deeper_pictures(photos: Path) -> None:
    (photos / "deep" / "c.webp").unlink()
    with pytest.raises(ImageError, match=r"deeper pictures are reached by '.*photos/deep/\*\*/\*\.tif'"):
        find_pictures([photos / "deep"])


def test_no_source_is_an_error() -> None:
    with pytest.raises(ImageError, match="no source was given"):
        find_pictures([])
