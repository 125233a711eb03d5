"""Draw docs/demo.jpg: the demo's overlays side by side, as `instancefcn demo` makes them.

python tools/demo_sheet.py [--model fcis-animals7] [--out docs/demo.jpg]
"""

from __future__ import annotations

import argparse
from importlib.resources import as_file, files
from pathlib import Path

from PIL import Image

import instancefcn
from instancefcn.files import atomic_write
from instancefcn.images.decoding import read_image
from instancefcn.images.drawing import draw
from instancefcn.inference.sources import find_images

HEIGHT, GAP, COLUMNS = 300, 6, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="fcis-animals7")
    parser.add_argument("--out", type=Path, default=Path("docs/demo.jpg"))
    arguments = parser.parse_args()
    model = instancefcn.load(arguments.model)
    overlays = []
    with as_file(files("instancefcn") / "assets" / "demo") as folder:
        for path in find_images([str(folder)]):
            overlay = draw(read_image(path), model(path))
            size = (round(overlay.width * HEIGHT / overlay.height), HEIGHT)
            overlays.append(overlay.resize(size, Image.Resampling.LANCZOS))
    rows = [overlays[start : start + COLUMNS] for start in range(0, len(overlays), COLUMNS)]
    width = max(sum(image.width + GAP for image in row) - GAP for row in rows)
    # Every row is scaled to the same width.
    lines = []
    for row in rows:
        own = sum(image.width for image in row)
        height = round(HEIGHT * (width - GAP * (len(row) - 1)) / own)
        lines.append([image.resize((round(image.width * height / HEIGHT), height)) for image in row])
    sheet = Image.new("RGB", (width, sum(line[0].height + GAP for line in lines) - GAP), "white")
    top = 0
    for line in lines:
        left = 0
        for image in line:
            sheet.paste(image, (left, top))
            left += image.width + GAP
        top += line[0].height + GAP
    with atomic_write(arguments.out) as temporary:
        sheet.save(temporary, quality=88, optimize=True)
    print(f"{arguments.out}: {sheet.width} x {sheet.height}")


if __name__ == "__main__":
    main()
