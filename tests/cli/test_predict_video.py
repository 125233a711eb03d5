"""Videos in and out: frames, times, and what was found in them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fakes import coloured, interrupt_at, save_coloured
from instancefcn.errors import ImageError, MissingPackageError
from instancefcn.inference.sources import find_sources
from instancefcn.inference.video import Video

av = pytest.importorskip("av", reason="needs av")
Run = Callable[..., Any]


def save_video(path: Path, frames: int = 12, size: tuple[int, int] = (120, 80)) -> Path:
    """The coloured image, brighter from frame to frame; 12.5 frames a second, the last two far apart."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(25, 2))
        stream.width, stream.height = size
        stream.pix_fmt = "yuv444p"
        stream.codec_context.time_base = Fraction(1, 25)
        stream.options = {"crf": "10", "preset": "veryfast"}
        image = np.asarray(coloured(*size))
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(image // 2 + np.uint8(120 * number // frames), format="rgb24")
            if number < 3:
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = 2 * number + (10 if number == frames - 1 else 0)
            frame.time_base = Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def interrupt_behind(monkeypatch: pytest.MonkeyPatch, frame: int | None, video: str = "") -> None:
    """Ctrl-C after this many frames (all when None) of a video, of any when none is named."""
    frames = Video.frames

    def interrupted(self: Video, most: int | None = None) -> Any:
        yield from frames(self, frame or most)
        if str(self.name).endswith(video):
            raise KeyboardInterrupt

    monkeypatch.setattr(Video, "frames", interrupted)


def times(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        return [float(frame.time) for frame in container.decode(video=0)]


def test_frames_come_in_order_with_their_times(tmp_path: Path) -> None:
    path = save_video(tmp_path / "clip.mp4")
    video = Video(path)
    assert video.count == 12
    frames = list(video.frames())
    assert [frame.frame for frame in frames] == list(range(12))
    assert frames[0].image is not None
    assert frames[0].image.shape == (3, 80, 120)
    assert np.abs(frames[0].image.permute(1, 2, 0).numpy().astype(int) - np.asarray(coloured())).mean() < 8
    base = video.clock.base
    assert [float(video.clock.ticks[n] * base) for n in range(12)] == pytest.approx(times(path))
    assert len(list(Video(path).frames(5))) == 5


def test_an_annotated_video_keeps_size_and_times(run: Run, tmp_path: Path) -> None:
    path = save_video(tmp_path / "clip.mp4", size=(120, 80))
    result = run("predict", path, "--out", "out", "--save", "overlay,coco,csv,labelmap", "--batch", "3")
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "clip.coco.json",
        "clip.overlay.mp4",
        "labelmaps",
        "objects.csv",
    ]
    assert times(tmp_path / "out" / "clip.overlay.mp4") == pytest.approx(times(path))
    with av.open(str(tmp_path / "out" / "clip.overlay.mp4")) as movie:
        first = next(movie.decode(video=0)).to_ndarray(format="rgb24")
    assert first.shape == (80, 120, 3)
    whole = json.loads((tmp_path / "out" / "clip.coco.json").read_text())
    assert [(image["id"], image["frame"]) for image in whole["images"]] == [(n + 1, n) for n in range(12)]
    assert [a["category_id"] for a in whole["annotations"] if a["image_id"] == 2] == [3, 8]
    rows = (tmp_path / "out" / "objects.csv").read_text().splitlines()
    assert rows[1].startswith(f"{path},1,red,0.9")
    assert rows[1].endswith(",0")
    assert len(list((tmp_path / "out" / "labelmaps").iterdir())) == 12
    assert "clip-000011.png" in {p.name for p in (tmp_path / "out" / "labelmaps").iterdir()}
    assert "in 12 frames" in result.stderr.splitlines()[-1]


def test_odd_sides_and_fewer_frames(run: Run, tmp_path: Path) -> None:
    path = save_video(tmp_path / "odd.mkv", size=(119, 79))
    result = run("predict", path, "--out", "out", "--frames", "4", "--json")
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["frame"] for line in lines] == [0, 1, 2, 3]
    assert [one["class"] for one in lines[0]["instances"]] == ["red", "green"]
    assert len(times(tmp_path / "out" / "odd.overlay.mp4")) == 4


def test_images_and_videos_together(run: Run, photos: Path, tmp_path: Path) -> None:
    save_video(photos / "a.mp4", frames=3)
    result = run("predict", photos / "a.png", photos / "a.mp4", "--out", "out", "--save", "coco")
    assert result.exit_code == 0, result.output
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert names == ["a_mp4.coco.json", "a_png.coco.json", "predictions.json"]
    assert "in 1 of 1 images and 3 frames" in result.stderr


