"""Labelling, in a real browser."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs fastapi")

import instancefcn
from instancefcn.data.dataset import rasterize
from instancefcn.data.formats.layouts import open_datasets
from instancefcn.studio.labelling import trainer
from instancefcn.studio.labelling.opening import open_labels
from instancefcn.studio.labelling.session import GENERAL_MODEL, Session
from instancefcn.studio.labelling.suggest import Reader, load_reader
from instancefcn.studio.site import build_app
from labelling import RectangleReader, photos, save_image
from served import Served, serving, watched

pytestmark = pytest.mark.browser

RED, GREEN, BLUE = (40, 45), (125, 70), (65, 110)
"""Inside the rectangles of image 0."""


class Sitting:
    """A session under a server, and a page of it."""

    def __init__(self, session: Session, page: Any) -> None:
        self.session, self.page, self.store = session, page, session.store

    def at(self, x: float, y: float) -> tuple[float, float]:
        """A point of the image on the page."""
        stage = self.page.locator("#stage")
        scale, left, top = (float(part) for part in stage.get_attribute("data-view").split())
        box = stage.bounding_box()
        return box["x"] + left + scale * x, box["y"] + top + scale * y

    def hover(self, x: float, y: float) -> None:
        self.page.mouse.move(*self.at(x, y))

    def click(self, x: float, y: float, *keys: str, button: str = "left") -> None:
        for key in keys:
            self.page.keyboard.down(key)
        self.page.mouse.click(*self.at(x, y), button=button)
        for key in keys:
            self.page.keyboard.up(key)

    def drag(self, *points: tuple[float, float]) -> None:
        self.page.mouse.move(*self.at(*points[0]))
        self.page.mouse.down()
        for point in points[1:]:
            self.page.mouse.move(*self.at(*point), steps=6)
        self.page.mouse.up()

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def boxes(self, image: int = 1) -> list[list[float]]:
        """The boxes of an image's objects on the disk."""
        return [one["box"] for _, one in self.store.objects(image)]

    def until(self, condition: Callable[[], Any], seconds: float = 20) -> Any:
        """The condition's first true value, when the page has heard of it."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if value := condition():
                self.page.locator("#stage:not([aria-busy=true])").wait_for()
                return value
            self.page.wait_for_timeout(30)
        raise AssertionError("it did not come true")

    def suggested(self, count: int) -> None:
        """Wait for this many suggestions."""
        words = f"{count} suggestion{'' if count == 1 else 's'}"
        self.page.locator("#foot-text", has_text=words).wait_for()

    def slide(self, score: float) -> None:
        self.page.locator("#score").fill(str(score))


@pytest.fixture
def sitting(tmp_path: Path, browser: Any) -> Iterator[Sitting]:
    source = photos(tmp_path / "photos", 6)
    session = Session(open_labels(source, tmp_path / "set", ["cat", "dog"]), None, RectangleReader)
    with serving(build_app(Served().worker(), Served().worker(), "predict", session)) as url:
        page = watched(browser, url)
        page.locator("#list .item").first.wait_for()
        sitting = Sitting(session, page)
        sitting.suggested(3)
        yield sitting
        page.close()
        assert page.errors == []
        assert page.elsewhere == []
    session.close()


def test_hover_click_and_step(sitting: Sitting) -> None:
    sitting.slide(0.95)
    sitting.suggested(0)
    sitting.hover(*RED)
    sitting.page.locator("#hint", has_text="cat? 0.90").wait_for()
    sitting.page.locator("#hint", has_text="2 of 2 here").wait_for()
    sitting.press("[")
    sitting.page.locator("#hint", has_text="1 of 2 here").wait_for()
    sitting.click(*RED)
    assert sitting.until(sitting.boxes) == [[20, 20, 49, 70]]  # the smaller one: its left half
    sitting.press("Control+z")
    sitting.until(lambda: sitting.boxes() == [])
    sitting.hover(150, 140)
    sitting.hover(*RED)
    sitting.page.locator("#hint", has_text="2 of 2 here").wait_for()
    sitting.click(*RED)
    assert sitting.until(sitting.boxes) == [[20, 20, 80, 70]]
    # Its class by a number; and of the next one too.
    sitting.press("2")
    sitting.until(lambda: sitting.store.counts() == {2: 1})
    sitting.hover(*GREEN)
    sitting.page.locator("#hint", has_text="dog?").wait_for()


def test_suggestions_above_the_slider_are_accepted_with_enter(sitting: Sitting) -> None:
    sitting.slide(0.6)
    sitting.suggested(2)
    sitting.press("Enter")
    sitting.until(lambda: sitting.store.labelled()[0] == 1)
    assert sitting.boxes() == [[20, 20, 80, 70], [100, 30, 150, 110]]
    sitting.page.locator("#where", has_text="1.png").wait_for()
    sitting.page.locator("#share-text", has_text="1 of 6 labelled").wait_for()
    # Undoing it leads back to the image.
    sitting.press("Control+z")
    sitting.page.locator("#where", has_text="0.png").wait_for()
    sitting.until(lambda: sitting.boxes() == [])
    sitting.suggested(2)


def test_a_box_is_dragged_and_corrected_by_clicks(sitting: Sitting) -> None:
    sitting.slide(1)
    sitting.drag((12, 12), (86, 78))
    sitting.until(lambda: sitting.boxes() == [[20, 20, 80, 70]])
    sitting.click(*GREEN, "Shift")
    sitting.until(lambda: sitting.boxes() == [[20, 20, 150, 110]])
    sitting.click(*RED, "Alt")
    sitting.until(lambda: sitting.boxes() == [[100, 30, 150, 110]])
    sitting.press("Control+z", "Control+z")
    sitting.until(lambda: sitting.boxes() == [[20, 20, 80, 70]])
    sitting.press("Control+y")
    sitting.until(lambda: sitting.boxes() == [[20, 20, 150, 110]])


def test_brush_and_eraser(sitting: Sitting) -> None:
    sitting.slide(1)
    sitting.press("b")
    sitting.drag((30, 30), (70, 30))
    (box,) = sitting.until(sitting.boxes)
    assert box[2] - box[0] > 40
    first = sitting.store.objects(1)[0][1]["area"]
    sitting.drag((50, 30), (50, 60))
    sitting.until(lambda: sitting.store.objects(1)[0][1]["area"] > 1.3 * first)
    grown = sitting.store.objects(1)[0][1]["area"]
    sitting.press("e")
    sitting.drag((70, 20), (70, 40))
    sitting.until(lambda: sitting.store.objects(1)[0][1]["area"] < grown)
    assert len(sitting.boxes()) == 1
    sitting.press("]", "]")
    assert float(sitting.page.locator("#radius").input_value()) > 20


def test_a_polygon_is_drawn_and_its_points_are_moved_added_and_deleted(sitting: Sitting) -> None:
    sitting.slide(1)
    sitting.press("p")
    for point in ((150, 20), (190, 20), (190, 60), (150, 60)):
        sitting.click(*point)
    sitting.press("Enter")
    sitting.until(lambda: [[round(v) for v in box] for box in sitting.boxes()] == [[150, 20, 190, 60]])

    def ring() -> list[int]:
        return [round(v) for v in sitting.store.objects(1)[0][1]["segmentation"][0]]

    assert ring() == [150, 20, 190, 20, 190, 60, 150, 60]
    sitting.drag((190, 60), (180, 80))
    sitting.until(lambda: ring() == [150, 20, 190, 20, 180, 80, 150, 60])
    sitting.drag((170, 20), (170, 10))  # a new point in the middle of a side
    sitting.until(lambda: ring() == [150, 20, 170, 10, 190, 20, 180, 80, 150, 60])
    sitting.click(170, 10, "Alt")
    sitting.until(lambda: ring() == [150, 20, 190, 20, 180, 80, 150, 60])
    sitting.hover(180, 80)
    sitting.press("Delete")
    sitting.until(lambda: ring() == [150, 20, 190, 20, 150, 60])
    sitting.press("Escape", "Delete")
    assert len(sitting.boxes()) == 1  # nothing is selected


def test_objects_are_deleted_and_had_back(sitting: Sitting) -> None:
    sitting.click(*RED)
    sitting.until(sitting.boxes)
    sitting.suggested(2)
    sitting.press("Delete")
    sitting.until(lambda: sitting.boxes() == [])
    sitting.suggested(2)  # its suggestion stays away
    sitting.hover(*GREEN)
    sitting.page.locator("#hint", has_text="0.70").wait_for()
    sitting.press("Delete")
    sitting.suggested(1)
    sitting.page.locator("#deleted").click()
    sitting.page.locator("#bin button", has_text="3,000 pixels").click()
    sitting.until(lambda: sitting.boxes() == [[20, 20, 80, 70]])


def test_everything_by_keyboard(sitting: Sitting) -> None:
    sitting.slide(1)
    sitting.page.locator("#stage").focus()
    # From the middle (100, 75) into the green rectangle, and a click.
    sitting.press(*["ArrowRight"] * 8, "s")
    sitting.until(lambda: sitting.boxes() == [[100, 30, 150, 110]])
    sitting.press("Delete", "v", "d", *["ArrowDown"] * 8, *["Shift+ArrowLeft"] * 8, "d")
    sitting.until(lambda: len(sitting.boxes()) == 1)
    assert sitting.page.locator("#announcer").inner_text()
    sitting.press("?")
    sitting.page.locator("#keys[open]").wait_for()
    sitting.press("Escape", "PageDown")
    sitting.page.locator("#where", has_text="1.png").wait_for()
    sitting.press("PageUp", "u")
    sitting.until(lambda: sitting.store.labelled()[0] == 1)
    sitting.press("n")
    sitting.page.locator("#where", has_text="1.png").wait_for()


def test_the_next_image_is_the_least_sure(sitting: Sitting) -> None:
    sitting.until(lambda: sitting.session.suggester.left() == 0)
    sitting.page.locator("#order").select_option("unsure")
    sitting.page.locator("#skip").click()
    sitting.page.locator("#where", has_text="3.png").wait_for()


def test_classes_are_added_renamed_and_searched_images_found(sitting: Sitting) -> None:
    sitting.page.locator("#class-name").fill("<b>owl</b>")
    sitting.press("Enter")
    sitting.page.locator("#classes button[aria-checked=true]", has_text="<b>owl</b>").wait_for()
    sitting.page.locator("#classes button", has_text="cat").dblclick()
    sitting.page.keyboard.type("lion")
    sitting.press("Enter")
    sitting.until(lambda: list(sitting.store.classes().values()) == ["lion", "dog", "<b>owl</b>"])
    sitting.page.locator("#search").fill("4.PNG")
    sitting.until(lambda: sitting.page.locator("#list .item").count() == 1)
    sitting.page.locator("#list .item").click()
    sitting.page.locator("#where", has_text="4.png").wait_for()


def test_a_second_tab_is_told_and_may_take_over(sitting: Sitting, browser: Any) -> None:
    address = sitting.page.url.partition("#")[0]
    other = browser.new_page()
    other.goto(address)
    other.locator("#taken").wait_for()
    assert sitting.page.locator("#taken").is_hidden()
    other.locator("#take").click()
    other.locator("#taken").wait_for(state="hidden")
    sitting.page.locator("#taken").wait_for()
    sitting.click(*RED)
    sitting.page.locator(".toast.wrong", has_text="another tab").wait_for()
    assert sitting.boxes() == []
    sitting.page.errors.clear()  # the browser notes the status 409
    # A tab that is left says so.
    other.goto("about:blank")
    sitting.page.locator("#taken").wait_for(state="hidden")
    sitting.click(*RED)
    sitting.until(sitting.boxes)
    other.close()


def test_what_is_labelled_on_the_page_is_a_data_set_and_outlives_it(
    sitting: Sitting, browser: Any, tmp_path: Path
) -> None:
    sitting.press("Enter")
    sitting.page.locator("#where", has_text="1.png").wait_for()
    sitting.suggested(2)
    sitting.press("Enter")
    sitting.page.locator("#where", has_text="2.png").wait_for()
    sitting.until(lambda: (tmp_path / "set" / "train.json").is_file())

    def areas() -> list[list[int]]:
        (train,) = open_datasets(tmp_path / "set", ["train"])
        return [rasterize(image).areas().tolist() for image in train.images]

    sitting.until(lambda: areas() == [[3000, 4000, 2000], [4000, 2000]])
    sitting.page.reload()
    sitting.page.locator("#share-text", has_text="2 of 6 labelled").wait_for()
    sitting.page.locator("#check").click()
    sitting.page.locator("#findings[open] #verdict").wait_for()


def test_large_images_are_sharp_when_zoomed_and_narrow_windows_look(tmp_path: Path, browser: Any) -> None:
    source = tmp_path / "photos"
    save_image(source / "large.png", [(100, 100, 2500, 1900)], (4000, 2600))
    session = Session(open_labels(source, tmp_path / "set", []), None, RectangleReader)
    with serving(build_app(Served().worker(), Served().worker(), "predict", session)) as url:
        page = watched(browser, url, viewport={"width": 390, "height": 844}, has_touch=True)
        sitting = Sitting(session, page)
        sitting.suggested(1)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        with page.expect_request("**/tiles/**"):
            page.locator("#stage").focus()
            sitting.press(*["+"] * 14)
        before = page.locator("#stage").get_attribute("data-view")
        page.locator("#fit").tap()
        sitting.until(lambda: page.locator("#stage").get_attribute("data-view") != before)
        page.locator("[data-pane=images]").tap()
        page.locator("#list .item", has_text="large.png").wait_for()
        page.locator("[data-pane=side]").tap()
        page.locator("#train").wait_for()
        page.close()
        assert page.errors == []
    session.close()


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_a_server_that_is_killed_goes_on_where_it_was(tmp_path: Path, browser: Any) -> None:
    source, out = photos(tmp_path / "photos", 3), tmp_path / "set"
    script = Path(__file__).parents[1] / "labelling.py"
    paths = [str(Path(instancefcn.__file__).parents[1]), str(script.parent)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}

    @contextmanager
    def server(port: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
        command = [sys.executable, str(script), str(source), str(out), port]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
            assert process.stdout is not None
            yield process, process.stdout.readline().split()[0]
            process.kill()

    with server("0") as (process, url):
        page = watched(browser, url)
        page.set_default_timeout(120_000)
        page.locator("#foot-text", has_text="3 suggestions").wait_for()
        page.keyboard.press("Enter")
        page.locator("#where", has_text="1.png").wait_for()
        page.locator("#foot-text", has_text="2 suggestions").wait_for()
        page.keyboard.press("b")
        box = page.locator("#stage").bounding_box()
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.locator("#object-count", has_text="1").wait_for()
        process.send_signal(signal.SIGKILL)
    with server(url.rpartition(":")[2]) as (_, again):
        assert again == url
        page.reload()
        page.locator("#share-text", has_text="1 of 3 labelled").wait_for()
        page.locator("#where", has_text="1.png").wait_for()
        page.locator("#object-count", has_text="1").wait_for()
        page.keyboard.press("Control+z")
        page.locator("#object-count", has_text="0").wait_for()
        page.keyboard.press("Control+z")
        page.locator("#where", has_text="0.png").wait_for()
        page.locator("#share-text", has_text="0 of 3 labelled").wait_for()
        page.close()


@pytest.mark.slow
def test_a_model_is_trained_from_the_page_and_suggests(
    tmp_path: Path, browser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Path(__file__).parents[1] / "tiny_command.py"
    monkeypatch.setattr(trainer, "COMMAND", (sys.executable, str(script)))
    monkeypatch.setattr(trainer, "NICE", 0)
    monkeypatch.setenv("PYTHONPATH", str(Path(instancefcn.__file__).parents[1]))

    def load(model: str) -> Reader:
        return RectangleReader(model) if model == GENERAL_MODEL else load_reader(model)

    source = photos(tmp_path / "photos", 8)
    labels = open_labels(source, tmp_path / "set", ["cat"])
    session = Session(labels, None, load, ["--model", "tiny"])
    with serving(build_app(Served().worker(), Served().worker(), "predict", session)) as url:
        page = watched(browser, url)
        sitting = Sitting(session, page)
        for number in range(6):
            page.locator("#where", has_text=f"{number}.png").wait_for()
            sitting.suggested(3 - number % 3)
            sitting.press("Enter")
            sitting.until(lambda: sitting.store.labelled()[0] == number + 1)  # noqa: B023
        page.locator("#share-text", has_text="6 of 8 labelled (1 held out)").wait_for()
        page.locator("#minutes").fill("0.1")
        page.locator("#train").click()
        page.locator("#training-bar").wait_for()
        # The page stays usable while it trains.
        sitting.slide(1)
        sitting.press("b")
        sitting.drag((30, 30), (70, 30))
        sitting.until(lambda: sitting.boxes(7))
        sitting.until(lambda: page.locator("#model").input_value() == "run-1", 500)
        progress = session.trainer.progress()
        assert progress is not None
        assert (progress.state, progress.ap is not None, len(progress.losses) > 0) == ("done", True, True)
        # What is not labelled is looked at by the new model, which has classes.
        sitting.until(lambda: session.suggester.left() == 0, 120)
        assert all(session.suggester.stored(image) is not None for image in (7, 8))
        assert session.overview()["ap"] is not None
        # The general model suggests again, if that is better.
        page.locator("#model").select_option("general")
        sitting.until(lambda: session.suggester.model == GENERAL_MODEL)
        page.locator("#model").select_option("run-1")
        sitting.until(lambda: session.overview()["model"] == "run-1")
        page.close()
        assert page.errors == []
    session.close()
    again = Session(open_labels(tmp_path / "set", None, []), None, load)
    assert again.overview()["model"] == "run-1"
    again.close()
