"""How much work a person has with labels: a simulated annotator, who knows the true masks.

    python benchmarks/labelling.py DATA ... [--model NAME|PATH] [--pointing NAME|PATH] [--split val]
        [--images 10] [--objects 4] [--minutes M --sessions 3 10 30 --out runs/labelling] [--json FILE]

Per object, over at most `--objects` objects of `--images` images of each data set: the IoU of

* the first mask under one click, and of the best of the first three; the click is at the object's most inner
  point, farthest from its outline,
* the mask in its tight box, the filled box, and OpenCV's GrabCut in the same box (pip install
  opencv-python-headless; without it the column stays empty),

and what it takes to reach IoU 0.8: interactions (the box, then clicks in the middle of the largest wrong
region, at most 10 in all, which also stands for never), beside the vertices of a polygon.

Per session, with `--minutes`: a model is trained for M minutes on N images, and segments the images of the
split. Counted are the objects that need no touch (IoU 0.75 and the right class), and the wrong instances that
have to be deleted, both as shares of the number of objects.

With `--json` every finished data set is written at once, and a second call continues after it.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

import instancefcn
from instancefcn.data.dataset import Dataset, ImageRecord, rasterize
from instancefcn.data.formats.layouts import open_dataset
from instancefcn.evaluation.report import format_figure
from instancefcn.geometry.contours import simplify, trace_contours
from instancefcn.geometry.cropped_masks import CroppedMasks
from instancefcn.images.decoding import read_image
from instancefcn.inference.prompts import ImageMaps, PromptReader
from instancefcn.studio.labelling.suggest import GENERAL_MODEL, POINTING
from results import write_result

Mask = NDArray[np.bool_]
Point = tuple[float, float]

ENOUGH = 0.8
"""IoU at which the annotator is content."""
PATIENCE = 10
"""Interactions after which it gives up."""
RIGHT = 0.75
"""IoU of an instance that needs no touch."""
SMALLEST = 3
"""Objects with a shorter side, in pixels, are left out: a person cannot draw a box around them."""
COLUMNS = ("click", "best of 3", "box", "filled box", "grabcut", "interactions", "vertices")
SESSION_COLUMNS = ("untouched", "wrong")


def iou(one: Mask, other: Mask) -> float:
    """Of two masks [H, W]; 0 where both are empty."""
    return float((one & other).sum()) / max(int((one | other).sum()), 1)


def innermost(mask: Mask) -> Point:
    """The pixel's centre (x, y) that is farthest from the outline of a mask [H, W]."""
    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(int(depth.argmax()), mask.shape)
    return float(column) + 0.5, float(row) + 0.5


def measure_object(
    reader: PromptReader, maps: ImageMaps, pixels: NDArray[np.uint8], truth: Mask, box: Sequence[float]
) -> dict[str, float]:
    """The figures of one object: `COLUMNS`, and the seconds of a box and of a click.

    Args:
        pixels: the image, uint8 [H, W, 3].
        truth: bool [H, W].
        box: its tight box.
    """
    started = time.perf_counter()
    under = [one.mask.paste(0).numpy() for one in reader.at_point(maps, *innermost(truth), count=3)]
    clicked = time.perf_counter()
    boxed = reader.in_box(maps, box).mask.paste(0).numpy()
    done = time.perf_counter()
    clicks = [iou(mask, truth) for mask in under] or [0.0]
    x1, y1, x2, y2 = (int(side) for side in box)
    filled = np.zeros_like(truth)
    filled[y1:y2, x1:x2] = True
    return {
        "click": clicks[0],
        "best of 3": max(clicks),
        "box": iou(boxed, truth),
        "filled box": iou(filled, truth),
        **grabcut(pixels, truth, (x1, y1, x2, y2)),
        "interactions": interactions(reader, maps, truth, box),
        "vertices": vertices(truth),
        "seconds click": clicked - started,
        "seconds box": done - clicked,
    }


def interactions(reader: PromptReader, maps: ImageMaps, truth: Mask, box: Sequence[float]) -> int:
    """The box and the clicks after it until the mask is good enough; `PATIENCE` if that is not reached."""
    positive: list[Point] = []
    negative: list[Point] = []
    for count in range(1, PATIENCE):
        mask = reader.in_box(maps, box, positive, negative).mask.paste(0).numpy()
        if iou(mask, truth) >= ENOUGH:
            return count
        missing, extra = truth & ~mask, mask & ~truth
        regions = [_largest(wrong) for wrong in (missing, extra)]
        if regions[0].sum() >= regions[1].sum():
            positive.append(innermost(regions[0]))
        else:
            negative.append(innermost(regions[1]))
    return PATIENCE


