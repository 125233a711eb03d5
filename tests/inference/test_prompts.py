"""Masks under a pointer and in a dragged box."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from instancefcn.errors import ConfigError
from instancefcn.inference.prompts import Candidate, ImageMaps, PromptReader
from instancefcn.inference.prompts.box_mask import best_threshold, enlarged, mask_in_box
from instancefcn.inference.prompts.views import Evidence, points_of, view_around
from small import photograph, predictor_of, small_fcis, small_instance_fcn

BOX = (10.0, 20.0, 31.0, 41.0)
"""Of 21 x 21 pixels, as the grids have cells."""


def painted(mask: Tensor, sureness: float = 30.0) -> Evidence:
    """A network that sees a mask [21, 21] in `BOX`; by default more certainly than anything else counts."""
    return Evidence(torch.where(mask, sureness, -sureness)[None], torch.tensor([BOX]), 1.0)


def disc() -> Tensor:
    """bool [21, 21]: touches all four sides."""
    steps = torch.arange(21) - 10.0
    return steps[:, None] ** 2 + steps[None] ** 2 <= 110


def gray(height: int = 60, width: int = 50) -> Tensor:
    return torch.full((3, height, width), 128, dtype=torch.uint8)


@pytest.fixture(scope="module", params=[small_instance_fcn, small_fcis])
def reader(request: pytest.FixtureRequest) -> PromptReader:
    return PromptReader(predictor_of(request.param()))


@pytest.fixture(scope="module")
def maps(reader: PromptReader) -> ImageMaps:
    return reader.maps(photograph(90, 120))


def pasted(candidate: Candidate) -> Tensor:
    return candidate.mask.paste(0)


def test_what_the_network_is_sure_of_is_the_mask() -> None:
    mask, expected = mask_in_box(gray(), BOX, painted(disc()), [], [])
    wanted = torch.zeros(60, 50, dtype=torch.bool)
    wanted[20:41, 10:31] = disc()
    assert torch.equal(mask.paste(0), wanted)
    assert expected > 0.99


def test_a_network_that_knows_nothing_leaves_the_middle_of_the_box() -> None:
    nothing = Evidence(torch.zeros(1, 21, 21), torch.tensor([BOX]), 1.0)
    mask, expected = mask_in_box(gray(), BOX, nothing, [], [])
    found = mask.paste(0)[20:41, 10:31]
    assert found[10, 10]
    assert not found[0, 0]
    assert int(mask.areas()[0]) == int(found.sum())
    assert 0.3 < expected < 0.9


def test_colours_tell_the_object_from_what_surrounds_it() -> None:
    image = gray()
    image[:, 20:41, 10:31] = torch.where(disc(), torch.tensor([220, 40, 40])[:, None, None], 128).byte()
    nothing = Evidence(torch.zeros(1, 21, 21), torch.tensor([BOX]), 1.0)
    plain, coloured = (
        mask_in_box(pixels, BOX, nothing, [], [])[0].paste(0)[20:41, 10:31] for pixels in (gray(), image)
    )
    wrong = [int((found != disc()).sum()) for found in (plain, coloured)]
    assert wrong[1] < wrong[0] / 2


def test_clicks_add_and_take_away() -> None:
    image = gray()
    positive, negative = (12.5, 22.5), (20.5, 30.5)
    network = painted(disc(), 4.0)
    before = mask_in_box(image, BOX, network, [], [])[0].paste(0)
    after = mask_in_box(image, BOX, network, [positive], [negative])[0].paste(0)
    assert not before[22, 12]
    assert before[30, 20]
    assert after[22, 12]
    assert not after[30, 20]
    # They reach their surroundings, not the other side.
    assert not after[29:32, 19:22].any()
    assert torch.equal(before[38:41], after[38:41])


def test_a_positive_click_outside_enlarges_the_box() -> None:
    assert enlarged(BOX, [(35.2, 25.9), (15.0, 19.0)]) == (10.0, 19.0, 36.0, 41.0)
    assert enlarged(BOX, []) == BOX


def test_the_threshold_has_the_highest_expected_iou() -> None:
    probabilities = torch.tensor([0.9, 0.8, 0.5, 0.1], dtype=torch.float64)
    # With n pixels: 0.9 / (2.3 + 1 - 0.9), 1.7 / (2.3 + 2 - 1.7), 2.2 / (2.3 + 3 - 2.2), 2.3 / 4
    threshold, expected = best_threshold(probabilities.logit())
    assert threshold == pytest.approx(0.0, abs=1e-6)
    assert expected == pytest.approx(2.2 / 3.1)


def test_points_are_read_in_each_window() -> None:
    masks = torch.stack((torch.full((3, 3), 0.25), torch.arange(9.0).view(3, 3) / 10))
    windows = torch.tensor([[0.0, 0.0, 6.0, 6.0], [3.0, 0.0, 9.0, 6.0]])
    assert points_of(masks, windows, 6.0, 3.0).tolist() == pytest.approx([0.0, 0.4])
    assert points_of(masks, windows, 5.0, 1.0).tolist() == pytest.approx([0.25, 0.05])


def test_a_view_shows_the_part_that_it_says() -> None:
    image = photograph(90, 120)
    view = view_around(image, (20.0, 45.0), (2.0, 2.0), 100)
    assert view.corner == (0, 20)
    height, width = view.pixels.shape[1:]
    corners = view.from_image(torch.tensor([[0.0, 20.0, width / 2, 20 + height / 2]]))
    assert corners.tolist() == [[0.0, 0.0, float(width), float(height)]]
    assert torch.equal(view.to_image(corners), torch.tensor([[0.0, 20.0, width / 2, 20 + height / 2]]))
    same = view_around(image, (60.0, 45.0), (1.0, 1.0), 500)
    assert torch.equal((same.pixels * 255).round().byte(), image)


def test_masks_under_the_pointer_hold_it(reader: PromptReader, maps: ImageMaps) -> None:
    found = [one for x in range(5, 120, 23) for one in reader.at_point(maps, x + 0.5, 40.5)]
    assert found
    for x in range(5, 120, 23):
        under = reader.at_point(maps, x + 0.5, 40.5, count=3)
        assert len(under) <= 3
        assert [one.score for one in under] == sorted((one.score for one in under), reverse=True)
        assert all(pasted(one)[40, x] for one in under)
        assert all((one.label is None) == (len(reader.class_names) == 1) for one in under)
    assert reader.at_point(maps, -1.0, 40.0) == []
    assert reader.at_point(maps, 60.0, 90.0) == []


def test_the_mask_stays_in_its_box(reader: PromptReader, maps: ImageMaps) -> None:
    for box in ((20.2, 30.7, 61.0, 70.0), (0.0, 0.0, 120.0, 90.0), (50.1, 50.2, 50.4, 50.3)):
        found = reader.in_box(maps, box)
        x1, y1, x2, y2 = found.box
        assert box[0] - 0.5 <= x1 < x2 <= box[2] + 0.6
        assert box[1] - 0.5 <= y1 < y2 <= box[3] + 0.7
        assert found.area == int(pasted(found).sum())
        assert 0 <= found.score <= 1


def test_clicks_are_kept_to(reader: PromptReader, maps: ImageMaps) -> None:
    box, inside, outside = (20.0, 30.0, 60.0, 70.0), (40.5, 50.5), (66.0, 50.0)
    assert not pasted(reader.in_box(maps, box, negative=[inside]))[50, 40]
    assert pasted(reader.in_box(maps, box, positive=[outside]))[50, 66]
    found = pasted(reader.in_box(maps, box, positive=[(21.0, 31.0)], negative=[inside]))
    assert found[31, 21]
    assert not found[50, 40]


def test_equal_questions_have_equal_answers(reader: PromptReader) -> None:
    for image in (photograph(90, 120), photograph(90, 120).permute(1, 2, 0).numpy()):
        first, second = (reader.maps(image) for _ in range(2))
        assert first.bytes == second.bytes > image.size if not isinstance(image, Tensor) else True
        one, other = (reader.in_box(m, (5, 5, 80, 60), [(30, 30)], [(7, 7)]) for m in (first, second))
        assert torch.equal(pasted(one), pasted(other))
        assert one.score == other.score


def test_clicks_after_a_box_do_not_run_the_network_again(
    reader: PromptReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps = reader.maps(photograph(90, 120))
    box = (20.0, 30.0, 60.0, 70.0)
    wanted = reader.in_box(maps, box, [(21.0, 31.0)])
    other = reader.in_box(maps, (5.0, 5.0, 60.0, 70.0))
    assert not torch.equal(pasted(other), pasted(wanted))
    reader.in_box(maps, box)
    monkeypatch.setattr(type(maps.maps), "in_box", None)
    assert torch.equal(pasted(reader.in_box(maps, box, [(21.0, 31.0)])), pasted(wanted))


def test_proposals_are_those_of_the_network(reader: PromptReader, maps: ImageMaps) -> None:
    found = reader.proposals(maps, score=0.1, count=5)
    assert 0 < len(found) <= 5
    assert all(one.score >= 0.1 for one in found)


def test_another_model_answers_clicks() -> None:
    """Boxes are FCIS's, with a class; masks under the pointer are InstanceFCN's, without."""
    boxes, points = predictor_of(small_fcis()), predictor_of(small_instance_fcn())
    reader, photo = PromptReader(boxes, pointing=points), photograph(90, 120)
    maps, own, other = reader.maps(photo), PromptReader(boxes).maps(photo), PromptReader(points).maps(photo)
    box = (20.0, 20.0, 70.0, 60.0)
    assert torch.equal(pasted(reader.in_box(maps, box)), pasted(PromptReader(boxes).in_box(own, box)))
    found = reader.at_point(maps, 40, 40)
    expected = PromptReader(points).at_point(other, 40, 40)
    assert [one.box for one in found] == [one.box for one in expected] != []
    assert all(one.label is None for one in found)
    assert maps.bytes > max(own.bytes, other.bytes)


def test_a_class_can_be_asked_for() -> None:
    reader = PromptReader(predictor_of(small_fcis()))
    maps = reader.maps(photograph(90, 120))
    box = (20, 30, 60, 70)
    for label in range(3):
        assert reader.in_box(maps, box, classes=[label]).label == label
    assert reader.in_box(maps, box).label in range(3)


@pytest.mark.parametrize(
    ("box", "more", "offending"),
    [
        ((130, 10, 150, 20), {}, "130"),
        ((10, 10, 10, 20), {}, "10, 10, 10, 20"),
        ((float("nan"), 10, 20, 20), {}, "nan"),
        ((10, 10, 20, 20), {"classes": [7]}, "7"),
        ((10, 10, 20, 20), {"negative": [(10, 95)]}, "95"),
        ((10, 10, 20, 20), {"positive": [(float("nan"), 5)]}, "nan"),
    ],
)
def test_what_cannot_be_read_is_refused(
    reader: PromptReader, maps: ImageMaps, box: tuple[float, ...], more: dict[str, list[int]], offending: str
) -> None:
    with pytest.raises(ConfigError, match=offending):
        reader.in_box(maps, box, **more)  # type: ignore[arg-type]
