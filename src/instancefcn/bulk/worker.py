"""A chunk of images in, its two result files out: what each actor does, without Ray. A record of unfinished
attempts tells which image kills the process that works on it.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from instancefcn.bulk.job import MODEL, Job
from instancefcn.bulk.reading import ChunkReader, Entry, FetchError
from instancefcn.bulk.shards import (
    ATTEMPTS_FOLDER,
    Identity,
    ImageOutcome,
    outcome_of,
    read_counts,
    write_chunk,
)
from instancefcn.bulk.storage import Folder
from instancefcn.errors import ConfigError, InstanceFCNError
from instancefcn.inference.predictor import FileResult, Predictor, load
from instancefcn.inference.threaded_map import threaded_map

AHEAD = 4
"""Images that are read ahead of the network, and encoded behind it; with large batches more."""
MAX_DEATHS = 2
"""An image is at fault when this many processes died while it was alone in them: a machine that is taken away
does not hit the same image twice.
"""
MAX_AT_FAULT = 8
"""Images of one chunk. When more kill their process, the machine is the likely cause."""


@dataclass(frozen=True)
class Resources:
    """What one worker uses; none of it changes results.

    Attributes:
        threads: on the CPU.
        device: a torch device.
        batch: images of the same size that run at once.
    """

    threads: int = 1
    device: str = "cpu"
    batch: int = 1


OpenModel = Callable[[Folder, str, str], Predictor]
"""Makes the predictor from the job's folder, a device and a precision."""


def open_model(out: Folder, device: str, precision: str) -> Predictor:
    """Load the model from the job's folder."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / MODEL
        path.write_bytes(out.read(MODEL))
        return load(path, device=device, precision=precision)


class ChunkWorker:
    """Holds the model and processes one chunk after another.

    Args:
        job: the job; each call names the chunks.
        resources: what this worker may use.
        open_model: makes the predictor; tests and benchmarks give another function.
    """

    def __init__(self, job: Job, resources: Resources, open_model: OpenModel = open_model) -> None:
        torch.set_num_threads(resources.threads)
        self.job, self.resources = job, resources
        self.out = Folder(job.out)
        self.reader = ChunkReader(self.out, job.sources, job.chunk)
        self.predictor = open_model(self.out, resources.device, job.precision)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """As Ray Data calls it: a batch of chunks in, one row per chunk out. A row is what `do` returns, and
        "fault", the message of what it raised or "": Ray would pass an exception on as text with a traceback.
        """
        rows = [self._row(int(chunk)) for chunk in batch["chunk"]]
        return {key: [row[key] for row in rows] for key in rows[0]}

    def do(self, chunk: int) -> dict[str, float]:
        """Process one chunk, unless its files exist.

        Returns:
            "chunk", the numbers of "images", "instances" and "errors", how many earlier attempts were
            "interrupted", and "seconds".

        Raises:
            InstanceFCNError: no image of the chunk could be fetched and segmented, so the worker is the
                likely cause; or results cannot be written.
        """
        start = time.perf_counter()
        counts, interrupted = read_counts(self.out, chunk), 0
        if counts is None:
            attempts = AttemptLog(self.out, chunk)
            interrupted = attempts.interrupted
            counts = write_chunk(self.out, chunk, self._rows(chunk, attempts))
            attempts.close()
        return {"chunk": chunk, **counts, "interrupted": interrupted, "seconds": time.perf_counter() - start}

    def _row(self, chunk: int) -> dict[str, Any]:
        try:
            return {**self.do(chunk), "fault": ""}
        except InstanceFCNError as fault:
            nothing = dict.fromkeys(("images", "instances", "errors", "interrupted"), 0)
            return {"chunk": chunk, **nothing, "seconds": 0.0, "fault": str(fault)}

    def _rows(self, chunk: int, attempts: AttemptLog) -> list[tuple[Identity, ImageOutcome]]:
        if attempts.interrupted:
            rows = list(self._one_by_one(chunk, attempts))
        else:
            try:
                rows = self._together(chunk)
            except InstanceFCNError:
                raise
            except Exception:  # from the network: one by one shows which image causes it
                rows = list(self._one_by_one(chunk, None))
        doubtful = [found.error for _, found in rows if found.doubtful]
        if len(doubtful) > 1 and all(found.size is None for _, found in rows):
            raise InstanceFCNError(
                f"chunk {chunk}: none of its {len(rows)} images could be processed, and {len(doubtful)} of"
                f" them are probably not the cause. The first: {doubtful[0]}"
            )
        return rows

    def _together(self, chunk: int) -> list[tuple[Identity, ImageOutcome]]:
        """In batches, reading ahead of the network and encoding behind it."""
        identities: list[Identity] = []

        def noted() -> Iterator[Entry]:
            for entry in self.reader.entries(chunk):
                identities.append(entry.identity)
                yield entry

        ahead = max(AHEAD, 2 * self.resources.batch)
        with (
            closing(threaded_map(self.reader.read, noted(), ahead)) as read,
            closing(
                threaded_map(_found, self._segment(read, self.resources.batch), ahead, threads=1)
            ) as found,
        ):
            encoded = list(found)
        return list(zip(identities, encoded, strict=True))

    def _one_by_one(self, chunk: int, attempts: AttemptLog | None) -> Iterator[tuple[Identity, ImageOutcome]]:
        """Each image alone, so that one at fault is known by its index."""
        for entry in self.reader.entries(chunk):
            identity = entry.identity
            if attempts is not None and identity.image in attempts.at_fault:
                deaths = attempts.deaths[identity.image]
                yield (
                    identity,
                    ImageOutcome(f"{identity.file}: the process died {deaths} times while working on it"),
                )
                continue
            if attempts is not None:
                attempts.start(identity.image)
            yield identity, self._alone(entry)

    def _alone(self, entry: Entry) -> ImageOutcome:
        try:
            (result,) = self._segment([self.reader.read(entry)], 1)
            return _found(result)
        except InstanceFCNError:
            raise
        except Exception as error:
            said = f"{entry.identity.file}: the network failed ({type(error).__name__}: {error})"
            if _lost(self.predictor.device):
                # This process cannot use its GPU any more; the next one finds the record of this attempt.
                print(said, file=sys.stderr, flush=True)
                os._exit(1)
            return ImageOutcome(said, doubtful=True)

    def _segment(self, read: Iterable[FileResult], batch: int) -> Iterator[FileResult]:
        job = self.job
        return self.predictor.decoded(
            read, score=job.score, batch_size=batch, tile=job.tile, max_objects=job.max_objects
        )


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


def _found(result: FileResult) -> ImageOutcome:
    if result.instances is None:
        return ImageOutcome(str(result.error), doubtful=isinstance(result.error, FetchError))
    return outcome_of(result.instances)


def _lost(device: torch.device) -> bool:
    """Whether a device cannot compute any more, like a GPU after an illegal access."""
    try:
        return float(torch.ones(1, device=device).sum()) != 1
    except RuntimeError:
        return True