def _largest(mask: Mask) -> Mask:
    """The largest connected region of a mask."""
    parts, count = ndimage.label(mask)
    if count == 0:
        return mask
    largest: Mask = parts == 1 + int(np.bincount(parts.ravel())[1:].argmax())
    return largest


def vertices(truth: Mask) -> int:
    """The corners of the simplest polygons, one for each part, that are good enough: the outline simplified
    until the IoU would fall below `ENOUGH`.
    """
    rings = [part.outline for part in trace_contours(truth, tolerance=0)]
    best = sum(len(ring) for ring in rings)
    for tolerance in np.geomspace(0.5, max(truth.shape), 30):
        simple = [simplify(ring, float(tolerance)) for ring in rings]
        drawn = Image.new("1", (truth.shape[1], truth.shape[0]))
        for ring in simple:
            # Pillow's coordinates are those of pixels' centres.
            ImageDraw.Draw(drawn).polygon([(x - 0.5, y - 0.5) for x, y in ring.tolist()], fill=1)
        if iou(np.asarray(drawn), truth) >= ENOUGH:
            best = min(best, sum(len(ring) for ring in simple))
    return best


def grabcut(pixels: NDArray[np.uint8], truth: Mask, box: tuple[int, int, int, int]) -> dict[str, float]:
    """The IoU of OpenCV's GrabCut from a box, which sees the box and its surroundings, if it is here."""
    try:
        import cv2
    except ImportError:
        return {}
    x1, y1, x2, y2 = box
    height, width = truth.shape
    left, top = max(0, x1 - (x2 - x1) // 2 - 2), max(0, y1 - (y2 - y1) // 2 - 2)
    right, bottom = min(width, x2 + (x2 - x1) // 2 + 2), min(height, y2 + (y2 - y1) // 2 + 2)
    found = np.zeros((bottom - top, right - left), np.uint8)
    cv2.setRNGSeed(0)
    image = np.ascontiguousarray(pixels[top:bottom, left:right, ::-1])
    rect = (x1 - left, y1 - top, x2 - x1, y2 - y1)
    try:
        cv2.grabCut(image, found, rect, np.zeros((1, 65)), np.zeros((1, 65)), 5, cv2.GC_INIT_WITH_RECT)
    except cv2.error:  # no background is left around the box
        return {"grabcut": 0.0}
    mask = np.zeros_like(truth)
    mask[top:bottom, left:right] = (found == cv2.GC_FGD) | (found == cv2.GC_PR_FGD)
    return {"grabcut": iou(mask, truth)}


def objects_of(image: ImageRecord, count: int) -> Iterator[tuple[Mask, list[float]]]:
    """The masks and tight boxes of at most `count` objects of an image, drawn with the image's id as seed."""
    masks = rasterize(image)
    boxes = masks.tight_boxes()
    large = ((boxes[:, 2:] - boxes[:, :2]).amin(1) >= SMALLEST).nonzero()[:, 0].tolist()
    for index in random.Random(image.id).sample(large, min(count, len(large))):
        yield masks.paste(index).numpy(), boxes[index].tolist()


def measure_objects(dataset: Dataset, reader: PromptReader, images: int, count: int) -> dict[str, float]:
    """The means of `measure_object` over a data set."""
    rows = []
    for image in spread(dataset, images).images:
        pixels = read_image(image.path)
        maps = reader.maps(pixels)
        array = pixels.permute(1, 2, 0).contiguous().numpy()
        rows += [measure_object(reader, maps, array, *one) for one in objects_of(image, count)]
    means = {key: statistics.fmean(row[key] for row in rows) for key in rows[0]} if rows else {}
    return {"objects": len(rows), **means}


def spread(dataset: Dataset, count: int) -> Dataset:
    """`count` images with objects, evenly from a data set."""
    indices = [i for i, image in enumerate(dataset.images) if any(not a.crowd for a in image.annotations)]
    step = max(1.0, len(indices) / count)
    return dataset.subset([indices[int(i * step)] for i in range(min(count, len(indices)))])


def train_session(data: Path, count: int, minutes: float, out: Path) -> Path:
    """Label `count` images of a data set's train split and train on them for so many minutes.

    Returns:
        the checkpoint.
    """
    labelled = spread(open_dataset(data, "train"), count)
    folder = out / f"{data.name}-{count}"
    write_labelled(labelled, folder / "data")
    return instancefcn.train(folder / "data", out=folder / "run", minutes=minutes)


def write_labelled(dataset: Dataset, folder: Path) -> None:
    """A data set as `train.json`, with links to its images."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for image in dataset.images:
        link = folder / "images" / image.path.name
        if not link.exists():
            link.symlink_to(image.path.resolve())
        images.append(
            {"id": image.id, "file_name": image.path.name, "height": image.height, "width": image.width}
        )
        annotations += [
            {
                "id": a.id,
                "image_id": image.id,
                "category_id": dataset.category_ids[a.label],
                "bbox": [a.box[0], a.box[1], a.box[2] - a.box[0], a.box[3] - a.box[1]],
                "area": a.area,
                "segmentation": a.segmentation,
                "iscrowd": int(a.crowd),
            }
            for a in image.annotations
        ]
    names = zip(dataset.category_ids, dataset.class_names, strict=True)
    categories = [{"id": number, "name": name} for number, name in names]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "train.json").write_text(json.dumps(document), encoding="utf-8")


def measure_session(dataset: Dataset, checkpoint: Path, images: int) -> dict[str, float]:
    """What a trained model leaves to do on other images: shares of the number of objects."""
    predictor = instancefcn.load(checkpoint)
    objects = untouched = wrong = 0
    for image in spread(dataset, images).images:
        found = predictor(image.path)
        labels = [a.label for a in image.annotations if not a.crowd]
        right = matches(rasterize(image), labels, found)
        objects, untouched, wrong = objects + len(labels), untouched + right, wrong + len(found) - right
    return {"untouched": untouched / max(objects, 1), "wrong": wrong / max(objects, 1)}


def matches(truth: CroppedMasks, labels: list[int], found: instancefcn.Instances) -> int:
    """How many instances are right, each for another object; the best first."""
    masks, left, count = truth.dense().numpy(), set(range(len(truth))), 0
    for index, label in enumerate(found.labels.tolist()):
        mask = found.masks.paste(index).numpy()
        overlaps = {i: iou(mask, masks[i]) for i in left if labels[i] == label}
        best = max(overlaps, key=lambda i: overlaps[i], default=None)
        if best is not None and overlaps[best] >= RIGHT:
            left.remove(best)
            count += 1
    return count


def show(title: str, columns: Sequence[str], rows: dict[str, dict[str, float]]) -> None:
    """Print a table of data sets with its means and medians."""
    print(f"{title:<16}" + "".join(f"{name:>14}" for name in columns))
    known = [key for key in columns if rows and all(key in row for row in rows.values())]
    averages = {
        name: {key: average([row[key] for row in rows.values()]) for key in known}
        for name, average in (("mean", statistics.fmean), ("median", statistics.median))
    }
    for name, row in (rows | averages).items():
        print(f"{name:<16}" + "".join(f"{format_figure(row.get(key)):>14}" for key in columns))


def finished(path: Path | None, settings: dict[str, Any]) -> dict[str, Any]:
    """The data sets of an earlier call. Ends the program where it had other settings."""
    if path is None or not path.exists():
        return {}
    document = json.loads(path.read_text(encoding="utf-8"))
    if document["settings"] != settings:
        raise SystemExit(f"{path} has results of other settings: {document['settings']}: give another --json")
    sets: dict[str, Any] = document["sets"]
    return sets


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--model", default=GENERAL_MODEL)
    parser.add_argument("--pointing", help="model that answers clicks instead, as beside the default one")
    parser.add_argument("--split", default="val")
    parser.add_argument("--images", type=int, default=10, help="of each data set")
    parser.add_argument("--objects", type=int, default=4, help="of each image")
    parser.add_argument("--minutes", type=float, help="train for so long in each session")
    parser.add_argument("--sessions", type=int, nargs="+", default=[3, 10, 30], help="labelled images")
    parser.add_argument("--out", type=Path, default=Path("runs/labelling"), help="runs of the sessions")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    keys = ("model", "split", "images", "objects", "minutes", "sessions")
    settings = {key: getattr(options, key) for key in keys}
    sets = finished(options.json, settings)
    pointing = options.pointing or (POINTING if options.model == GENERAL_MODEL else None)
    reader = PromptReader.load(options.model, pointing=pointing)
    for data in options.data:
        if data.name in sets:
            continue
        dataset = open_dataset(data, options.split)
        entry: dict[str, Any] = measure_objects(dataset, reader, options.images, options.objects)
        if options.minutes is not None:
            entry["sessions"] = {}
            for count in options.sessions:
                checkpoint = train_session(data, count, options.minutes, options.out)
                entry["sessions"][str(count)] = measure_session(dataset, checkpoint, options.images)
        sets[data.name] = entry
        if options.json is not None:
            write_result(options.json, {"settings": settings, "sets": sets})
        show(data.name, COLUMNS, {data.name: entry})
    show("objects", COLUMNS, sets)
    for count in options.sessions if options.minutes is not None else ():
        rows = {name: entry["sessions"][str(count)] for name, entry in sets.items()}
        show(f"{count} images", SESSION_COLUMNS, rows)


if __name__ == "__main__":
    main()