def test_an_unreadable_video_is_reported_and_the_others_are_processed(run: Run, tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_text("not a video")
    save_video(tmp_path / "good.mp4", frames=2)
    result = run("predict", "bad.mp4", "good.mp4", "--out", "out", "--json")
    assert result.exit_code == 1
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(line["file"], "error" in line) for line in lines] == [
        ("bad.mp4", True),
        *[("good.mp4", False)] * 2,
    ]
    assert "error: bad.mp4" in result.stderr
    assert "2 frames" in result.stderr
    assert not list((tmp_path / "out").glob("bad*"))


def test_a_video_that_breaks_off_gives_what_there_is(run: Run, tmp_path: Path) -> None:
    content = save_video(tmp_path / "whole.ts", frames=40).read_bytes()
    (tmp_path / "half.ts").write_bytes(content[: len(content) // 2])
    result = run("predict", "half.ts", "--out", "out")
    frames = len(times(tmp_path / "out" / "half.overlay.mp4"))
    assert 0 < frames < 40
    assert f"in {frames} frames" in result.stderr


def test_a_webcam_that_is_not_there(run: Run) -> None:
    result = run("predict", "webcam:77")
    assert result.exit_code == 1
    assert "error: webcam:77" in result.stderr


def test_a_webcam_stops_at_an_interrupt_and_keeps_its_results(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from instancefcn.inference import video

    path = save_video(tmp_path / "clip.mp4")
    monkeypatch.setattr(video, "_open_webcam", lambda av, number: av.open(str(path)))
    interrupt_behind(monkeypatch, 5)
    result = run("predict", "webcam", "--out", "out")
    assert result.exit_code == 0, result.output
    written = json.loads((tmp_path / "out" / "webcam.coco.json").read_text())
    assert 1 <= len(written["images"]) <= 5
    assert len(times(tmp_path / "out" / "webcam.overlay.mp4")) == len(written["images"])


def test_an_interrupted_video_leaves_no_half_file(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_video(tmp_path / "clip.mp4")
    interrupt_behind(monkeypatch, 5)
    assert run("predict", path, "--out", "out").exit_code == 130
    assert not list(tmp_path.glob("out/*"))


def test_an_interrupted_video_keeps_the_table_of_what_came_before(
    run: Run, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.mp4", "b.mp4"):
        save_video(tmp_path / name, frames=3)
    interrupt_behind(monkeypatch, None, "b.mp4")
    result = run("predict", photos / "a.png", "a.mp4", "b.mp4", "--out", "out", "--save", "csv")
    assert result.exit_code == 130, result.output
    rows = [line.split(",") for line in (tmp_path / "out" / "objects.csv").read_text().splitlines()[1:]]
    assert [(Path(row[0]).name, row[-1]) for row in rows[::2]] == [
        ("a.png", ""),
        *[("a.mp4", str(frame)) for frame in range(3)],
    ]


def test_an_interrupt_before_the_video_keeps_what_is_done(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing can be resumed: `--resume` is for images alone."""
    save_video(tmp_path / "clip.mp4", frames=1)
    for number in range(6):
        save_coloured(tmp_path / f"{number}.png")
    interrupt_at(monkeypatch, 3)
    images = [f"{number}.png" for number in range(6)]
    result = run("predict", *images, "clip.mp4", "--out", "out", "--save", "coco,csv")
    assert result.exit_code == 130
    whole = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert 1 <= len(whole["images"]) <= 3
    rows = (tmp_path / "out" / "objects.csv").read_text().splitlines()[1:]
    assert len(rows) == len(whole["annotations"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--save", "yolo,labelme"], "yolo,labelme"),
        (["--explain"], "explain"),
    ],
)
def test_what_videos_cannot_have(run: Run, tmp_path: Path, words: list[str], message: str) -> None:
    save_video(tmp_path / "clip.mp4", frames=1)
    result = run("predict", "clip.mp4", *words)
    assert result.exit_code == 2
    assert message in result.stderr


def test_without_the_package_the_command_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = save_video(tmp_path / "clip.mp4", frames=1)
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(MissingPackageError, match="pip install av"):
        Video(path)


def test_sound_alone_is_not_a_video(tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(ImageError, match=r"sound\.mp4"):
        Video(path)


def test_videos_are_told_by_their_suffix(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.MOV", "c.png"):
        (tmp_path / name).write_bytes(b"")
    found = find_sources([tmp_path / "a.mp4", f"{tmp_path}/*.*"])
    assert [path.name for path in found.videos] == ["a.mp4", "b.MOV"]
    assert [str(path) for path in found.images] == [str(tmp_path / "c.png")]


def test_frames_and_images_do_not_share_names(run: Run, photos: Path, tmp_path: Path) -> None:
    save_video(photos / "clip.mp4", frames=2)
    shutil.copy(photos / "a.png", photos / "clip-000001.png")
    result = run(
        "predict", photos / "clip.mp4", photos / "clip-000001.png", "--out", "out", "--save", "labelmap"
    )
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in (tmp_path / "out" / "labelmaps").iterdir()) == [
        "clip-000001.png",
        "clip-video1-000000.png",
        "clip-video1-000001.png",
    ]
