"""The labelled images as COCO files that `train`, `check` and `convert` take as they are."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from instancefcn.files import link_or_copy, write_json
from instancefcn.studio.labelling.opening import Labels
from instancefcn.studio.labelling.store import Row

QUIET = 1.0
"""Seconds without a change before the files are written; longer where writing takes long."""


def write_files(labels: Labels) -> dict[str, int]:
    """Write SPLIT.json for each split of the labelled images, and link or copy their files into images/.

    Returns:
        The number of images of each split.

    Raises:
        OSError: a file cannot be written, or an image is gone.
    """
    store = labels.store
    categories = [{"id": id_, "name": name} for id_, name in store.classes().items()]
    splits: dict[str, dict[str, list[Any]]] = {}
    for number, image, objects in store.records():
        content = splits.setdefault(
            image["split"], {"images": [], "annotations": [], "categories": categories}
        )
        content["images"].append(
            {"id": number, "file_name": image["name"], "width": image["width"], "height": image["height"]}
        )
        content["annotations"] += [_record(id_, row) for id_, row in objects]
        _place(labels.path(image), store.out / "images" / image["name"])
    for split, content in splits.items():
        write_json(store.out / f"{split}.json", content, indent=None)
    for split in ("train", "val"):
        if split not in splits:  # its last image is no longer labelled
            (store.out / f"{split}.json").unlink(missing_ok=True)
    return {split: len(content["images"]) for split, content in splits.items()}


def _record(id_: int, row: Row) -> dict[str, Any]:
    x1, y1, x2, y2 = row["box"]
    return {
        "id": id_,
        "image_id": row["image"],
        "category_id": row["class"],
        # Rounding to a millionth of a pixel removes the error of subtracting floats.
        "bbox": [x1, y1, round(x2 - x1, 6), round(y2 - y1, 6)],
        "area": row["area"],
        "iscrowd": row["crowd"],
        "segmentation": row["segmentation"],
    }


def _place(source: Path, target: Path) -> None:
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        link_or_copy(source, target)


class Exporter:
    """Writes the files a moment after the last change, in a thread of its own.

    Args:
        write: writes them.
        on_error: told why they could not be written, and None when they could.
    """

    def __init__(self, write: Callable[[], object], on_error: Callable[[OSError | None], None]) -> None:
        self._write, self._on_error = write, on_error
        self._condition = threading.Condition()
        self._changed = self._closing = False
        self._writing = threading.Lock()
        self._took = 0.0
        self._thread = threading.Thread(target=self._run, name="export", daemon=True)
        self._thread.start()

    def changed(self) -> None:
        """The labels have changed."""
        with self._condition:
            self._changed = True
            self._condition.notify()

    def now(self) -> None:
        """Write at once, in this thread. Raises OSError."""
        with self._writing:
            self._changed = False
            start = time.monotonic()
            self._write()
            self._took = time.monotonic() - start

    def close(self) -> None:
        """Write what has changed, and end."""
        with self._condition:
            self._closing = True
            self._condition.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._changed or self._closing)
                if not self._changed:
                    return
                if not self._closing:
                    # Writing takes at most a tenth of the time.
                    self._condition.wait_for(lambda: self._closing, max(QUIET, 10 * self._took))
            try:
                self.now()
            except OSError as error:
                self._on_error(error)
                with self._condition:
                    if self._closing:
                        return
            else:
                self._on_error(None)
