"""A small synthetic dataset with exact masks, for tests, examples and first experiments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from instancefcn.files import atomic_write, write_json
from instancefcn.geometry.outlines import to_rle
from instancefcn.geometry.rle import decode_crop, run_lengths

CATEGORIES = {3: "circle", 7: "square", 11: "triangle"}
"""Category ids with gaps, as in real datasets."""


def write_shapes(folder: Path | str, *, train: int = 8, val: int = 4, size: int = 128, seed: int = 0) -> Path:
    """Write a COCO folder: train.json, val.json and images/ with coloured circles, squares and triangles.

    An image has 1 to 4 shapes that do not touch. All three forms of outlines occur: circles are compressed
    RLEs, squares polygons, triangles uncompressed RLEs.

    Args:
        folder: created if missing.
        train, val: number of images in each split.
        size: side of the square images in pixels, at least 32.
        seed: the same seed writes the same files.

    Returns:
        The folder.

    Raises:
        ValueError: `size` is below 32.
    """
    if size < 32:
        raise ValueError(f"size must be at least 32 pixels, got {size}")
    folder = Path(folder)
    for split, count, stream in (("train", train, 0), ("val", val, 1)):
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number in range(count):
            random = np.random.default_rng([seed, stream, number])
            pixels, objects = _image(size, random)
            name = f"{split}_{number:04d}.png"
            with atomic_write(folder / "images" / name) as temporary:
                Image.fromarray(pixels).save(temporary)
            images.append({"id": number + 1, "file_name": name, "width": size, "height": size})
            for entry in objects:
                annotations.append(
                    {"id": len(annotations) + 1, "image_id": number + 1, "iscrowd": 0, **entry}
                )
        categories = [{"id": id_, "name": shape} for id_, shape in CATEGORIES.items()]
        content = {"images": images, "annotations": annotations, "categories": categories}
        write_json(folder / f"{split}.json", content, indent=None)
    return folder


def _image(size: int, random: np.random.Generator) -> tuple[NDArray[np.uint8], list[dict[str, Any]]]:
    """Pixels uint8 [size, size, 3], and the outline, box, area and category of each annotation."""
    canvas = _texture(size, random, random.uniform(40, 110, 3), 25)
    taken = np.zeros((size, size), dtype=bool)
    objects: list[dict[str, Any]] = []
    for _ in range(int(random.integers(1, 5))):
        for _attempt in range(30):
            category = int(random.choice(list(CATEGORIES)))
            polygon = _outline(CATEGORIES[category], size, random)
            rle = to_rle([polygon], size, size)
            crop, (x, y) = decode_crop(rle["counts"], size)
            height, width = crop.shape
            around = taken[max(0, y - 2) : y + height + 2, max(0, x - 2) : x + width + 2]
            if not around.any():
                break
        else:
            continue
        taken[y : y + height, x : x + width] = True
        mask = np.zeros((size, size), dtype=bool)
        mask[y : y + height, x : x + width] = crop.numpy().astype(bool)
        colour = random.uniform(150, 255, 3) * (random.permutation(3) > 0)  # bright and not gray
        canvas[mask] = _texture(size, random, colour, 10)[mask]
        segmentation: Any = rle
        if CATEGORIES[category] == "square":
            segmentation = [polygon]
        elif CATEGORIES[category] == "triangle":
            segmentation = {"size": [size, size], "counts": run_lengths(rle["counts"]).tolist()}
        objects.append(
            {
                "category_id": category,
                "segmentation": segmentation,
                "bbox": [x, y, width, height],
                "area": int(mask.sum()),
            }
        )
    return np.clip(np.round(canvas), 0, 255).astype(np.uint8), objects


def _texture(
    size: int, random: np.random.Generator, colour: NDArray[np.float64], strength: float
) -> NDArray[np.float64]:
    """A colour with soft waves and grain, [size, size, 3]."""
    y, x = np.mgrid[0:size, 0:size] / size
    waves = np.zeros((size, size))
    for _ in range(3):
        fx, fy, phase = random.uniform(-8, 8), random.uniform(-8, 8), random.uniform(0, 2 * np.pi)
        waves += np.sin(2 * np.pi * (fx * x + fy * y) + phase) / 3
    grain = random.normal(0, strength / 3, (size, size, 3))
    return np.asarray(colour) + strength * waves[:, :, None] + grain


def _outline(shape: str, size: int, random: np.random.Generator) -> list[float]:
    """x, y, x, y, .. of a shape inside the image, of random rotation and of 0.2 to 0.44 times its side."""
    radius = size * random.uniform(0.1, 0.22)
    corners = {"circle": 64, "square": 4, "triangle": 3}[shape]
    angles = random.uniform(0, 2 * np.pi) + 2 * np.pi * np.arange(corners) / corners
    centre = random.uniform(radius + 1, size - radius - 1, 2)
    points = centre + radius * np.stack((np.cos(angles), np.sin(angles)), 1)
    return [round(float(v), 2) for v in points.reshape(-1)]
