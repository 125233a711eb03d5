"""Rasterisation equals pycocotools pixel by pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as oracle

from instancefcn.data.dataset import Annotation, ImageRecord, rasterize
from instancefcn.geometry.outlines import normalised, outline_problem, to_rle
from instancefcn.geometry.rle import decode_crop, run_lengths

# pycocotools' own array type lags behind numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

H, W = 30, 41
points = st.tuples(st.floats(-10, W + 10), st.floats(-10, H + 10))
polygons = st.lists(points, min_size=3, max_size=7).map(lambda ps: [v for p in ps for v in p])


def image_of(*segmentations: object, height: int = H, width: int = W) -> ImageRecord:
    annotations = tuple(
        Annotation(i, 0, (0.0, 0.0, 1.0, 1.0), s, 1.0)  # type: ignore[arg-type]
        for i, s in enumerate(segmentations)
    )
    return ImageRecord(1, Path("a.png"), height, width, annotations)


@given(st.lists(polygons, min_size=1, max_size=3))
@settings(deadline=None, max_examples=80)
def test_polygons_equal_pycocotools(parts: list[list[float]]) -> None:
    expected = oracle.decode(oracle.merge(oracle.frPyObjects(parts, H, W)))
    masks = rasterize(image_of(parts))
    np.testing.assert_array_equal(masks.paste(0).numpy(), expected.astype(bool))


@given(
    hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=24), elements=st.integers(0, 1))
)
@settings(deadline=None, max_examples=80)
def test_rle_equals_pycocotools_and_crop_is_tight(mask: np.ndarray) -> None:
    height, width = mask.shape
    counts = oracle.encode(np.asfortranarray(mask))["counts"].decode()
    runs = run_lengths(counts)
    expected = np.diff(np.flatnonzero(np.diff(mask.T.reshape(-1), prepend=0)), append=mask.size)
    assert runs.sum() == mask.size
    np.testing.assert_array_equal(runs[1:][: len(expected)], expected)
    for form in (counts, counts.encode(), runs.tolist()):
        crop, (x, y) = decode_crop(form, height)
        pasted = np.zeros_like(mask)
        pasted[y : y + crop.shape[0], x : x + crop.shape[1]] = crop.numpy()
        np.testing.assert_array_equal(pasted, mask)
        if mask.any():
            assert crop.any(1)[[0, -1]].all()
            assert crop.any(0)[[0, -1]].all()
    uncompressed = normalised({"size": [height, width], "counts": runs.tolist()}, height, width)
    assert uncompressed == {"size": [height, width], "counts": counts}


def test_many_runs() -> None:
    """More than 255 runs in one object."""
    mask = (np.indices((200, 210)).sum(0) % 2).astype(np.uint8)
    rle = oracle.encode(np.asfortranarray(mask))
    crop, corner = decode_crop(rle["counts"].decode(), 200)
    assert corner == (0, 0)
    np.testing.assert_array_equal(crop.numpy(), mask)


def test_parts_are_united_and_crowds_left_out() -> None:
    square, other = [2, 2, 6, 2, 6, 6, 2, 6], [10, 10, 14, 10, 14, 12, 10, 12]
    image = image_of([square, other], [other])
    crowd = Annotation(9, 0, (0.0, 0.0, 1.0, 1.0), [square], 1.0, crowd=True)
    masks = rasterize(ImageRecord(1, image.path, H, W, (*image.annotations, crowd)))
    assert masks.areas().tolist() == [16 + 8, 8]
    assert masks.tight_boxes().tolist() == [[2, 2, 14, 12], [10, 10, 14, 12]]
    assert masks.image_size == (H, W)


def test_outline_without_pixels_has_an_empty_rectangle() -> None:
    masks = rasterize(image_of([[3.1, 3.1, 3.2, 3.1, 3.2, 3.2]], [[2, 2, 6, 2, 6, 6, 2, 6]]))
    assert masks.areas().tolist() == [0, 16]


def test_no_annotations() -> None:
    assert len(rasterize(image_of())) == 0


@pytest.mark.parametrize(
    ("segmentation", "check", "named"),
    [
        (None, "outline", "no outline"),
        ([], "outline", "no outline"),
        ("abc", "outline", "no outline"),
        ([[1, 1, 5, 5]], "polygon-points", "polygon 0"),
        ([[1, 1, 5, 5, 9, 1], [1, 1, 5, 5]], "polygon-points", "polygon 1"),
        ([[1, 1, 5, 5, 9]], "outline", "5"),
        ([1, 1, 5, 5, 9, 1], "outline", "polygon 0"),
        ([[1, 1, 5, 5, 9, "1"]], "outline", "polygon 0"),
        ([[1, 1, 5, 5, 9, float("nan")]], "outline", "polygon 0"),
        ([[1, 1, 5, 5, 9, float("inf")]], "outline", "polygon 0"),
        ([[1, 1, 5, 5, 9, 10**400]], "out-of-bounds", "polygon 0"),
        ([[1, 1, 5, 5, 1e9, 1]], "out-of-bounds", "polygon 0"),
        ([[50, 1, 55, 5, 60, 1]], "out-of-bounds", f"{W} x {H}"),
        ({"size": [H, W]}, "outline", '"counts"'),
        ({"counts": [H * W]}, "outline", '"size"'),
        ({"size": [W, H], "counts": [H * W]}, "outline", "swapped"),
        ({"size": [H, W + 1], "counts": [H * (W + 1)]}, "outline", f"[{H}, {W + 1}]"),
        ({"size": [H, W], "counts": [H * W - 1]}, "outline", f"{H * W - 1}"),
        ({"size": [H, W], "counts": [-5, H * W + 5]}, "outline", "negative"),
        ({"size": [H, W], "counts": [0.5, 3]}, "outline", "integers"),
        ({"size": [H, W], "counts": [10**400]}, "outline", "integers"),
        ({"size": [H, W], "counts": "not an RLE \n"}, "outline", "counts"),
        ({"size": [H, W], "counts": "oooooooooooooooooooo0"}, "outline", "counts"),
        ({"size": [H, W], "counts": "é"}, "outline", "counts"),
        ({"size": [H, W], "counts": ""}, "outline", "0 pixels"),
        ({"size": [H, W], "counts": 7}, "outline", "counts"),
    ],
)
def test_bad_outlines_are_described(segmentation: object, check: str, named: str) -> None:
    problem = outline_problem(segmentation, H, W)
    assert problem is not None
    assert problem.check == check
    assert named in problem


@pytest.mark.parametrize(
    "segmentation",
    [
        [[-5, -5, 5, 5, 9, 1]],
        [[1, 1, 5, 5, 9, 1], [20, 20, 22, 22, 20, 22]],
        {"size": [H, W], "counts": [H * W]},
        {"size": [H, W], "counts": to_rle([[1, 1, 5, 5, 9, 1]], H, W)["counts"]},
    ],
)
def test_good_outlines_pass(segmentation: object) -> None:
    assert outline_problem(segmentation, H, W) is None


@given(st.text(st.characters(min_codepoint=48, max_codepoint=111), max_size=20))
@settings(deadline=None, max_examples=150)
def test_any_string_is_either_runs_or_an_error(text: str) -> None:
    try:
        runs = run_lengths(text)
    except ValueError:
        return
    assert (runs >= 0).all()


def test_masks_of_real_data_equal_pycocotools(shared: Path) -> None:
    from instancefcn.data.formats.layouts import open_dataset

    dataset = open_dataset(shared / "data" / "coco80", "val", check_images=False)
    checked = 0
    for image in dataset.images[:20]:
        things = [a for a in image.annotations if not a.crowd]
        if not things:
            continue
        masks = rasterize(image)
        for i, annotation in enumerate(things):
            outline = annotation.segmentation
            size = (image.height, image.width)
            rle = oracle.merge(oracle.frPyObjects(outline, *size)) if isinstance(outline, list) else outline
            np.testing.assert_array_equal(masks.paste(i).numpy(), oracle.decode(rle).astype(bool))
            checked += 1
    assert checked > 50
