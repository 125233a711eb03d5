"""Make a bundled model of a checkpoint: half precision, with its figures on the validation split.

    python tools/bundle_model.py CHECKPOINT NAME DATA [--sides SHORT LONG] [--halfway SCORE] [--notes TEXT]

The figures are measured on the model as it ships, after rounding to half precision. Its SHA-256 is listed.
A model that saw many objects among its samples scores too high: with --halfway, background's score maps are
raised so that what had SCORE against background has 0.5, where `predict` draws the line. Choose SCORE on
training images.
"""

from __future__ import annotations

import argparse
import hashlib
import math
from dataclasses import replace
from pathlib import Path

from torch import Tensor

import instancefcn
from instancefcn.files import atomic_write
from instancefcn.models.checkpoint import (
    SUMS,
    bundled_folder,
    load_checkpoint,
    save_checkpoint,
    spec_from_json,
)
from instancefcn.models.head import Classes

LIMIT = 20_000_000
MODELS = bundled_folder()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("name")
    parser.add_argument("data", type=Path)
    parser.add_argument("--sides", type=int, nargs=2, help="input size at test time, where not the run's own")
    parser.add_argument("--halfway", type=float, default=0.5, help="the score of FCIS that becomes 0.5")
    parser.add_argument("--notes", default="", help="about the run, kept in the file")
    arguments = parser.parse_args()

    loaded = load_checkpoint(arguments.checkpoint)
    spec = spec_from_json(loaded.metadata["model"])
    own = loaded.preprocessing
    short, long = arguments.sides or (own.short_side, own.long_side)
    spec = replace(spec, short_side=short, long_side=long)
    classes = Classes(loaded.class_names, loaded.category_ids)
    training = dict(loaded.metadata["training"]) | ({"notes": arguments.notes} if arguments.notes else {})
    target = MODELS / f"{arguments.name}.safetensors"
    weights = loaded.network.state_dict()
    if arguments.halfway != 0.5:
        raise_background(weights, arguments.halfway, len(classes))
    save_checkpoint(target, weights, spec, classes, training=training, half=True)
    write_sums()
    metrics = instancefcn.evaluate(arguments.data, target)
    save_checkpoint(target, weights, spec, classes, metrics=metrics, training=training, half=True)
    write_sums()
    size = target.stat().st_size
    print(f"{target.name}: {size / 1e6:.1f} MB, mask {metrics['mask']}, box {metrics['box']}")
    if size > LIMIT:
        raise SystemExit(f"{size / 1e6:.1f} MB is more than a bundled model may have ({LIMIT / 1e6:.0f} MB)")


def raise_background(weights: dict[str, Tensor], halfway: float, classes: int) -> None:
    """Raise both maps of background by the log-odds of `halfway`, in place: the class scores of windows are
    means of these maps, and masks are differences between the two.
    """
    bias = weights["maps.scores.bias"].clone()
    bias.unflatten(0, (-1, 2, classes + 1))[:, :, 0] += math.log(halfway / (1 - halfway))
    weights["maps.scores.bias"] = bias


def write_sums() -> None:
    """List the SHA-256 of every bundled model, by which loading one checks it."""
    models = sorted(MODELS.glob("*.safetensors"))
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in models]
    with atomic_write(MODELS / SUMS) as temporary:
        temporary.write_text("".join(lines), encoding="ascii", newline="\n")


if __name__ == "__main__":
    main()
