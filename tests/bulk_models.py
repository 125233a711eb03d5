"""Networks for bulk jobs, where actors find them; as a program: a job on a cluster, to be killed."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from fakes import ColourNetwork, FakeLoaded
from instancefcn.bulk.storage import Folder
from instancefcn.inference.predictor import Predictor
from instancefcn.instances import Instances

DEADLY = (777, 80)
"""Width and height of the image that kills."""
UNWANTED = (555, 80)
"""Of the image that the network fails on."""


class Moody(ColourNetwork):
    """Finds what ColourNetwork finds, if it lives so long; `pause` seconds an image."""

    def __init__(self, pause: float = 0) -> None:
        super().__init__()
        self.pause = pause

    def forward(self, images: Any, image_sizes: Any, *args: Any, **kwargs: Any) -> list[Instances]:
        time.sleep(self.pause)
        if (DEADLY[1], DEADLY[0]) in image_sizes:
            os._exit(1)
        if (UNWANTED[1], UNWANTED[0]) in image_sizes:
            raise RuntimeError("shapes do not match")
        return super().forward(images, image_sizes, *args, **kwargs)


def colours(out: Folder, device: str, precision: str) -> Predictor:
    """For `Worker`."""
    return Predictor(FakeLoaded(Moody()), device)


def slow_colours(out: Folder, device: str, precision: str) -> Predictor:
    """The same, slow enough to be killed in the middle; leaves its process id beside the job's folder."""
    Path(f"{out.path}.pids").mkdir(exist_ok=True)
    (Path(f"{out.path}.pids") / str(os.getpid())).touch()
    return Predictor(FakeLoaded(Moody(0.2)), device)


def main(source: str, out: str, address: str) -> None:
    from instancefcn.bulk.cluster import connected, run
    from instancefcn.bulk.job import prepare
    from instancefcn.bulk.listing import list_images
    from instancefcn.bulk.worker import Resources

    job = prepare(list_images([source]), out, b"weights", model="m", score=0.5, chunk=4)
    with connected(address, 2):
        run(job, Resources(), 1, open_model=slow_colours)


if __name__ == "__main__":
    main(*sys.argv[1:])
