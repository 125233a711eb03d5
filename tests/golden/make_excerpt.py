"""Cut tests/golden/detection.npz from the full golden data: python make_excerpt.py golden_ops.npz
detection.npz

The data were made by running ChainerCV 0.13.1's FCIS on a CPU. Boxes are y1, x1, y2, x2.
"""

from __future__ import annotations

import sys

import numpy as np

WHOLE = ("anchor_base_", "anchor_tgt_", "box_", "nms_", "tgt_", "ptc_")
RANKED = 600  # non-maximum suppression down to 300 proposals never looks further than rank 430


def main(source: str, destination: str) -> None:
    """Keep the small arrays whole, every 37th anchor of the grid, and the proposals' candidates of highest
    score.
    """
    with np.load(source) as golden:
        kept = {name: golden[name] for name in golden.files if name.startswith(WHOLE)}
        kept |= {
            name: golden[name] for name in golden.files if name.startswith("prop_") and name.endswith("_roi")
        }
        kept["anchor_38x50_9_every_37th"] = golden["anchor_38x50_9"][::37]
        best = np.argsort(-golden["prop_score"], kind="stable")[:RANKED]
        kept["prop_index"] = best.astype(np.int32)
        kept["prop_loc"], kept["prop_score"] = golden["prop_loc"][best], golden["prop_score"][best]
    np.savez_compressed(destination, **kept)


if __name__ == "__main__":
    main(*sys.argv[1:])
