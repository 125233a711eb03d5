"""Objects in a picture by an exported model; needs only onnxruntime, numpy and pillow.

instancefcn export fcis-animals7 --dynamic --out animals.onnx
python examples/onnx_predict.py animals.onnx photo.jpg --out photo.objects.png
"""

from __future__ import annotations

import argparse
import colorsys
import json
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image, ImageDraw, ImageFont, ImageOps


def prepare(photo: Image.Image, preprocessing: dict[str, Any]) -> tuple[np.ndarray, tuple[float, float]]:
    """The graph's input, uint8 [1, 3, H, W], and (x, y) input pixels per pixel of the photo."""
    width, height = photo.size
    fixed = preprocessing["size"]
    if fixed is None:  # any size: the short side as the model learnt it, the long one limited
        scale = min(
            preprocessing["short_side"] / min(width, height), preprocessing["long_side"] / max(width, height)
        )
    else:  # one size: the photo is made to fit
        scale = min(fixed[0] / height, fixed[1] / width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    image = photo.resize(size, Image.Resampling.BILINEAR)
    if fixed is not None:
        ground = Image.new("RGB", (fixed[1], fixed[0]), tuple(preprocessing["padding"]))
        ground.paste(image, (0, 0))
        image = ground
    tensor = np.asarray(image).transpose(2, 0, 1)[None]
    return np.ascontiguousarray(tensor), (size[0] / width, size[1] / height)


def read_photo(path: str) -> Image.Image:
    """The photo as RGB of 8 bits, upright. 16 bits and floats are scaled; Pillow alone would cut them off."""
    photo = ImageOps.exif_transpose(Image.open(path))
    if photo.mode == "F" or photo.mode.startswith("I"):
        values = np.asarray(photo).astype(np.float32)
        if photo.mode != "F":
            values = values / 257
        elif values.max() <= 1:
            values = values * 255
        photo = Image.fromarray(np.round(values).clip(0, 255).astype(np.uint8))
    return photo.convert("RGB")


def read_mask(
    grid: np.ndarray, box: np.ndarray, size: tuple[int, int], threshold: float
) -> tuple[np.ndarray, int, int]:
    """The pixels of one object, bool [h, w], and the column and row of its upper left one.

    `grid` [M, M] holds probabilities at the centres of M x M cells over `box` (x1, y1, x2, y2, pixels of a
    photo of `size`, width and height); every pixel's centre is read bilinearly between them.
    """
    places, shares = [], []
    for low, high, limit in ((box[1], box[3], size[1]), (box[0], box[2], size[0])):
        pixels = np.arange(max(0, int(np.floor(low))), min(limit, int(np.ceil(high))))
        cell = ((pixels + 0.5 - low) / max(high - low, 1e-6) * len(grid) - 0.5).clip(0, len(grid) - 1)
        inside = (pixels + 0.5 >= low) & (pixels + 0.5 < high)
        places.append(pixels)
        shares.append((1 - np.abs(cell[:, None] - np.arange(len(grid)))).clip(0) * inside[:, None])
    rows, columns = places
    if not len(rows) or not len(columns):
        return np.zeros((0, 0), bool), 0, 0
    return shares[0] @ grid @ shares[1].T >= threshold, int(columns[0]), int(rows[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="what `instancefcn export` wrote")
    parser.add_argument("photo")
    parser.add_argument("--out", default="objects.png", help="the photo with the objects drawn (%(default)s)")
    parser.add_argument("--score", type=float, default=0.5, help="leave out worse objects (%(default)s)")
    wanted = parser.parse_args()

    session = onnxruntime.InferenceSession(wanted.model, providers=["CPUExecutionProvider"])
    model = json.loads(session.get_modelmeta().custom_metadata_map["instancefcn"])
    try:
        photo = read_photo(wanted.photo)
    except OSError as error:
        parser.error(f"{wanted.photo}: {error}")
    image, scale = prepare(photo, model["preprocessing"])
    results = session.run(None, {session.get_inputs()[0].name: image})
    if model["batch"]:  # of one image
        results = [result[0] for result in results]
    boxes, scores, labels, masks = results
    boxes = boxes / np.array([*scale, *scale], np.float32)

    canvas = np.asarray(photo).astype(np.float32)
    drawn = []
    for i in range(int((scores >= wanted.score).sum())):  # best first, padding (score 0) last
        colour = tuple(round(255 * c) for c in colorsys.hsv_to_rgb((0.55 + 0.618 * i) % 1, 0.85, 1.0))
        mask, x, y = read_mask(masks[i], boxes[i], photo.size, model["mask_threshold"])
        part = canvas[y : y + mask.shape[0], x : x + mask.shape[1]]
        part[mask] = 0.55 * part[mask] + 0.45 * np.array(colour, np.float32)
        name = model["class_names"][labels[i]]
        drawn.append((boxes[i], f"{name} {scores[i]:.2f}", colour))
        corners = " ".join(f"{side:.0f}" for side in boxes[i])
        print(f"{name}  score {scores[i]:.2f}  box {corners}  {mask.sum()} px")
    overlay = Image.fromarray(canvas.astype(np.uint8))
    pen, font = ImageDraw.Draw(overlay), ImageFont.load_default(max(12, min(photo.size) // 28))
    for box, text, colour in drawn:
        pen.rectangle([float(side) for side in box], outline=colour, width=max(2, min(photo.size) // 250))
        corner = (float(box[0]) + 3, max(0.0, float(box[1]) + 2))
        pen.rectangle(pen.textbbox(corner, text, font), fill=(0, 0, 0))
        pen.text(corner, text, colour, font)
    overlay.save(wanted.out)
    print(f"{len(drawn)} objects; drawn in {wanted.out}")


if __name__ == "__main__":
    main()
