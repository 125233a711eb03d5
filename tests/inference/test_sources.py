from __future__ import annotations

from pathlib import Path

import pytest

from instancefcn.errors import ImageError
from instancefcn.inference.sources import Sources, find_images, find_sources


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


def test_a_folder_gives_the_images_directly_in_it(photos: Path) -> None:
    assert names(find_images([photos]), photos) == ["A.PNG", "b.jpg"]


def test_a_file_is_taken_whatever_its_name(photos: Path) -> None:
    assert names(find_images([str(photos / "notes.txt")]), photos) == ["notes.txt"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.jpg", ["b.jpg"]),
        ("?.*", ["A.PNG", "b.jpg"]),
        ("**/*.[wt]*[pf]", ["deep/c.webp", "deep/er/d.tif"]),
        ("deep/*", ["deep/c.webp"]),  # deep/er is a folder
    ],
)
def test_patterns(photos: Path, pattern: str, expected: list[str]) -> None:
    assert names(find_images([f"{photos}/{pattern}"]), photos) == expected


def test_a_name_that_looks_like_a_pattern_is_a_file_when_it_exists(tmp_path: Path) -> None:
    path = tmp_path / "photo[1].jpg"
    path.write_bytes(b"")
    assert find_images([path]) == [path]


def test_folders_that_a_pattern_begins_with_are_meant_as_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "photos [2024]"
    (folder / "deep").mkdir(parents=True)
    for name in ("1.jpg", "2.jpg", "deep/1.jpg"):
        (folder / name).write_bytes(b"")
    (tmp_path / "photos 2").mkdir()
    (tmp_path / "photos 2" / "1.jpg").write_bytes(b"")
    assert names(find_images([f"{folder}/[1].jpg"]), folder) == ["1.jpg"]
    assert names(find_images([f"{folder}/**/1.*"]), folder) == ["1.jpg", "deep/1.jpg"]
    with pytest.raises(ImageError, match=r"photos \[2024\]/3.jpg: "):
        find_images([f"{folder}/3.jpg"])


def test_patterns_leave_out_what_an_earlier_call_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ours = ["a.overlay.png", "clip.overlay.mp4", "cutouts/a-1-cat.png", "explained/a.png", "objects.csv"]
    for name in ["a.png", "cutouts/b.png", *(f"out/{name}" for name in [*ours, "c.png"])]:
        Path(name).parent.mkdir(exist_ok=True, parents=True)
        Path(name).write_bytes(b"")
    out = tmp_path / "out"
    found = find_sources(["**/*"], out)
    assert [str(path) for path in found.images] == ["a.png", "cutouts/b.png", "out/c.png"]
    assert not found.videos
    with pytest.raises(ImageError, match="results of an earlier call"):
        find_sources(["out/cutouts/*"], out)
    # Whoever names them means them.
    assert len(find_sources(["out/cutouts", "out/a.overlay.png"], out).images) == 2


def test_each_file_comes_once_in_the_order_of_the_sources(photos: Path) -> None:
    found = find_images([photos / "b.jpg", photos, f"{photos}/deep/../b.*g"])
    assert names(found[:2], photos) == ["b.jpg", "A.PNG"]
    assert len(found) == len({path.resolve() for path in found})


def test_home_is_expanded(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(photos.parent))
    assert names(find_images(["~/photos/b.jpg"]), photos) == ["b.jpg"]


def test_all_sources_that_give_nothing_are_named_at_once(photos: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ImageError) as caught:
        find_images([photos / "c.jpg", f"{photos}/*.bmp", empty, photos, tmp_path / "nowhere" / "x.png"])
    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    assert "c.jpg: " in lines[0]
    assert f"did you mean {photos}" in lines[0]
    assert "*.bmp: " in lines[1]
    assert lines[2].startswith(f"{empty}: ")
    assert ".jpeg" in lines[2]
    assert f"the folder {tmp_path / 'nowhere'} does not exist" in lines[3]


def test_an_empty_folder_points_at_deeper_images(photos: Path) -> None:
    (photos / "deep" / "c.webp").unlink()
    with pytest.raises(ImageError, match=r"'.*photos/deep/\*\*/\*\.tif'"):
        find_images([photos / "deep"])


def test_no_source_is_an_error() -> None:
    with pytest.raises(ImageError, match="no source was given"):
        find_images([])
    with pytest.raises(ImageError, match="an empty source was given"):
        find_images([""])


def test_addresses_keep_their_place_among_the_files(photos: Path) -> None:
    found = find_sources(["https://example.org/x.jpg", photos / "b.jpg", "https://example.org/x.jpg"])
    assert found == Sources(("https://example.org/x.jpg", photos / "b.jpg"))


@pytest.mark.parametrize(("word", "number"), [("webcam", 0), ("webcam:0", 0), ("webcam:12", 12)])
def test_webcams(word: str, number: int) -> None:
    assert find_sources([word]) == Sources(webcam=number)


def test_a_file_called_webcam_goes_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "webcam").write_bytes(b"")
    assert find_sources(["webcam"]) == Sources((Path("webcam"),))


def test_all_that_cannot_be_a_source_is_named_at_once(photos: Path) -> None:
    words = ["ftp://example.org/x.jpg", "https://example.org/clip.MP4?x=1", "webcam", photos / "none.jpg"]
    with pytest.raises(ImageError) as caught:
        find_sources(words)
    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("ftp://example.org/x.jpg: ")
    assert lines[1].startswith("https://example.org/clip.MP4?x=1: ")
    assert "none.jpg: " in lines[2]
    assert "webcam" in lines[3]


def test_where_only_images_are_read_nothing_else_is_taken(photos: Path) -> None:
    (photos / "clip.mp4").write_bytes(b"")
    with pytest.raises(ImageError, match="only image files"):
        find_images([photos / "b.jpg", photos / "clip.mp4"])


@pytest.mark.parametrize("name", ["~nobody.jpg", "~$draft.png"])
def test_a_name_that_begins_like_a_home_folder_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ImageError, match=name.replace("$", r"\$")):
        find_sources([name])
    Path(name).touch()
    assert find_sources([name]).images == (Path(name),)


def test_what_no_file_or_address_can_be_called_is_named(photos: Path) -> None:
    long = "a" * 300
    sources = [str(photos), f"{long}.jpg", f"{long}*", "http://[bad/x.jpg", "http://localhost:none/x.jpg"]
    with pytest.raises(ImageError) as caught:
        find_sources(sources)
    lines = str(caught.value).splitlines()
    assert len(lines) == 4
    assert "(File name too long)" in lines[0]
    assert lines[2].startswith("http://[bad/x.jpg: ")
    assert lines[3].startswith("http://localhost:none/x.jpg: ")
