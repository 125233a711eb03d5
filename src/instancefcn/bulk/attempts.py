"""Records of unfinished attempts at a chunk, which tell which image kills the process that works on it."""

from __future__ import annotations

import json
from typing import Any

from instancefcn.bulk.storage import Folder
from instancefcn.errors import ConfigError

ATTEMPTS_FOLDER = "attempts"
MAX_DEATHS = 2
"""An image is at fault when this many processes died while it was alone in them: a machine that is taken away
does not hit the same image twice.
"""
MAX_AT_FAULT = 8
"""Images of one chunk. When more kill their process, the machine is the likely cause."""


class AttemptLog:
    """A file beside the results that exists while a chunk is in progress.

    The first attempt records only that it has begun. A later attempt that finds this record works on one
    image at a time, and records each before it starts on it.

    Args:
        out: the job's folder.
        chunk: index of the chunk.

    Raises:
        ConfigError: more than MAX_AT_FAULT images have killed their process.
    """

    def __init__(self, out: Folder, chunk: int) -> None:
        self.out, self.name = out, f"{ATTEMPTS_FOLDER}/{chunk:06d}.json"
        record = self._read()
        self.interrupted: int = record.get("begun", 0)
        """How many earlier attempts did not finish."""
        self.deaths: dict[int, int] = {int(image): n for image, n in record.get("deaths", {}).items()}
        if (last := record.get("at")) is not None:
            self.deaths[last] = self.deaths.get(last, 0) + 1
        if len(self.at_fault) > MAX_AT_FAULT:
            raise ConfigError(
                f"chunk {chunk}: {len(self.at_fault)} of its images have each killed their process"
                f" {MAX_DEATHS} times. More likely a worker has too little memory, or its machine is faulty"
            )
        self._write(self.interrupted + 1, None)

    @property
    def at_fault(self) -> set[int]:
        """Images to skip."""
        return {image for image, deaths in self.deaths.items() if deaths >= MAX_DEATHS}

    def start(self, image: int) -> None:
        """Record that this image, alone, is next."""
        self._write(self.interrupted + 1, image)

    def close(self) -> None:
        """Delete the record: the chunk is done."""
        self.out.delete(self.name)

    def _read(self) -> dict[str, Any]:
        if not self.out.exists(self.name):
            return {}
        return dict(json.loads(self.out.read(self.name)))

    def _write(self, begun: int, at: int | None) -> None:
        record = {"begun": begun, "at": at, "deaths": self.deaths}
        self.out.write(self.name, json.dumps(record).encode())
