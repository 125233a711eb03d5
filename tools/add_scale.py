"""Add to a bundled model what it was trained on: the sizes of images and objects, see inference/scale.py.

    python tools/add_scale.py NAME DATA [--split train]

The weights stay as they are. Runs write the same into their checkpoints.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bundle_model import MODELS, write_sums

from instancefcn.data.formats.layouts import open_dataset
from instancefcn.inference.scale import scale_of
from instancefcn.models.checkpoint import load_checkpoint, save_checkpoint, spec_from_json
from instancefcn.models.head import Classes


def main() -> None:
    """Rewrite the file and its checksum."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("data", type=Path)
    parser.add_argument("--split", default="train")
    arguments = parser.parse_args()

    target = MODELS / f"{arguments.name}.safetensors"
    loaded = load_checkpoint(target)
    training = {
        **loaded.metadata["training"],
        **scale_of(open_dataset(arguments.data, arguments.split), loaded.preprocessing),
    }
    save_checkpoint(
        target,
        loaded.network.state_dict(),
        spec_from_json(loaded.metadata["model"]),
        Classes(loaded.class_names, loaded.category_ids),
        metrics=loaded.metadata["metrics"],
        training=training,
        half=True,
    )
    write_sums()
    print({key: training[key] for key in ("image_sides", "object_side") if key in training})


if __name__ == "__main__":
    main()
