"""Draw docs/images/fcis-maps.png and instancefcn-maps.png: score maps of a bundled photograph, as
`instancefcn predict --explain` and `instancefcn propose --explain` draw them, with fewer colours.

python tools/explained_sheets.py [--image tiger] [--out docs/images]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from importlib.resources import as_file, files
from pathlib import Path

from PIL import Image

from instancefcn.files import atomic_write

LIMIT = 200_000
SHEETS = {"predict": "fcis-maps.png", "propose": "instancefcn-maps.png"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--image", default="tiger")
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    arguments = parser.parse_args()
    photograph = files("instancefcn") / "assets" / "demo" / f"{arguments.image}.jpg"
    with as_file(photograph) as image, tempfile.TemporaryDirectory() as folder:
        for verb, name in SHEETS.items():
            words = [verb, str(image), "--explain", "--save", "none", "--out", folder]
            subprocess.run([sys.executable, "-m", "instancefcn", *words], check=True)
            write_small(Path(folder) / "explained" / f"{arguments.image}.png", arguments.out / name)


def write_small(drawn: Path, path: Path) -> None:
    """The same image in 256 colours."""
    with Image.open(drawn) as image:
        small = image.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=3)
    with atomic_write(path) as temporary:
        small.save(temporary, "PNG", optimize=True)
    size = path.stat().st_size
    print(f"{path}: {small.width} x {small.height}, {size:,} bytes")
    if size > LIMIT:
        raise SystemExit(f"{size:,} bytes are more than {LIMIT:,}: take another image")


if __name__ == "__main__":
    main()
