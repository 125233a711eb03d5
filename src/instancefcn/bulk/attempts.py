"""What attempts at a chunk leave behind when their process dies, so that the next find the image."""

from __future__ import annotations

import json
from typing import Any

from instancefcn.bulk.storage import Folder
from instancefcn.errors import ConfigError

FOLDER = "attempts"
DEATHS_OF_A_IMAGE = 2
"""A process that dies so often while one image is alone in it died of that image: a machine that is taken
away does not choose the same one twice.
"""
MOST_AT_FAULT = 8
"""Of one chunk. When more images kill their process, the machine is ill."""


class AttemptLog:
    """A note beside the results while a chunk is under way.

    The first attempt says only that it has begun. When it is found by a second one, images are done one by
    one, each noted before it is touched.

    Args:
        out: the job's folder.
        chunk: its number.

    Raises:
        ConfigError: more than MOST_AT_FAULT images have killed their process.
    """

    def __init__(self, out: Folder, chunk: int) -> None:
        self.out, self.name = out, f"{FOLDER}/{chunk:06d}.json"
        note = self._read()
        self.interrupted: int = note.get("begun", 0)
        """How often the chunk was begun before."""
        self.deaths: dict[int, int] = {int(image): n for image, n in note.get("deaths", {}).items()}
        if (last := note.get("at")) is not None:
            self.deaths[last] = self.deaths.get(last, 0) + 1
        if len(self.at_fault) > MOST_AT_FAULT:
            raise ConfigError(
                f"chunk {chunk}: {len(self.at_fault)} of its images have each killed their process"
                f" {DEATHS_OF_A_IMAGE} times; more likely a worker has too little memory, or its machine is"
                " sick"
            )
        self._write(self.interrupted + 1, None)

    @property
    def at_fault(self) -> set[int]:
        """Images that are not to be touched again."""
        return {image for image, deaths in self.deaths.items() if deaths >= DEATHS_OF_A_IMAGE}

    def now_at(self, image: int) -> None:
        """Note the image that comes next, alone."""
        self._write(self.interrupted + 1, image)

    def close(self) -> None:
        """The chunk is done: nobody needs the note any more."""
        self.out.delete(self.name)

    def _read(self) -> dict[str, Any]:
        if not self.out.exists(self.name):
            return {}
        return dict(json.loads(self.out.read(self.name)))

    def _write(self, begun: int, at: int | None) -> None:
        note = {"begun": begun, "at": at, "deaths": self.deaths}
        self.out.write(self.name, json.dumps(note).encode())
