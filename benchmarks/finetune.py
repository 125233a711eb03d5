"""Does it help to start from a bundled model? The same short training from it and from the backbone alone.

    python benchmarks/finetune.py DATA --out RUNS --classes bird cat dog [--init fcis-animals7] [--seeds 0]
        [--epochs 30] [--short-side 384] [--precision bf16-mixed] [--sampling random]
        [--json FILE]

Of DATA (COCO JSON) only the images with the named classes are used, so that the folder can be one of
classes that the bundled model does not know. Both runs see the same images in the same order; the minutes
are those of the run's own log, without evaluation. A run that was stopped resumes when the command is given
again, a finished one is only read.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
from pathlib import Path
from typing import Any

from instancefcn.files import link_or_copy, write_json
from instancefcn.models import zoo
from results import write_result
from trainings import add_precision, add_sampling, trained


def select(data: Path, out: Path, classes: list[str]) -> None:
    """A COCO folder of the images in which one of the classes occurs, with those classes alone."""
    for split in ("train", "val"):
        document = json.loads((data / f"{split}.json").read_text(encoding="utf-8"))
        categories = [category for category in document["categories"] if category["name"] in classes]
        if missing := set(classes) - {category["name"] for category in categories}:
            raise SystemExit(f"{data / split}.json has no class {', '.join(sorted(missing))}")
        wanted = {category["id"] for category in categories}
        annotations = [a for a in document["annotations"] if a["category_id"] in wanted]
        seen = {annotation["image_id"] for annotation in annotations}
        images = [image for image in document["images"] if image["id"] in seen]
        for image in images:
            target = out / "images" / image["file_name"]
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                link_or_copy(data / "images" / image["file_name"], target)
        write_json(
            out / f"{split}.json", {"images": images, "annotations": annotations, "categories": categories}
        )


def measure(data: Path, folder: Path, init: str | None, seed: int, options: argparse.Namespace) -> Any:
    """The last figures of one start and seed, and the minutes of its run."""
    final = trained(
        data,
        zoo.FCIS_LITE.name,
        folder,
        options.short_side,
        seed=seed,
        epochs=options.epochs,
        precision=options.precision,
        sampling=options.sampling or zoo.FCIS_LITE.sampling.method,
        init=init,
        warmup=50,
        ema_decay=0.99,
    )
    with (folder / "log.csv").open(newline="", encoding="utf-8") as file:
        seconds = max(float(row["seconds"]) for row in csv.DictReader(file))
    return {"seed": seed, "minutes": seconds / 60, "mask": final["mask"], "box": final["box"]}


def main() -> None:
    """Train both ways and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--classes", nargs="+", required=True)
    parser.add_argument("--init", default="fcis-animals7")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--short-side", type=int, default=384)
    add_precision(parser)
    add_sampling(parser)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    folder = options.out / "data"
    if not (folder / "val.json").exists():
        select(options.data, folder, options.classes)
    starts = {"ImageNet backbone": None, options.init: options.init}
    rows = {
        name: [
            measure(folder, options.out / f"{'init' if init else 'backbone'}_seed{seed}", init, seed, options)
            for seed in options.seeds
        ]
        for name, init in starts.items()
    }
    print(f"{'start':<22}" + "".join(f"{key:>10}" for key in ("minutes", "AP", "AP50", "AP75")))
    for name, found in rows.items():
        minutes = statistics.mean(one["minutes"] for one in found)
        means = [statistics.mean(one["mask"][key] for one in found) for key in ("AP", "AP50", "AP75")]
        print(f"{name:<22}{minutes:>10.1f}" + "".join(f"{value:>10.3f}" for value in means))
    if options.json is not None:
        entries = [{"start": name, **one} for name, found in rows.items() for one in found]
        write_result(options.json, {"rows": entries})


if __name__ == "__main__":
    main()
